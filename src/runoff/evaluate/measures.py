"""Ranked lists and judgements -> NDCG, MRR, MAP, recall, precision, success at cut-offs; differences' intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runoff.contracts import MissingExtraError
from runoff.data.sampling import SEED
from runoff.data.trec import Qrels

Figures = npt.NDArray[np.float64]

CUTS = (1, 3, 5, 10, 20, 100)
NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "success": "success"}
"""What we call a measure -> what trec_eval calls it."""
MEASURES = (*NAMES, "mrr")
DRAWS = 10_000


def measured(
    grades: Qrels,
    ranked: Mapping[str, Sequence[str]],
    measures: Sequence[str] = MEASURES,
    cuts: Sequence[int] = CUTS,
) -> dict[str, Figures]:
    """{"ndcg@10": [Q], ...}: the figures of each query's documents, best first, by pytrec_eval.

    The ideal order is over all judgements of the query. A query without documents counts 0 in everything. Raises
    `MissingExtraError` without pytrec_eval.
    """
    try:
        import pytrec_eval
    except ImportError as error:
        raise MissingExtraError(
            f"judging needs pytrec_eval ({error}). Install it: pip install 'runoff[eval]'"
        ) from error
    deepest = max(cuts)
    # Places instead of scores: trec_eval reads scores as 32-bit floats and breaks ties by id, we by the list.
    run = {
        query: {document: float(-place) for place, document in enumerate(documents[:deepest])}
        for query, documents in ranked.items()
    }
    asked = {f"{NAMES[name]}.{','.join(map(str, cuts))}" for name in measures if name in NAMES}
    if "mrr" in measures:
        asked.add("recip_rank")
    evaluator = pytrec_eval.RelevanceEvaluator({query: dict(grades[query]) for query in run}, asked)
    found = evaluator.evaluate({query: documents for query, documents in run.items() if documents})
    rows = [found.get(query, {}) for query in run]

    def column(key: str) -> Figures:
        return np.array([row.get(key, 0.0) for row in rows], np.float64)

    figures = {
        f"{name}@{cut}": column(f"{NAMES[name]}_{cut}") for name in measures if name in NAMES for cut in cuts
    }
    if "mrr" in measures:
        whole = column("recip_rank")
        # The first relevant document's place is 1 / whole, up to rounding: beyond the cut it counts 0.
        figures |= {f"mrr@{cut}": np.where(whole * (cut + 0.5) >= 1.0, whole, 0.0) for cut in cuts}
    return figures


def best_order(grades: Mapping[str, int], documents: Sequence[str]) -> list[str]:
    """The documents by their grade: what the best reranker would make of them (the oracle)."""
    return sorted(documents, key=lambda document: -grades.get(document, 0))


# --- differences -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two means, and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval is on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def mark(self) -> str:
        return "*" if self.is_significant else ""

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}){self.mark}"


def difference(figures: npt.ArrayLike, base: npt.ArrayLike) -> Difference:
    """mean(figures) - mean(base) over the same queries, with its interval."""
    ours, theirs = np.asarray(figures, np.float64), np.asarray(base, np.float64)
    return Difference(float((ours - theirs).mean()), *difference_interval(ours, theirs))


def difference_interval(
    figures: npt.ArrayLike, base: npt.ArrayLike, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % interval of mean(figures) - mean(base), by paired bootstrap: the queries are drawn with replacement,
    the same ones for both."""
    difference = np.asarray(figures, np.float64) - np.asarray(base, np.float64)
    generator, count = np.random.default_rng(seed), len(difference)
    means = []
    # Some draws at a time, or thousands of queries would take gigabytes.
    for start in range(0, draws, 500):
        size = (min(500, draws - start), count)
        means.append(difference[generator.integers(count, size=size)].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


# --- quality against time --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """A way to rank: what it is, milliseconds a query, and its mean figure."""

    name: str
    milliseconds: float
    figure: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats: none is as fast and better, or as good and faster. Fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.milliseconds, -point.figure)):
        if not front or point.figure > front[-1].figure:
            front.append(point)
    return front
