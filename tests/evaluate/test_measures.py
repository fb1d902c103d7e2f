"""Figures at cut-offs against pytrec_eval and by hand; differences and fronts."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from runoff.evaluate.measures import (
    CUTS,
    Difference,
    Point,
    best_order,
    difference,
    measured,
    pareto_front,
)
from standin_scorer import random_set


def test_figures_of_a_list_are_those_computed_by_hand() -> None:
    grades = {"q": {"a": 1, "b": 2, "c": 1, "d": 0}}
    found = measured(grades, {"q": ["d", "b", "x", "a"]}, cuts=(1, 3, 5))
    figures = {name: float(values[0]) for name, values in found.items()}
    assert figures["precision@1"] == 0.0
    assert figures["success@1"] == 0.0
    assert figures["mrr@1"] == 0.0
    assert figures["mrr@3"] == 0.5
    assert figures["recall@3"] == pytest.approx(1 / 3)
    assert figures["recall@5"] == pytest.approx(2 / 3)
    assert figures["precision@5"] == pytest.approx(2 / 5)
    assert figures["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert figures["success@3"] == 1.0
    ideal = 2 + 1 / np.log2(3) + 1 / np.log2(4)
    assert figures["ndcg@5"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(5)) / ideal)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pytrec_eval_at_every_cut(seed: int) -> None:
    judged, lists, _ = random_set(seed)
    run = {query: dict(pairs) for query, pairs in lists.items()}
    cuts = ",".join(map(str, CUTS))
    names = {f"{name}.{cuts}" for name in ("ndcg_cut", "map_cut", "recall", "P", "success")}
    exact = pytrec_eval.RelevanceEvaluator(judged.grades, {*names, "recip_rank"}).evaluate(run)
    found = measured(judged.grades, {query: [d for d, _ in pairs] for query, pairs in lists.items()})
    for ours, theirs in (("ndcg", "ndcg_cut"), ("map", "map_cut"), ("recall", "recall"), ("precision", "P")):
        for cut in CUTS:
            wanted = [exact[query][f"{theirs}_{cut}"] for query in lists]
            assert found[f"{ours}@{cut}"].tolist() == pytest.approx(wanted, abs=1e-9)
    for cut in CUTS:
        ranks = [1 / exact[query]["recip_rank"] if exact[query]["recip_rank"] else 999 for query in lists]
        wanted = [1 / rank if rank < cut + 0.5 else 0.0 for rank in ranks]
        assert found[f"mrr@{cut}"].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_query_without_documents_counts_nothing() -> None:
    found = measured({"q": {"a": 1}, "r": {"a": 1}}, {"q": [], "r": ["a"]})
    assert {tuple(values) for name, values in found.items() if "precision" not in name} == {(0.0, 1.0)}


def test_only_what_was_asked_for_is_computed() -> None:
    assert set(measured({"q": {"a": 1}}, {"q": ["a"]}, ("ndcg", "mrr"), (10,))) == {"ndcg@10", "mrr@10"}


def test_no_order_beats_the_best_one() -> None:
    judged, lists, _ = random_set(5)
    names = {query: [d for d, _ in pairs] for query, pairs in lists.items()}
    best = measured(judged.grades, {q: best_order(judged.grades[q], each) for q, each in names.items()})
    draw = np.random.default_rng(1)
    for _ in range(20):
        other = measured(judged.grades, {q: list(draw.permutation(each)) for q, each in names.items()})
        assert (best["ndcg@10"] >= other["ndcg@10"] - 1e-12).all()


def test_a_difference_says_whether_it_is_sure() -> None:
    base = np.linspace(0, 1, 50)
    better = difference(base + 0.1, base)
    assert (better.is_significant, better.mark) == (True, "*")
    assert str(better) == "+0.1000 (+0.1000 to +0.1000)*"
    draw = np.random.default_rng(2).normal(0, 1, 50)
    unsure = difference(base + draw - draw.mean(), base)
    assert (unsure.is_significant, unsure.mark) == (False, "")
    assert str(Difference(-0.01, -0.03, 0.01)) == "-0.0100 (-0.0300 to +0.0100)"


def test_the_front_has_what_nothing_else_beats() -> None:
    points = [
        Point("slow and bad", 9, 0.2),
        Point("fast", 1, 0.3),
        Point("as fast and worse", 1, 0.1),
        Point("best", 20, 0.9),
        Point("middle", 5, 0.5),
        Point("middle, slower", 6, 0.5),
    ]
    assert [point.name for point in pareto_front(points)] == ["fast", "middle", "best"]
    assert pareto_front([]) == []
