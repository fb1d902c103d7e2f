"""Scores -> order. The only top-k and the only tie rule: raw score descending, then lower index.

Also what compares or fuses two lists of scores of the same items: z-scores and Spearman's correlation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError, Ranked, ScoreError


def rank_scores(scores: npt.ArrayLike, top_k: int | None = None) -> Ranked:
    """Rows of `scores` [N] from best to worst; equal scores keep their input order.

    `top_k` None gives all N, 0 gives none, more than N gives N. Raises `InputError` for a negative
    `top_k` and `ScoreError` for a score that is not finite: an order over NaN means nothing.
    """
    values = np.asarray(scores)
    if values.ndim != 1:
        raise InputError(f"expected one score per item, shape [N], got shape {list(values.shape)}")
    if top_k is not None and top_k < 0:
        raise InputError(f"top_k must be 0 or more (or None for all), got {top_k}")
    check_finite(values)
    # A stable sort of the negated scores is what keeps ties in input order.
    rows = np.argsort(-values, kind="stable")[:top_k]
    return Ranked(rows=rows, scores=values[rows])


def check_finite(scores: npt.NDArray[np.floating]) -> None:
    """Raises `ScoreError` naming the first row whose score is NaN or infinite."""
    rows = np.asarray(scores).reshape(len(scores), -1) if len(scores) else np.empty((0, 1))
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ScoreError(
            f"{len(bad)} of {len(scores)} scores are not finite; the first is row {bad[0]} ({scores[bad[0]]}). "
            "The checkpoint's weights are probably damaged: load it again from its source"
        )


def z_scores(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Distances from the mean in standard deviations; all zero where the values are equal."""
    array = np.asarray(values, dtype=np.float64)
    spread = float(array.std()) if len(array) else 0.0
    # Below this the differences are rounding, and dividing by it would blow them up.
    if spread <= 1e-12 * max(1.0, float(np.abs(array).max(initial=0.0))):
        return np.zeros_like(array)
    result: npt.NDArray[np.float64] = (array - array.mean()) / spread
    return result


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Rank correlation of two lists of scores of the same items; NaN where one of them is all equal."""
    ranks = _shared_ranks(np.asarray(first)), _shared_ranks(np.asarray(second))
    if any(len(each) == 0 or each.min() == each.max() for each in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _shared_ranks(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal scores sharing the mean of theirs."""
    _, places, counts = np.unique(scores.reshape(-1), return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]
    return ranks
