"""`runoff mix`: a file that names subsets becomes rows to train on, and each mistake is told in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff.data.shards import Shards
from standin_mixture import DATASET, many_rows, write_dataset, write_mixture, write_parquet

pytest.importorskip("pyarrow")

Shell = Callable[..., Any]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """ours.json: a folder of 30 rows and a dataset of which the folder `copy` is a copy."""
    write_parquet(tmp_path / "a" / "rows.parquet", many_rows(30))
    write_dataset(tmp_path / "copy", {"b": {"train": [many_rows(12, "b")]}})
    subsets = [
        {"name": "a", "folder": "a", "cap": 10, "weight": 2, "licence": "mit"},
        {"name": "b", "dataset": DATASET, "held_out": 4},
    ]
    return write_mixture(tmp_path / "ours.json", subsets)


def test_a_mixture_is_written_and_told(shell: Shell, ours: Path) -> None:
    words = ("mix", "ours.json", "rows", "--copy", f"{DATASET}=copy")
    facts = shell(*words, "--json").json
    assert (facts["mixture"], facts["seed"], facts["pairs"], facts["held_out"]) == ("ours", 12, 28, 4)
    assert facts["subsets"] == [
        {"name": "a", "seen": 30, "taken": 20, "held_out": 0, "licence": "mit"},
        {"name": "b", "seen": 12, "taken": 8, "held_out": 4, "licence": "apache-2.0"},
    ]
    assert sum(batch.num_rows for _, batch in Shards("rows", "labels").batches(["subset"])) == 28
    said = shell(*words).out
    for words_said in ("subset", "taken", "apache-2.0", "28 of 2 subsets", "4, in rows/held-out", "mean"):
        assert words_said in said
    few = shell("sample", "rows", "few", "--head", 1, "--medium", 0, "--json").json
    assert (few["rows_before"], few["rows"]) == (28, 28)


def test_some_subsets_and_another_seed(shell: Shell, ours: Path) -> None:
    drawn = []
    for seed in (1, 2):
        facts = shell("mix", "ours.json", f"rows{seed}", "--only", "a", "--seed", seed, "--json").json
        assert (facts["pairs"], facts["seed"]) == (20, seed)
        drawn.append(
            {
                id
                for _, batch in Shards(f"rows{seed}", "labels").batches()
                for id in batch["document_id"].to_pylist()
            }
        )
    assert drawn[0] != drawn[1]
    refused = shell("mix", "ours.json", "rows1", "--only", "a", "--seed", 3)
    refused.check_refused(
        2, "rows1 was begun with mixture", "Give the same again to go on, or another folder"
    )


def test_the_subsets_are_listed_without_reading_them(shell: Shell) -> None:
    listed = shell("mix", "ettin-v1", "--list", "--json").json
    assert (listed["name"], len(listed["subsets"])) == ("ettin-v1", 39)
    Path("again.json").write_text(json.dumps(listed), encoding="utf-8")
    assert shell("mix", "again.json", "--list", "--json").json == listed
    said = shell("mix", "ettin-v1", "--list").out
    assert "39 subsets" in said
    (quora,) = [line for line in said.splitlines() if line.strip().startswith("quora ")]
    assert "5,000" in quora
    assert "apache-2.0" in quora


def test_mistakes_are_told_in_a_line(shell: Shell, ours: Path) -> None:
    shell("mix", "ours.json").check_refused(2, "expected OUT, the folder to write")
    shell("mix", "etin-v1", "x").check_refused(2, "ending in .toml or .json, or ettin-v1; got etin-v1")
    shell("mix", "ours.json", "x", "--only", "aa").check_refused(2, "no subset 'aa'; did you mean a?")
    shell("mix", "ours.json", "x", "--copy", "copy").check_refused(2, "expected DATASET=FOLDER, got 'copy'")
    shell("mix", "ours.json", "x", "--copy", "org/x=nowhere").check_refused(2, "no folder nowhere")
    assert not Path("x").exists()
    shell("mix", "ours.json", "x", "--only", "b").check_refused(
        2, "subset b: the dataset org/mixed", "HF_HUB_OFFLINE", "--copy org/mixed=FOLDER"
    )
    shell("mix", "ettin-v1", "y").check_refused(2, "cross-encoder/ettin-reranker-v1-data", "--copy")
    assert not Path("y").exists()
