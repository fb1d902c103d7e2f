"""Raw scores and relevance -> a calibration, with its errors on queries held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runoff.calibration.curve import Flags, Floats, Isotonic, Platt, finite, flags_of, sigmoid
from runoff.calibration.reliability import FEWEST, brier_score, expected_calibration_error
from runoff.calibration.stored import METHODS, Calibration, FittedOn, Method
from runoff.contracts import InputError

FOLDS = 5
"""Parts that the queries are dealt into; each is held out once."""

SEED = 12


class Fitted(NamedTuple):
    """A calibration, and of each pair [N] sigmoid(raw score) and what it got while its query was held out."""

    calibration: Calibration
    before: Floats
    held_out: Floats


def fit(
    scores: npt.ArrayLike,
    relevant: npt.ArrayLike,
    groups: npt.ArrayLike,
    method: Method = "platt",
    *,
    names: Sequence[str] = (),
    relevance: str = "",
) -> Fitted:
    """A calibration fitted on all N pairs, and its errors by cross-validation over the queries.

    `relevant` is 0 or 1 of each pair, `groups` says which query it belongs to: pairs of one query stand together in
    a fold, since their scores move together. The order of the pairs changes nothing. Raises `InputError` for fewer
    than 20 relevant pairs, or 20 that are not, or 5 queries, and for scores that say nothing or the opposite.
    """
    if method not in METHODS:
        raise InputError(f"expected a method among {', '.join(METHODS)}, got {method!r:.40}")
    values, flags, queries = finite(scores), flags_of(relevant), np.asarray(groups)
    if not values.shape == flags.shape == queries.shape or values.ndim != 1:
        raise InputError(
            f"expected a score, a relevance and a query of each pair, got shapes {list(values.shape)}, "
            f"{list(flags.shape)} and {list(queries.shape)}"
        )
    folds = _folds(queries)
    check_counts(int(flags.sum()), int((~flags).sum()), len(np.unique(queries)))
    _check_scores(values, flags)
    held_out = np.empty(len(values))
    for fold in range(FOLDS):
        is_held_out = folds == fold
        held_out[is_held_out] = _curve(values[~is_held_out], flags[~is_held_out], method).of(
            values[is_held_out]
        )
    before = sigmoid(values)
    fitted_on = FittedOn(
        names=tuple(names),
        relevance=relevance,
        queries=len(np.unique(queries)),
        pairs=len(values),
        relevant=int(flags.sum()),
        ece_before=expected_calibration_error(before, flags),
        ece_after=expected_calibration_error(held_out, flags),
        brier_before=brier_score(before, flags),
        brier_after=brier_score(held_out, flags),
    )
    return Fitted(Calibration(_curve(values, flags, method), fitted_on), before, held_out)


def _folds(queries: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The fold of each pair, by its query alone, [N]."""
    names, rows = np.unique(queries, return_inverse=True)
    found: npt.NDArray[np.int64] = (np.random.default_rng(SEED).permutation(len(names)) % FOLDS)[rows]
    return found


def check_counts(relevant: int, rest: int, queries: int) -> None:
    """Raises `InputError` for too few pairs of either kind, or too few queries, for an honest curve."""
    if relevant < FEWEST or rest < FEWEST:
        raise InputError(
            f"expected at least {FEWEST} relevant pairs and {FEWEST} that are not, got {relevant:,} and {rest:,}. Give "
            "more judged queries, or more candidates of each"
        )
    if queries < FOLDS:
        raise InputError(f"expected pairs of at least {FOLDS} queries, a fifth to be held out, got {queries}")


def _check_scores(scores: Floats, relevant: Flags) -> None:
    """Raises `InputError` for scores that say nothing of the relevance, or the opposite."""
    if (scores == scores[0]).all():
        raise InputError(
            f"all {len(scores):,} pairs have the score {scores[0]:g}: nothing can be told from it"
        )
    # The sign of this difference is that of the slope that a logistic regression finds.
    means = scores[relevant].mean(), scores[~relevant].mean()
    if means[0] <= means[1]:
        raise InputError(
            f"relevant pairs have a mean score of {means[0]:.4g} and the others {means[1]:.4g}: the scores run against "
            "the relevance. Are these the judgements of these pairs, and is a higher label a better one?"
        )


def _curve(scores: Floats, relevant: Flags, method: Method) -> Platt | Isotonic:
    # Sorted, so that sums do not depend on the order in which the pairs came.
    order = np.lexsort((relevant, scores))
    scores, relevant = scores[order], relevant[order]
    if method == "isotonic":
        return _isotonic(scores, relevant)
    count = int(relevant.sum())
    targets = np.where(relevant, (count + 1) / (count + 2), 1 / (len(relevant) - count + 2))
    return logistic_fit(scores, targets)


def logistic_fit(scores: Floats, targets: Floats) -> Platt:
    """The sigmoid of least cross-entropy against `targets` [N] in 0..1, among those that do not fall.

    Platt 1999, by Newton's method with backtracking as in Lin, Lin and Weng 2007 ("A note on Platt's probabilistic
    outputs for support vector machines"), on standardised scores: its bounds are absolute.
    """
    mean, deviation, share = float(scores.mean()), float(scores.std()), float(targets.mean())
    level = Platt(0.0, math.log(share / (1.0 - share)))
    # The cross-entropy is convex: where it falls towards slopes below 0, the best one allowed is 0.
    if deviation == 0.0 or float((scores - mean) @ (targets - share)) <= 0.0:
        return level
    design = np.stack([(scores - mean) / deviation, np.ones(len(scores))])
    weights = np.array([0.0, level.intercept])
    loss = _cross_entropy(weights @ design, targets)
    for _ in range(100):
        found = sigmoid(weights @ design)
        gradient = design @ (found - targets)
        if np.abs(gradient).max() <= 1e-10 * len(scores):
            break
        hessian = (design * (found * (1.0 - found))) @ design.T + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (lower := _cross_entropy((weights - size * step) @ design, targets)) > (
            loss - 1e-4 * size * float(gradient @ step)
        ):
            size /= 2.0
            if size < 1e-10:  # the gain is below what the sum can show
                break
        if size < 1e-10:
            break
        weights, loss = weights - size * step, lower
    slope = float(weights[0]) / deviation
    return Platt(slope, float(weights[1]) - slope * mean)


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float((np.logaddexp(0.0, logits) - targets * logits).sum())


def _isotonic(scores: Floats, relevant: Flags) -> Isotonic:
    """The non-falling step function of least squares, by pool-adjacent-violators (Ayer et al. 1955)."""
    values, rows, counts = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(rows, weights=relevant, minlength=len(values)).astype(np.int64)
    blocks: list[tuple[int, int, int, int]] = []  # first value, last value, relevant pairs, pairs
    for row, (hit, count) in enumerate(zip(hits.tolist(), counts.tolist(), strict=True)):
        first = row
        # Whole numbers, so that equal shares are equal.
        while blocks and blocks[-1][2] * count >= hit * blocks[-1][3]:
            first, _, more_hits, more = blocks.pop()
            hit, count = hit + more_hits, count + more
        blocks.append((first, row, hit, count))
    points = [
        (float(values[row]), hit / count)
        for first, last, hit, count in blocks
        for row in dict.fromkeys((first, last))
    ]
    return Isotonic(tuple(score for score, _ in points), tuple(level for _, level in points))
