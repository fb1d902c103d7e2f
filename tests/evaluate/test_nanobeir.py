"""NanoBEIR through sentence-transformers' evaluator, over a local copy in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.contracts import InputError
from runoff.evaluate.nanobeir import SETS, PairModel, Reranked, nanobeir, nanobeir_evaluator
from standin_nanobeir import CORPUS, nanobeir_folder

WANTED = {("red apples", CORPUS["d1"]): 2.0, ("boats", CORPUS["d3"]): 1.0}


def perfect(pairs: Any) -> Any:
    return np.array([WANTED.get(tuple(pair), 0.0) for pair in pairs], np.float32)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return nanobeir_folder(tmp_path / "NanoBEIR")


def test_figures_are_ndcg_over_bm25_s_list_and_missed_positives_stay_missed(copy):
    evaluate = nanobeir(str(copy), ["msmarco", "nq"])
    figures = evaluate(perfect)
    # q1 and q2 have their answer first, q3's is not in the list. That q2's other answer is not there costs nothing: the
    # evaluator's ideal order is of what BM25 found.
    assert figures["ndcg@10"] == pytest.approx(2 / 3, abs=1e-6)
    assert set(figures) == {"ndcg@10", "NanoMSMARCO_ndcg@10", "NanoNQ_ndcg@10"}
    worse = evaluate(lambda pairs: -perfect(pairs))
    assert worse["ndcg@10"] == pytest.approx(2 / 3 / np.log2(3), abs=1e-6)


@pytest.mark.parametrize("adds_positives", [False, True])
def test_names_and_figures_are_those_of_sentence_transformers(copy, tiny, adds_positives):
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderNanoBEIREvaluator

    theirs = CrossEncoderNanoBEIREvaluator(
        ["msmarco", "nq"], str(copy), always_rerank_positives=adds_positives, write_csv=False
    )
    model = CrossEncoder(tiny("bert"), precision="fp32")
    wanted = theirs(_WithCard(model))
    found = nanobeir_evaluator(Reranked(str(copy), ["msmarco", "nq"], adds_positives=adds_positives))(model)
    assert {"NanoMSMARCO_R100_ndcg@10", "NanoNQ_R100_base_map", "NanoBEIR_R100_mean_mrr@10"} <= wanted.keys()
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    added = found.keys() - wanted.keys()
    assert len(added) == 3 * 4
    assert all("honest_" in name for name in added)


class _WithCard(PairModel):
    def __init__(self, model: CrossEncoder) -> None:
        super().__init__(model.predict)
        self.model_card_data = self

    def set_evaluation_metrics(self, *figures: Any) -> None: ...


@pytest.mark.parametrize("adds_positives", [False, True])
def test_honest_figures_miss_what_bm25_missed(copy, adds_positives):
    evaluator = nanobeir_evaluator(Reranked(str(copy), ["msmarco"], adds_positives=adds_positives))
    found = evaluator(PairModel(perfect))
    # q1: 1. q2: one of two answers, first: 1 / (1 + 1/log2(3)). q3: nothing to find.
    ideal = 1 + 1 / np.log2(3)
    assert found["NanoMSMARCO_R100_honest_ndcg@10"] == pytest.approx((1 + 1 / ideal) / 3, abs=1e-6)
    assert found["NanoMSMARCO_R100_honest_map"] == pytest.approx((1 + 1 / 2) / 3, abs=1e-6)
    second = 1 / np.log2(3)
    assert found["NanoBEIR_R100_mean_base_honest_ndcg@10"] == pytest.approx(
        (second + second / ideal) / 3, abs=1e-6
    )


def test_it_is_an_evaluator_for_the_trainer_and_writes_files_only_if_asked(copy, tmp_path):
    from sentence_transformers.base.evaluation import BaseEvaluator

    silent = nanobeir_evaluator(Reranked(str(copy), ["nq"]))
    assert isinstance(silent, BaseEvaluator)
    assert silent.primary_metric == "NanoBEIR_R100_mean_ndcg@10"
    figures = silent(PairModel(perfect), output_path=str(tmp_path / "silent"), epoch=1, steps=2)
    assert silent.primary_metric in figures
    assert not (tmp_path / "silent").exists()
    nanobeir_evaluator(Reranked(str(copy), ["nq"], csv=True))(PairModel(perfect), str(tmp_path / "told"))
    assert (tmp_path / "told" / "NanoBEIR_evaluation_mean_results.csv").is_file()


def test_batch_size_and_depth_reach_the_model(copy):
    class Watched:
        def __init__(self) -> None:
            self.asked: list[tuple[int, int]] = []

        def predict(self, pairs: Any, *, batch_size: int, **_options: Any) -> Any:
            self.asked.append((len(pairs), batch_size))
            return perfect(pairs)

    model = Watched()
    found = nanobeir_evaluator(Reranked(str(copy), ["nq"], depth=1, batch_size=7))(model)
    assert model.asked == []  # the best document of each query alone is no answer to any
    assert found["NanoBEIR_R1_mean_ndcg@10"] == 0.0
    nanobeir_evaluator(Reranked(str(copy), ["nq"], batch_size=7))(model)
    assert model.asked == [(4, 7)]


def test_all_thirteen_sets_are_meant_by_default():
    assert len(SETS) == 13
    assert {"arguana", "touche2020"} <= set(SETS)


def test_a_copy_that_is_not_there_is_refused_with_what_else_there_is(tmp_path):
    with pytest.raises(InputError, match=r"cannot be reached.*--evaluate held-out"):
        nanobeir(str(tmp_path / "none"))
