"""Fitted curves are those of scikit-learn, rise with the score, and are judged on queries held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from runoff.calibration.curve import Isotonic, Platt
from runoff.calibration.fit import FOLDS, check_counts, fit, logistic_fit
from runoff.calibration.stored import METHODS
from runoff.contracts import InputError
from standin_calibration import INTERCEPT, SLOPE, Drawn, drawn


def by_scikit_learn(scores: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic regression without penalty; a target between 0 and 1 is two weighted pairs."""
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
    rows, labels = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    model.fit(rows, labels, sample_weight=np.concatenate([targets, 1 - targets]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


# --- Platt -----------------------------------------------------------------------------------------------


def test_a_sigmoid_of_plain_targets_is_scikit_learns() -> None:
    pairs = drawn()
    found = logistic_fit(pairs.scores, pairs.relevant.astype(float))
    wanted = by_scikit_learn(pairs.scores, pairs.relevant.astype(float))
    assert (found.slope, found.intercept) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (1e4, 3e5), (1e-4, -2.0)])
def test_platt_is_a_logistic_regression_on_his_targets(stretch: float, shift: float) -> None:
    pairs = drawn(seed=1)
    positives, negatives = pairs.relevant.sum(), (~pairs.relevant).sum()
    targets = np.where(pairs.relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = by_scikit_learn(pairs.scores, targets)
    curve = fit(stretch * pairs.scores + shift, pairs.relevant, pairs.groups).calibration.curve
    assert isinstance(curve, Platt)
    assert curve.slope * stretch == pytest.approx(slope, rel=1e-4)
    assert curve.intercept + curve.slope * shift == pytest.approx(intercept, rel=1e-4)


def test_the_sigmoid_that_pairs_were_drawn_from_is_found() -> None:
    curve = fit(*drawn(queries=400)).calibration.curve
    assert isinstance(curve, Platt)
    # 20,000 pairs: the standard error of both is about 0.03.
    assert curve.slope == pytest.approx(SLOPE, abs=0.1)
    assert curve.intercept == pytest.approx(INTERCEPT, abs=0.1)


def test_pairs_that_a_score_parts_have_a_finite_slope() -> None:
    scores = np.arange(200.0)
    curve = fit(scores, scores >= 100, np.arange(200) % 10).calibration.curve
    assert isinstance(curve, Platt)
    assert 0 < curve.slope < 10


def test_a_sigmoid_that_would_fall_is_level_at_the_mean() -> None:
    curve = logistic_fit(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert (curve.slope, curve.intercept) == (0.0, 0.0)
    curve = logistic_fit(np.full(4, 7.0), np.array([1.0, 0.0, 0.0, 0.0]))
    assert curve.of(np.array([-3.0, 7.0])) == pytest.approx([0.25, 0.25])


# --- isotonic --------------------------------------------------------------------------------------------


def check_isotonic(scores: np.ndarray, relevant: np.ndarray, groups: np.ndarray) -> None:
    curve = fit(scores, relevant, groups, "isotonic").calibration.curve
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, relevant.astype(float))
    between = np.concatenate([scores, np.linspace(scores.min() - 2, scores.max() + 2, 500)])
    np.testing.assert_allclose(curve.of(between), theirs.predict(between), rtol=0, atol=1e-12)


def test_an_isotonic_curve_is_scikit_learns() -> None:
    check_isotonic(*drawn())


def test_an_isotonic_curve_is_scikit_learns_where_many_scores_are_equal() -> None:
    pairs = drawn(seed=3)
    check_isotonic(np.round(pairs.scores), pairs.relevant, pairs.groups)


def test_violators_are_pooled_by_hand() -> None:
    # Of 40 pairs each 0, 20, 10 and 40 are relevant: the second and third run against each other, and share 30 of 80.
    scores = np.repeat([1.0, 2.0, 3.0, 4.0], [40, 40, 40, 40])
    relevant = np.concatenate([np.arange(40) < count for count in (0, 20, 10, 40)])
    curve = fit(scores, relevant, np.arange(160) % 8, "isotonic").calibration.curve
    assert curve == Isotonic((1.0, 2.0, 3.0, 4.0), (0.0, 30 / 80, 30 / 80, 1.0))
    assert curve.of(np.array([-9.0, 1.5, 2.5, 3.5, 9.0])) == pytest.approx([0, 0.1875, 0.375, 0.6875, 1])


# --- what holds of both ----------------------------------------------------------------------------------


@st.composite
def some_pairs(draw: st.DrawFn) -> Drawn:
    """Few or many different scores, whatever their size; relevance that does not run against them."""
    seed, levels = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 400))
    size, shift = draw(st.floats(1e-6, 1e6)), draw(st.floats(-1e6, 1e6))
    generator = np.random.default_rng(seed)
    kinds = np.sort(generator.normal(size=levels))
    places = generator.integers(levels, size=400)
    relevant = generator.random(400) < 0.2 + 0.5 * places / levels
    scores = np.float32(kinds[places] * size + shift).astype(np.float64)
    return Drawn(scores, relevant, generator.integers(20, size=400))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=some_pairs(), method=st.sampled_from(METHODS), asked=st.lists(st.floats(width=32), max_size=30))
def test_a_better_score_is_never_less_probable(pairs: Drawn, method: str, asked: list[float]) -> None:
    try:
        calibration = fit(*pairs, method).calibration
    except InputError:  # all scores equal after rounding to fp32, or by chance against the relevance
        return
    finite = [score for score in asked if np.isfinite(score)]
    values = np.unique([*pairs.scores, *np.nextafter(pairs.scores, np.inf), *finite])
    found = calibration.probabilities(values)
    assert found.dtype == np.float64
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0.0
    assert found[-1] <= 1.0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_the_order_of_the_pairs_changes_nothing(seed: int, method: str) -> None:
    pairs = drawn(queries=20, candidates=30)
    order = np.random.default_rng(seed).permutation(len(pairs.scores))
    first, second = fit(*pairs, method), fit(*(part[order] for part in pairs), method)
    assert second.calibration.curve == first.calibration.curve
    np.testing.assert_array_equal(second.held_out, first.held_out[order])
    errors = [
        (on.ece_before, on.ece_after, on.brier_before, on.brier_after)
        for on in (first.calibration.fitted_on, second.calibration.fitted_on)
    ]
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_probabilities_are_nearer_the_truth(method: str) -> None:
    pairs = drawn(queries=200)
    on = fit(*pairs, method, names=("house",), relevance="drawn").calibration.fitted_on
    assert (on.names, on.relevance) == (("house",), "drawn")
    assert (on.queries, on.pairs, on.relevant) == (200, 10_000, int(pairs.relevant.sum()))
    assert on.ece_after < 0.02 < 0.1 < on.ece_before
    assert on.brier_after < on.brier_before


# --- cross-validation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_query_is_judged_by_a_curve_that_never_saw_it(method: str) -> None:
    pairs = drawn(queries=FOLDS, candidates=200)
    found = fit(*pairs, method)
    for query in range(FOLDS):  # as many folds as queries: each is its own
        is_own = pairs.groups == query
        relevant = np.where(is_own, ~pairs.relevant, pairs.relevant)
        turned = fit(pairs.scores, relevant, pairs.groups, method)
        np.testing.assert_array_equal(turned.held_out[is_own], found.held_out[is_own])
        assert (turned.held_out[~is_own] != found.held_out[~is_own]).any()


def test_what_a_fold_lacks_does_not_stop_it() -> None:
    """All relevant pairs are one query's: the fold without it learns from pairs that are not relevant alone."""
    pairs = drawn(queries=10, candidates=60)
    relevant = (pairs.groups == 3) & (pairs.scores > 0)
    for method in METHODS:
        held_out = fit(pairs.scores, relevant, pairs.groups, method).held_out
        assert (held_out[pairs.groups == 3] < 0.02).all()


# --- what cannot be fitted -------------------------------------------------------------------------------


@pytest.mark.parametrize(("relevant", "rest", "queries"), [(19, 400, 9), (400, 19, 9), (0, 0, 0)])
def test_too_few_pairs_of_either_kind_are_refused(relevant: int, rest: int, queries: int) -> None:
    with pytest.raises(
        InputError, match=rf"at least 20 relevant pairs and 20 .* got {relevant} and {rest}\."
    ):
        check_counts(relevant, rest, queries)
    scores, flags = np.arange(float(relevant + rest)), np.arange(relevant + rest) < relevant
    with pytest.raises(InputError, match=r"at least 20 relevant pairs"):
        fit(scores, flags, np.arange(relevant + rest))


def test_too_few_queries_are_refused() -> None:
    pairs = drawn()
    with pytest.raises(InputError, match=r"pairs of at least 5 queries.*got 4"):
        fit(pairs.scores, pairs.relevant, pairs.groups % 4)


def test_equal_scores_are_refused() -> None:
    pairs = drawn()
    with pytest.raises(InputError, match=r"all 3,000 pairs have the score 1\.5: nothing can be told"):
        fit(np.full(3000, 1.5), pairs.relevant, pairs.groups)


@pytest.mark.parametrize("method", METHODS)
def test_scores_that_run_against_the_relevance_are_refused(method: str) -> None:
    pairs = drawn()
    with pytest.raises(InputError, match=r"run against the relevance"):
        fit(-pairs.scores, pairs.relevant, pairs.groups, method)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(wrong: float) -> None:
    pairs = drawn()
    pairs.scores[7] = wrong
    with pytest.raises(InputError, match=r"finite scores"):
        fit(*pairs)


def test_grades_shapes_and_methods_that_are_none_are_refused() -> None:
    pairs = drawn()
    with pytest.raises(InputError, match=r"relevance of 0 or 1"):
        fit(pairs.scores, 2 * pairs.relevant.astype(int), pairs.groups)
    with pytest.raises(InputError, match=r"shapes \[3000\], \[3000\] and \[2999\]"):
        fit(pairs.scores, pairs.relevant, pairs.groups[1:])
    with pytest.raises(InputError, match=r"among platt, isotonic, got 'beta'"):
        fit(*pairs, "beta")  # type: ignore[arg-type]
