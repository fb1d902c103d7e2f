"""Datasets of the hub: which files a configuration has, fetched one by one, and what a refusal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.hf_api import DatasetInfo

from runoff.checkpoint.hub import HubDatasets, _configs
from runoff.contracts import InputError
from runoff.data.mixture import Mixture, Subset
from runoff.distill.mix import mix
from standin_mixture import DATASET, many_rows, write_dataset

pytest.importorskip("pyarrow")

Calls = list[tuple[str, str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    configs = {"a": {"train": [many_rows(6), many_rows(4, "more")]}, "b": {"train": [many_rows(5, "b")]}}
    return write_dataset(tmp_path / "hub", configs)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Has huggingface_hub serve `folder`: what was asked of it."""
    calls: Calls = []

    def dataset_info(self: object, repo_id: str, *, revision: str | None = None) -> DatasetInfo:
        calls.append(("list", repo_id, revision))
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return DatasetInfo(
            id=repo_id,
            sha="c0ffee",
            siblings=[{"rfilename": file} for file in files],
            cardData=huggingface_hub.metadata_load(folder / "README.md"),
            private=False,
            disabled=False,
            downloads=0,
            likes=0,
            tags=[],
        )

    def hf_hub_download(repo_id: str, file: str, *, repo_type: str, revision: str, token: Any) -> str:
        assert repo_type == "dataset"
        calls.append(("fetch", file, revision))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return calls


def test_the_card_says_which_files_a_configuration_has(hub: Calls, folder: Path) -> None:
    datasets = HubDatasets()
    listing = datasets.listing(DATASET, None)
    assert (listing.commit, listing.licence) == ("c0ffee", "apache-2.0")
    assert listing.configs == {
        "a": {"train": ["a/train-00000-of-00002.parquet", "a/train-00001-of-00002.parquet"]},
        "b": {"train": ["b/train-00000-of-00001.parquet"]},
    }
    assert datasets.listing(DATASET, None) is listing  # asked once
    assert hub == [("list", DATASET, None)]
    copy = HubDatasets({DATASET: folder}).listing(DATASET, None)
    assert (copy.commit, copy.configs, copy.licence) == (None, listing.configs, "apache-2.0")


def test_a_mixture_fetches_each_subset_s_files_of_one_commit(hub: Calls, tmp_path: Path) -> None:
    mixture = Mixture("ours", tuple(Subset(name, dataset=DATASET, revision="v1") for name in ("a", "b")))
    report = mix(mixture, tmp_path / "out", HubDatasets())
    assert [(each.name, each.taken, each.licence) for each in report.subsets] == [
        ("a", 10, "apache-2.0"),
        ("b", 5, "apache-2.0"),
    ]
    fetched = [
        "a/train-00000-of-00002.parquet",
        "a/train-00001-of-00002.parquet",
        "b/train-00000-of-00001.parquet",
    ]
    assert [call for call in hub if call[0] == "fetch"] == [("fetch", file, "c0ffee") for file in fetched]
    assert [call for call in hub if call[0] == "list"] == [
        ("list", DATASET, "v1"),
        ("list", DATASET, "c0ffee"),
    ]
    hub.clear()
    assert mix(mixture, tmp_path / "out", HubDatasets()) == report
    assert hub == []  # finished subsets of a commit need no hub


STATED: list[tuple[Any, dict[str, dict[str, list[str]]]]] = [
    # A card without configurations: a folder is one, and a file's name says its split.
    (
        None,
        {
            "a": {"train": ["a/train-0.parquet"], "validation": ["a/validation-0.parquet"]},
            "default": {"test": ["data/test.jsonl"], "train": ["rows.csv"]},
        },
    ),
    (
        [{"config_name": "x", "data_files": "a/*"}],
        {"x": {"train": ["a/train-0.parquet", "a/validation-0.parquet"]}},
    ),
    ([{"config_name": "x", "data_files": "*.csv"}], {"x": {"train": ["rows.csv"]}}),
    (
        [{"config_name": "x", "data_files": [{"split": "test", "path": ["data/*", "rows.*"]}]}],
        {"x": {"test": ["data/test.jsonl", "rows.csv"]}},
    ),
    (
        [{"config_name": "x", "data_files": "**/train-*"}],
        {"x": {"train": ["a/train-0.parquet"]}},
    ),
    ([{"config_name": "data"}], {"data": {"train": ["data/test.jsonl"]}}),
]


@pytest.mark.parametrize(("stated", "found"), STATED)
def test_configurations_are_read_as_cards_state_them(
    stated: Any, found: dict[str, dict[str, list[str]]]
) -> None:
    files = ["a/train-0.parquet", "a/validation-0.parquet", "data/test.jsonl", "rows.csv", "README.md"]
    assert _configs(files, stated) == found


def http_error(kind: Callable[..., Exception]) -> Exception:
    import importlib

    http = importlib.import_module(errors.Response.__module__.split(".")[0])
    return kind("refused", response=http.Response(403, request=http.Request("GET", "http://127.0.0.1")))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(errors.GatedRepoError), "the dataset org/mixed at revision 'v2' is gated"),
        (http_error(errors.RepositoryNotFoundError), "no dataset org/mixed .*a private dataset needs token="),
        (
            errors.OfflineModeIsEnabled("offline"),
            "cannot be reached .*hf download org/mixed .*--copy org/mixed=FOLDER",
        ),
        (http_error(errors.HfHubHTTPError), "could not be fetched: refused"),
        (OSError(28, "No space left on device"), "could not be fetched: .*No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match=message):
        HubDatasets().listing(DATASET, "v2")
    with pytest.raises(InputError, match=message):
        HubDatasets().fetch(DATASET, "a/train-0.parquet", "v2")


def test_a_hub_that_is_out_of_reach_says_how_to_go_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"offline mode is on: HF_HUB_OFFLINE.*--copy org/mixed=FOLDER"):
        HubDatasets().listing(DATASET, None)
    with pytest.raises(InputError, match=r"no folder .*nowhere; expected the copy of the dataset org/mixed"):
        HubDatasets({DATASET: tmp_path / "nowhere"})
