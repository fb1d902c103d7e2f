"""`runoff judge nanobeir`: figures by sentence-transformers' names, files and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff import CrossEncoder
from runoff.evaluate.nanobeir import Reranked, nanobeir_evaluator
from standin_nanobeir import nanobeir_folder

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return nanobeir_folder(tmp_path / "NanoBEIR")


def test_the_figures_are_those_of_python(shell: Shell, tiny: Tiny, dataset: Path) -> None:
    words = ("judge", "nanobeir", "--dataset", dataset, "--set", "msmarco", "nq", "--model", tiny("bert"))
    (line,) = shell(*words, "--precision", "fp32", "--out", "out.jsonl", "--json").json_lines
    assert json.loads(Path("out.jsonl").read_text()) == line
    model = CrossEncoder(tiny("bert"), precision="fp32")
    wanted = nanobeir_evaluator(Reranked(str(dataset), ["msmarco", "nq"]))(model)
    assert {name: line[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert line["command"] == (
        "runoff judge nanobeir --model bert --dataset NanoBEIR --set msmarco nq --depth 100 --precision fp32"
    )
    assert (line["model"], line["precision"]) == ("bert", "fp32")


def test_for_a_person_there_is_a_table_with_both_kinds_of_figures(
    shell: Shell, tiny: Tiny, dataset: Path
) -> None:
    words = ("judge", "nanobeir", "--dataset", dataset, "--set", "msmarco", "nq", "--model", tiny("bert"))
    answer = shell(*words, "--csv", "figures")
    assert (answer.code, answer.err) == (0, "")
    for said in ("bert  NDCG@10 over BM25's best 100", "model, honest", "NanoMSMARCO", "mean of 2"):
        assert said in answer.out
    assert Path("figures/bert/NanoBEIR_evaluation_mean_results.csv").is_file()


def test_what_cannot_be_judged_is_refused(shell: Shell, tiny: Tiny, dataset: Path) -> None:
    judge = ("judge", "nanobeir", "--model", tiny("bert"))
    shell(*judge, "--dataset", dataset, "--set", "moon").check_refused(
        2, "no set moon", "it has climatefever"
    )
    shell(*judge, "--dataset", dataset).check_refused(2, "expected NanoBEIR at", "cannot be reached")
    shell(*judge, "--out", "no/where.jsonl").check_refused(2, "--out", "no/where.jsonl")


def test_a_folder_of_that_name_is_a_judged_set(shell: Shell) -> None:
    shell("judge", "./nanobeir").check_refused(2, "nanobeir", "corpus.jsonl")
