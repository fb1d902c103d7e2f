"""The one order: raw score descending, then lower index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runoff.contracts import InputError, ScoreError
from runoff.ranking import check_finite, rank_scores, spearman

# Few distinct values, so that ties are common.
tied_scores = st.lists(st.sampled_from([-1.5, -0.0, 0.0, 2.0, 7.25]), max_size=30)


def test_the_best_score_comes_first():
    ranked = rank_scores([0.5, 9.0, -3.0])
    assert ranked.rows.tolist() == [1, 0, 2]
    assert ranked.scores.tolist() == [9.0, 0.5, -3.0]


def test_tied_scores_keep_input_order():
    assert rank_scores([1.0, 2.0, 1.0, 2.0, 1.0]).rows.tolist() == [1, 3, 0, 2, 4]


def test_the_sign_of_zero_breaks_no_tie():
    assert rank_scores([-0.0, 0.0, -0.0]).rows.tolist() == [0, 1, 2]


@given(tied_scores, st.none() | st.integers(0, 40))
def test_any_scores_rank_as_a_sort_by_score_then_index_does(scores, top_k):
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:top_k]
    ranked = rank_scores(scores, top_k)
    assert ranked.rows.tolist() == expected
    assert ranked.scores.tolist() == [scores[row] for row in expected]


@pytest.mark.parametrize(("top_k", "rows"), [(None, [2, 0, 1]), (0, []), (2, [2, 0]), (9, [2, 0, 1])])
def test_top_k_takes_at_most_that_many(top_k, rows):
    assert rank_scores([2.0, 1.0, 3.0], top_k).rows.tolist() == rows


def test_a_negative_top_k_is_refused():
    with pytest.raises(InputError, match="got -1"):
        rank_scores([1.0], top_k=-1)


def test_no_scores_give_an_empty_order():
    ranked = rank_scores(np.empty(0, np.float32))
    assert ranked.rows.tolist() == [] == ranked.scores.tolist()


def test_scores_keep_their_precision():
    assert rank_scores(np.array([1, 2], np.float32)).scores.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_its_row(bad):
    with pytest.raises(ScoreError, match="1 of 3 scores are not finite; the first is row 1"):
        rank_scores([0.0, bad, 1.0])


def test_one_bad_label_makes_the_whole_row_bad():
    with pytest.raises(ScoreError, match=r"2 of 3 .* row 0"):
        check_finite(np.array([[0.0, np.nan], [1.0, 1.0], [np.nan, np.nan]]))
    check_finite(np.ones((3, 2)))
    check_finite(np.empty((0, 2)))


def test_scores_with_labels_have_no_order():
    with pytest.raises(InputError, match=r"shape \[2, 3\]"):
        rank_scores(np.zeros((2, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_that_of_scipy_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=30).round(1), draw.normal(size=30).round(0)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert np.isnan(spearman(first, np.ones(30)))
    assert np.isnan(spearman([], []))
