"""NanoBEIR through sentence-transformers' evaluator, over a local copy in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import InputError
from runoff.evaluate.nanobeir import SETS, nanobeir

CORPUS = {"d1": "apples are red", "d2": "pears are green", "d3": "boats float", "d4": "red boats"}
QUERIES = {"q1": "red apples", "q2": "boats"}
QRELS = [("q1", "d1"), ("q2", "d3"), ("q2", "d4")]
BM25 = {"q1": ["d4", "d1"], "q2": ["d3", "d2"]}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Two of the sets: configurations corpus, queries, qrels and bm25, a split for each set."""
    parts = {
        "corpus": [{"_id": id, "text": text} for id, text in CORPUS.items()],
        "queries": [{"_id": id, "text": text} for id, text in QUERIES.items()],
        "qrels": [{"query-id": query, "corpus-id": document} for query, document in QRELS],
        "bm25": [{"query-id": query, "corpus-ids": found} for query, found in BM25.items()],
    }
    folder = tmp_path / "NanoBEIR"
    lines = ["---", "configs:"]
    for name, records in parts.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in ("NanoMSMARCO", "NanoNQ"):
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            lines += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def test_figures_are_ndcg_over_bm25_s_list_and_missed_positives_stay_missed(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    evaluate = nanobeir(str(copy), ["msmarco", "nq"])
    wanted = {("red apples", CORPUS["d1"]): 2.0, ("boats", CORPUS["d3"]): 1.0}
    figures = evaluate(lambda pairs: np.array([wanted.get(pair, 0.0) for pair in pairs], np.float32))
    # Both have their answer first. That q2's other answer is not in the list costs nothing: the evaluator's ideal order
    # is of what BM25 found.
    assert figures["ndcg@10"] == pytest.approx(1.0, abs=1e-6)
    assert set(figures) == {"ndcg@10", "NanoMSMARCO_ndcg@10", "NanoNQ_ndcg@10"}
    worse = evaluate(lambda pairs: np.array([-wanted.get(pair, 0.0) for pair in pairs], np.float32))
    assert worse["ndcg@10"] == pytest.approx(1 / np.log2(3), abs=1e-6)


def test_all_thirteen_sets_are_meant_by_default():
    assert len(SETS) == 13
    assert {"arguana", "touche2020"} <= set(SETS)


def test_a_copy_that_is_not_there_is_refused_with_what_else_there_is(tmp_path):
    with pytest.raises(InputError, match=r"cannot be reached.*--evaluate held-out"):
        nanobeir(str(tmp_path / "none"))
