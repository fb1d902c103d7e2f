"""Which of a query's many candidates are worth a teacher's time, and which of those a student's.

Two rules of the published Ettin recipe, of the rows of one query each:

- `quantile_anchors`: of up to 2,048 candidates scored by a cheap model, 256 for the teacher: all positives, the 16
  hardest, and the rest spread over the whole range of scores (quantile anchors: Jang et al., arXiv 2604.04734).
- `head_and_band`: of those 256, scored by the teacher, 64 to train on: 32 from the head, 32 from a band below it.

Both take the false-negative guard: a candidate that nobody judged, and that the scores put close to or above the known
answers, may be an answer itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

SEED = 12
"""Of the Ettin recipe, for everything that is drawn."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Leaves out unjudged candidates whose score is above `share` of the way from the query's lowest score to its
    lowest positive's. 1.0: those above the positive; None: nobody is left out.

    Learning raw teacher scores needs no guard, since a hidden answer gets its high label as well; learning from
    judgements (a bonus for positives, a ranking loss) does.
    """

    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0.0 < self.share <= 2.0:
            raise InputError(f"expected a guard above 0 and up to 2, got {self.share}")

    def allowed(self, scores: Floats, positives: Mask) -> Mask:
        """Which rows may be sampled, [N]; positives always."""
        if self.share is None or not positives.any() or positives.all():
            return np.ones(len(scores), bool)
        least = scores.min()
        limit = least + self.share * (scores[positives].min() - least)
        allowed: Mask = positives | (scores <= limit)
        return allowed


@dataclass(frozen=True, slots=True)
class AnchorRule:
    """How many of a query's candidates a teacher sees: `total`, of which `hardest` from the top of the negatives."""

    total: int = 256
    hardest: int = 16
    guard: Guard = Guard()
    seed: int = SEED

    def __post_init__(self) -> None:
        if self.total < 1 or not 0 <= self.hardest <= self.total:
            raise InputError(
                f"expected 0 to `total` hardest of 1 or more, got {self.hardest} of {self.total}"
            )


@dataclass(frozen=True, slots=True)
class BandRule:
    """How many of a query's scored rows a student sees: `head` from the top, `medium` from a band of the rest.

    The band is a share of the sorted rows, from the best (0) to the worst (1). The recipe says "further down"; where it
    begins and ends is our choice: the second and third quarter.
    """

    head: int = 32
    medium: int = 32
    band: tuple[float, float] = (0.25, 0.75)
    guard: Guard = Guard()
    seed: int = SEED

    def __post_init__(self) -> None:
        if self.head < 0 or self.medium < 0 or self.head + self.medium < 1:
            raise InputError(
                f"expected rows to sample, got {self.head} of the head and {self.medium} medium ones"
            )
        if not 0.0 <= self.band[0] < self.band[1] <= 1.0:
            raise InputError(f"expected a band within 0 and 1, its lower end first, got {self.band}")


def quantile_anchors(scores: Floats, positives: Mask, rule: AnchorRule, query: int = 0) -> Rows:
    """Rows for the teacher, ascending: all positives (also beyond `total`), the hardest negatives, and of the others
    one from each of as many strata of equal counts, in order of score.

    `scores` [N] are the cheap model's, `positives` [N] the judged answers. `query` goes into the draw, so that
    queries do not all take the same ranks. Fewer candidates than `total` are all taken (but for the guard's).
    """
    _check(scores, positives)
    allowed = rule.guard.allowed(scores, positives)
    negatives = np.flatnonzero(allowed & ~positives)
    order = negatives[np.argsort(-scores[negatives], kind="stable")]
    room = max(rule.total - int(positives.sum()), 0)
    hardest, rest = order[: min(rule.hardest, room)], order[min(rule.hardest, room) :]
    strata = _strata(rest, room - len(hardest), np.random.default_rng([rule.seed, query]))
    return np.sort(np.concatenate([np.flatnonzero(positives), hardest, strata]))


def head_and_band(scores: Floats, positives: Mask, rule: BandRule, query: int = 0) -> Rows:
    """Rows to train on, ascending: positives and the best others up to `head`, then `medium` from the band.

    `scores` [N] are the teacher's. Where the band holds fewer rows than `medium`, the rows next to it fill up.
    """
    _check(scores, positives)
    allowed = rule.guard.allowed(scores, positives)
    order = np.flatnonzero(allowed)
    order = order[np.lexsort((-scores[order], ~positives[order]))]
    # Positives are sorted in front: the head has them all, also beyond its size.
    count = max(min(rule.head, len(order)), int(positives.sum()))
    head, rest = order[:count], order[count:]
    first, last = (round(share * len(order)) - count for share in rule.band)
    first, last = max(first, 0), max(last, 0)
    wanted = min(rule.medium, len(rest))
    # Widen the band to both sides until it holds what is wanted.
    last = min(len(rest), max(last, first + wanted))
    first = max(0, min(first, last - wanted))
    medium = _strata(rest[first:last], wanted, np.random.default_rng([rule.seed, query]))
    return np.sort(np.concatenate([head, medium]))


def _strata(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    """`count` of the rows, one drawn from each of so many stretches whose lengths differ by 1 at most."""
    if count >= len(rows):
        return rows
    edges = np.arange(count + 1) * len(rows) // max(count, 1)
    places = edges[:-1] + (rng.random(count) * np.diff(edges)).astype(np.int64)
    return rows[places]


def _check(scores: Floats, positives: Mask) -> None:
    if scores.ndim != 1 or positives.shape != scores.shape:
        raise InputError(
            f"expected scores and positives of one length, got shapes {scores.shape} and {positives.shape}"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"expected finite scores, row {row} has {scores[row]}")
