"""Which way to rank is recommended: the best within the budget, and the cheapest that is not surely worse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runoff.contracts import InputError
from runoff.evaluate.kept import KeptScores
from runoff.evaluate.matrix import judge
from runoff.evaluate.pick import TIMED, Way, milliseconds, pick, tried
from standin_scorer import TableScorer, random_set

QUERIES = np.linspace(0, 1, 50)


def way(model: str | None, depth: int, p95: float, plus: float, noise: int | None = None) -> Way:
    """Figures `plus` above the retriever's on average; with `noise`, by chance a query."""
    drawn = 0.0 if noise is None else np.random.default_rng(noise).normal(0, 0.5, 50)
    return Way(model, depth, False, p95 / 2, p95, QUERIES + plus + drawn - np.mean(drawn))


ALONE = way(None, 0, 0.0, 0.0)


def test_the_best_within_the_budget_is_taken() -> None:
    ways = [ALONE, way("small", 10, 20, 0.1), way("small", 50, 90, 0.2), way("large", 50, 400, 0.3)]
    assert pick(ways, 150).best is ways[2]
    assert pick(ways, 500).best is ways[3]
    assert pick(ways, 90).best is ways[2]
    assert pick(ways, 10).best is ALONE
    assert pick(ways, 150).gain.mean == pytest.approx(0.2)


def test_the_cheapest_is_the_fastest_that_is_not_surely_worse() -> None:
    ways = [ALONE, way("sure", 10, 5, 0.1), way("unsure", 10, 20, 0.29, noise=1), way("best", 50, 90, 0.3)]
    choice = pick(ways, 150)
    assert (choice.best.model, choice.cheapest.model) == ("best", "unsure")
    assert [each["is_best"] for each in choice.lines()] == [False, False, False, True]
    assert [each.model for each in choice.front()] == [None, "sure", "unsure", "best"]


def test_of_equal_ways_the_faster_is_taken() -> None:
    ways = [ALONE, way("slow", 50, 90, 0.2), way("fast", 50, 30, 0.2)]
    choice = pick(ways, 150)
    assert choice.best.model == choice.cheapest.model == "fast"
    assert [each.model for each in choice.front()] == [None, "fast"]


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_a_number_above_0(budget: float) -> None:
    with pytest.raises(InputError, match="budget of milliseconds above 0"):
        pick([ALONE], budget)


def test_every_depth_is_tried_alone_and_fused_and_no_pair_scored_twice() -> None:
    judged, lists, scorer = random_set(1)
    kept = KeptScores(judged, TableScorer(scorer.scores))
    ways = tried(judged, lists, {"model": scorer}, {"model": kept}, [10, 5, 10])
    assert [(w.model, w.depth, w.is_fused) for w in ways] == [
        (None, 0, False),
        *(("model", depth, fused) for depth in (5, 10) for fused in (False, True)),
    ]
    assert kept.scored == 10 * len(lists)
    for depth in (5, 10):
        found = judge(judged, lists, {"model": scorer}, depth=depth)
        alone, fused = (w for w in ways if w.depth == depth)
        assert alone.ndcg == pytest.approx(found.systems["model"].ndcg.mean())
        assert fused.ndcg == pytest.approx(found.systems["z(bm25)+1*z(model)"].ndcg.mean())
    assert all(w.p95 >= w.median > 0 for w in ways[1:])


def test_single_queries_are_timed_at_the_depth() -> None:
    judged, lists, scorer = random_set(2, queries=50)
    times = milliseconds(judged, lists, scorer, 7)
    assert len(times) == TIMED
    assert scorer.asked == 7 * (TIMED + 1), "the first is scored once more, to warm up"
