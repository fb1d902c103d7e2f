"""`runoff pick`: a recommendation with its evidence, kept scores, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standin_judged import judged_folder

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return judged_folder(tmp_path / "house")


def test_each_model_precision_and_depth_is_tried(shell: Shell, tiny: Tiny, judged: Path) -> None:
    words = ("pick", judged, "--budget-ms", 60000, "--model", tiny("bert"), "--depths", 2, 4, "--out", "out")
    lines = shell(*words, "--precisions", "fp32", "bf16", "--json").json_lines
    assert len(lines) == 1 + 2 * 2 * 2
    assert {line["model"] for line in lines} == {None, "bert fp32", "bert bf16"}
    assert sum(line["is_best"] for line in lines) == sum(line["is_cheapest"] for line in lines) == 1
    best = next(line for line in lines if line["is_best"])
    assert best["ndcg_at_10"] == max(line["ndcg_at_10"] for line in lines)
    assert {path.name for path in Path("out/house/scores").glob("*.trec")} == {
        "bert-fp32.trec",
        "bert-bf16.trec",
    }
    before = Path("out/house/scores/bert-fp32.trec").read_bytes()
    answer = shell(*words, "--precisions", "fp32")
    assert Path("out/house/scores/bert-fp32.trec").read_bytes() == before
    assert "house  3 queries, candidates by bm25" in answer.out
    assert "bert fp32, top 4, fused" in answer.out
    assert "Take " in answer.out


def test_nothing_fits_a_budget_of_almost_nothing(shell: Shell, tiny: Tiny, judged: Path) -> None:
    answer = shell("pick", judged, "--budget-ms", 1e-6, "--model", tiny("bert"), "--precisions", "fp32")
    assert "Take the retriever alone" in answer.out
    assert "over the budget" in answer.out


def test_what_cannot_be_picked_from_is_refused(shell: Shell, tiny: Tiny, judged: Path) -> None:
    model = ("--model", tiny("bert"))
    shell("pick", judged, "--budget-ms", 0, *model).check_refused(2, "above 0 as --budget-ms, got 0")
    shell("pick", "nowhere", "--budget-ms", 5, *model).check_refused(2, "expected a judged set at nowhere")
    shell("pick", judged / "qrels" / "test.tsv", "--budget-ms", 5).check_refused(2, "nothing can be reranked")
    shell("pick", judged, "--budget-ms", 5, *model, *model).check_refused(2, "given twice")
