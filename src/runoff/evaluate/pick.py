"""A judged set and a budget of milliseconds -> which reranker, precision and depth to use, with the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from runoff.contracts import InputError, Scorer
from runoff.data.trec import Run
from runoff.evaluate.judged import Judged
from runoff.evaluate.kept import KeptScores
from runoff.evaluate.matrix import judge
from runoff.evaluate.measures import Difference, Figures, Point, difference, pareto_front

TIMED = 20
"""Queries whose reranking is timed, at each depth: enough for a 95th percentile to be one of them."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to rank: a reranker (None: the retriever alone) over the first `depth` candidates, alone or `is_fused` with
    the retriever's scores. `median` and `p95`: milliseconds that reranking a query takes; `figures`: NDCG@10 [Q]."""

    model: str | None
    depth: int
    is_fused: bool
    median: float
    p95: float
    figures: Figures

    @property
    def name(self) -> str:
        if self.model is None:
            return "the retriever alone"
        return f"{self.model}, top {self.depth}" + (", fused" if self.is_fused else "")

    @property
    def ndcg(self) -> float:
        return float(self.figures.mean())


@dataclass(frozen=True, slots=True)
class Choice:
    """What was tried, fastest first, and what to take: `best` has the highest mean within the budget, `cheapest` is the
    fastest that is not surely worse than it. `gain`: of the best over the retriever alone."""

    budget: float
    ways: Sequence[Way]
    best: Way
    cheapest: Way

    @property
    def alone(self) -> Way:
        return next(way for way in self.ways if way.model is None)

    @property
    def gain(self) -> Difference:
        return difference(self.best.figures, self.alone.figures)

    def front(self) -> list[Way]:
        """The ways that no other beats in both time (95th percentile) and NDCG@10."""
        by_name = {way.name: way for way in self.ways}
        points = [Point(way.name, way.p95, way.ndcg) for way in self.ways]
        return [by_name[point.name] for point in pareto_front(points)]

    def lines(self) -> list[dict[str, Any]]:
        """A line for each way, for programs."""
        return [
            {
                "way": way.name,
                "model": way.model,
                "depth": way.depth,
                "is_fused": way.is_fused,
                "ndcg_at_10": round(way.ndcg, 4),
                "milliseconds_median": round(way.median, 2),
                "milliseconds_p95": round(way.p95, 2),
                "is_within_budget": way.p95 <= self.budget,
                "minus_best": str(difference(way.figures, self.best.figures)),
                "is_best": way is self.best,
                "is_cheapest": way is self.cheapest,
            }
            for way in self.ways
        ]


def pick(ways: Sequence[Way], budget: float) -> Choice:
    """The choice among `ways`, the retriever alone being one of them. `budget`: milliseconds of reranking that 95 of
    100 queries must stay within. Raises `InputError` for a budget that is not above 0."""
    if not 0.0 < budget < float("inf"):
        raise InputError(f"expected a budget of milliseconds above 0, got {budget}")
    within = [way for way in ways if way.p95 <= budget]
    best = max(within, key=lambda way: (way.ndcg, -way.p95))
    as_good = [way for way in within if not difference(way.figures, best.figures).high < 0]
    cheapest = min(as_good, key=lambda way: (way.p95, -way.ndcg))
    return Choice(budget, sorted(ways, key=lambda way: (way.p95, way.depth, way.name)), best, cheapest)


def tried(
    judged: Judged,
    lists: Run,
    scorers: Mapping[str, Scorer],
    scores: Mapping[str, KeptScores],
    depths: Sequence[int],
    advance: Callable[[int], Any] = lambda _: None,
) -> list[Way]:
    """Every scorer at every depth, alone and fused, and the retriever alone. `scores` keeps what was scored; times are
    of scoring `TIMED` queries anew, one after the other, as a server meets them."""
    ways: list[Way] = []
    for depth in sorted(set(depths)):
        found = judge(judged, lists, scores, (1.0,), depth=depth, advance=advance)
        if not ways:
            ways.append(Way(None, 0, False, 0.0, 0.0, found.systems[found.first].ndcg))
        for name, scorer in scorers.items():
            times = milliseconds(judged, lists, scorer, depth)
            median, p95 = float(np.median(times)), float(np.percentile(times, 95))
            for system in found.systems.values():
                if system.model == name:
                    ways.append(Way(name, depth, system.weight is not None, median, p95, system.ndcg))
    return ways


def milliseconds(judged: Judged, lists: Run, scorer: Scorer, depth: int, queries: int = TIMED) -> list[float]:
    """What reranking the first `depth` candidates of each of some queries took, behind one that is not timed."""
    step = max(1, len(lists) // queries)
    asked = [query for query in list(lists)[::step] if lists[query]][:queries]
    times = []
    for query in [*asked[:1], *asked]:
        texts = [judged.documents[document] for document, _ in lists[query][:depth]]
        begun = perf_counter()
        scorer.score(judged.queries[query], texts)
        times.append(1000 * (perf_counter() - begun))
    return times[1:]
