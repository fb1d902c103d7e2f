"""Figures of held-out queries, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from runoff.distill.held_out import HeldOut
from runoff.distill.rows import checked_rows
from runoff.ranking import spearman
from standin_distil import labelled


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipy_s_also_with_ties(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_a_constant_list_has_no_rank_correlation():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_the_pairs_are_those_of_the_queries_over_shards(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 50, 4, shard_queries=7))
    held = HeldOut(rows, np.array([0, 6, 7, 33, 49]))
    assert len(held.pairs) == 20
    assert held.edges == [0, 4, 8, 12, 16, 20]
    assert held.judged.tolist() == [True, False, False, False] * 5
    assert [query for query, _ in held.pairs[::4]] == [held.pairs[i][0] for i in range(3, 20, 4)]


def test_labels_as_scores_are_perfect_and_their_opposite_the_worst(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 20, 6))
    held = HeldOut(rows, np.arange(20))
    best = held(lambda _: held.labels.astype(np.float32))
    assert best == {"loss": 0.0, "spearman": pytest.approx(1.0), "mrr": 1.0}
    worst = held(lambda _: -held.labels.astype(np.float32))
    assert worst["spearman"] == pytest.approx(-1.0)
    assert worst["mrr"] == pytest.approx(1 / 6)


def test_scores_that_are_no_numbers_stand_behind_all_others(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 5, 4))
    held = HeldOut(rows, np.arange(5))
    figures = held(lambda pairs: np.full(len(pairs), np.nan, np.float32))
    assert (figures["mrr"], figures["spearman"]) == (pytest.approx(1 / 4), 0.0)


def test_an_answer_that_ties_stands_behind_what_it_ties_with(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 5, 4))
    held = HeldOut(rows, np.arange(5))
    figures = held(lambda pairs: np.zeros(len(pairs), np.float32))
    assert figures["mrr"] == pytest.approx(1 / 4)
    assert figures["spearman"] == 0.0
