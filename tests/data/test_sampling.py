"""Sampling rules: what is always taken, how the rest spreads, and the guard against hidden answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.contracts import InputError
from runoff.data.sampling import AnchorRule, BandRule, Guard, head_and_band, quantile_anchors


def drawn(count: int, positives: int, seed: int = 0) -> tuple[Any, Any]:
    """Scores in no order, and some positives among them."""
    rng = np.random.default_rng([seed, count, positives])
    judged = np.zeros(count, bool)
    judged[rng.permutation(count)[:positives]] = True
    return rng.standard_normal(count), judged


# --- quantile anchors --------------------------------------------------------------------------------------


def test_256_of_2048_are_the_positives_the_hardest_and_a_stratified_rest() -> None:
    scores, judged = drawn(2048, 3)
    rows = quantile_anchors(scores, judged, AnchorRule())
    assert len(rows) == len(set(rows.tolist())) == 256
    assert set(np.flatnonzero(judged)) <= set(rows)
    negatives = np.flatnonzero(~judged)
    order = negatives[np.argsort(-scores[negatives])]
    assert set(order[:16]) <= set(rows)
    # 237 strata over 2,029 rows: one row of each, so each tenth of the order has a tenth of them, but for one.
    taken = np.isin(order[16:], rows)
    assert taken.sum() == 237
    for stratum in np.array_split(taken, 10):
        assert abs(stratum.sum() - 23.7) <= 1.7


def test_the_draw_depends_on_the_query_and_the_seed_alone() -> None:
    scores, judged = drawn(2048, 3)
    rows = quantile_anchors(scores, judged, AnchorRule(), query=5)
    np.testing.assert_array_equal(rows, quantile_anchors(scores, judged, AnchorRule(), query=5))
    assert rows.tolist() != quantile_anchors(scores, judged, AnchorRule(), query=6).tolist()
    assert rows.tolist() != quantile_anchors(scores, judged, AnchorRule(seed=13), query=5).tolist()


@given(
    count=st.integers(0, 400),
    positives=st.integers(0, 400),
    total=st.integers(1, 300),
    hardest=st.integers(0, 300),
    seed=st.integers(0, 50),
)
@settings(deadline=None, max_examples=150)
def test_anchors_hold_what_was_promised_for_any_sizes(
    count: int, positives: int, total: int, hardest: int, seed: int
) -> None:
    positives, hardest = min(positives, count), min(hardest, total)
    scores, judged = drawn(count, positives, seed)
    rows = quantile_anchors(scores, judged, AnchorRule(total, hardest), seed)
    assert len(rows) == min(count, max(total, positives))
    assert (np.diff(rows) > 0).all()
    assert judged[rows].sum() == positives
    others = np.sort(scores[~judged])[::-1]
    sure = min(hardest, max(total - positives, 0))
    assert set(others[:sure].tolist()) <= set(scores[rows].tolist())


# --- head and band -----------------------------------------------------------------------------------------


def test_64_of_256_are_the_head_and_a_band_further_down() -> None:
    scores, judged = drawn(256, 2)
    rows = head_and_band(scores, judged, BandRule())
    order = sorted(range(256), key=lambda row: (not judged[row], -scores[row]))
    places = sorted(order.index(row) for row in rows)
    assert places[:32] == list(range(32))
    assert len(places) == 64
    assert all(64 <= place < 192 for place in places[32:])


def test_a_narrow_band_takes_its_neighbours() -> None:
    scores, judged = drawn(100, 0)
    rows = head_and_band(scores, judged, BandRule(head=10, medium=20, band=(0.95, 1.0)))
    order = np.argsort(-scores).tolist()
    assert sorted(order.index(row) for row in rows) == [*range(10), *range(80, 100)]


@given(
    count=st.integers(0, 200),
    positives=st.integers(0, 200),
    head=st.integers(0, 80),
    medium=st.integers(0, 80),
    band=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(deadline=None, max_examples=150)
def test_head_and_band_hold_what_was_promised_for_any_sizes(
    count: int, positives: int, head: int, medium: int, band: tuple[float, float]
) -> None:
    low, high = sorted(band)
    if low == high or head + medium == 0:
        return
    scores, judged = drawn(count, min(positives, count))
    rows = head_and_band(scores, judged, BandRule(head, medium, (low, high)))
    in_head = max(min(head, count), int(judged.sum()))
    assert len(rows) == in_head + min(medium, count - in_head)
    assert (np.diff(rows) > 0).all()
    assert judged[rows].sum() == judged.sum()


# --- the guard -----------------------------------------------------------------------------------------------


def test_unjudged_candidates_above_the_guard_are_left_out() -> None:
    scores = np.array([0.0, 10.0, 9.0, 8.0, 12.0, 1.0])
    judged = np.array([False, True, False, False, False, False])
    assert Guard(1.0).allowed(scores, judged).tolist() == [True, True, True, True, False, True]
    assert Guard(0.85).allowed(scores, judged).tolist() == [True, True, False, True, False, True]
    assert Guard().allowed(scores, judged).all()
    assert Guard(0.5).allowed(scores, np.zeros(6, bool)).all()
    rule = AnchorRule(total=4, hardest=2, guard=Guard(0.85))
    assert set(quantile_anchors(scores, judged, rule)) <= {0, 1, 3, 5}
    assert 4 not in head_and_band(scores, judged, BandRule(3, 3, guard=Guard(1.0)))


# --- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AnchorRule(total=0), "got 16 of 0"),
        (lambda: AnchorRule(total=8, hardest=9), "got 9 of 8"),
        (lambda: BandRule(head=0, medium=0), "expected rows to sample"),
        (lambda: BandRule(band=(0.5, 0.5)), "a band within 0 and 1"),
        (lambda: Guard(0.0), "a guard above 0"),
        (lambda: quantile_anchors(np.zeros(3), np.zeros(2, bool), AnchorRule()), "of one length"),
        (lambda: head_and_band(np.array([1, np.nan]), np.zeros(2, bool), BandRule()), "row 1 has nan"),
    ],
)
def test_what_cannot_be_sampled_is_refused(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
