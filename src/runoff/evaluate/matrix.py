"""First stages x rerankers on a judged set -> what each system finds, how sure the differences are, and what it costs.

`judge` compares one first stage with rerankers over it. Several first stages are several calls with the same
`KeptScores`, so that no pair is scored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from runoff.contracts import FloatArray, InputError, Pair, Scorer
from runoff.data.trec import Run
from runoff.evaluate.judged import Judged
from runoff.evaluate.kept import KeptScores
from runoff.evaluate.measures import Difference, Figures, Point, best_order, difference, measured
from runoff.evaluate.stages import DEPTH, FIRST, bm25_lists, checked_lists
from runoff.ranking import rank_scores, spearman, z_scores

MAIN = "ndcg@10"
DEPTHS = (0, 10, 20, 50, 100, 200)
"""Where the depth curve has its points, as far as the lists go."""


@dataclass(frozen=True, slots=True)
class System:
    """One way to order the candidates: a score of each (by query, in the list's order), and figures by name, [Q].

    `model` and `weight`: None for the first stage; a model without a weight is alone, with one it is fused.
    `seconds` is what its model took for all pairs.
    """

    name: str
    model: str | None
    weight: float | None
    scores: Sequence[Figures]
    figures: Mapping[str, Figures]
    seconds: float | None = None

    @property
    def ndcg(self) -> Figures:
        return self.figures[MAIN]

    @property
    def reciprocal_rank(self) -> Figures:
        return self.figures["mrr@10"]

    @property
    def is_model_alone(self) -> bool:
        return self.model is not None and self.weight is None


@dataclass(frozen=True, slots=True)
class Change:
    """What a system made of a query: NDCG@10 before and after, and the document it put first, before and after."""

    query: str
    before: float
    after: float
    first_before: str | None
    first_after: str | None


@dataclass(frozen=True)
class Judgement:
    """What `judge` found: the systems by name, the first stage first. Figures are in the order of `queries`.

    `curves`: model -> rerank depth -> NDCG@10 [Q]; `milliseconds`: the first stage's a query, where it is known.
    """

    judged: Judged
    lists: Run
    depth: int
    first: str
    systems: Mapping[str, System]
    curves: Mapping[str, Mapping[int, Figures]]
    milliseconds: float | None = None

    @property
    def queries(self) -> tuple[str, ...]:
        return tuple(self.judged.queries)

    @cached_property
    def ceiling(self) -> Mapping[str, Figures]:
        """The figures of the best order of the same candidates: more no reranker can reach."""
        ranked = {
            query: best_order(self.judged.grades[query], [document for document, _ in pairs])
            for query, pairs in self.lists.items()
        }
        return measured(self.judged.grades, ranked)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str], Difference]:
        return {}

    def ranked(self, system: str) -> Run:
        """The system's own lists, best first, with its scores."""
        scores = self.systems[system].scores
        run: Run = {}
        for (query, pairs), values in zip(self.lists.items(), scores, strict=True):
            order = rank_scores(values)
            run[query] = [(pairs[row][0], float(values[row])) for row in order.rows]
        return run

    def difference(self, system: str, base: str | None = None, figure: str = MAIN) -> Difference:
        """The system's figure minus that of `base` (None: the first stage), with its interval."""
        asked = (system, base or self.first, figure)
        if (
            asked not in self._differences
        ):  # 10,000 draws each, and tables in three forms ask for the same ones
            ours, theirs = (self.systems[name].figures[figure] for name in asked[:2])
            self._differences[asked] = difference(ours, theirs)
        return self._differences[asked]

    def spearman(self, one: str, other: str) -> Figures:
        """Spearman's correlation [Q] of two systems' scores; NaN where one gives all candidates the same."""
        pairs = zip(self.systems[one].scores, self.systems[other].scores, strict=True)
        return np.array([spearman(first, second) for first, second in pairs])

    def changes(
        self, system: str, count: int = 5, base: str | None = None
    ) -> tuple[list[Change], list[Change]]:
        """The `count` queries that gained most by NDCG@10, and the `count` that lost most; those unchanged are in
        neither."""
        ours, theirs = self.systems[system], self.systems[base or self.first]
        gains = ours.ndcg - theirs.ndcg
        order = np.argsort(-gains, kind="stable")
        best = [int(row) for row in order[:count] if gains[row] > 0]
        worst = [int(row) for row in order[::-1][:count] if gains[row] < 0]
        found, before = self.ranked(ours.name), self.ranked(theirs.name)

        def change(row: int) -> Change:
            query = self.queries[row]
            first = [lists[query][0][0] if lists[query] else None for lists in (before, found)]
            return Change(query, float(theirs.ndcg[row]), float(ours.ndcg[row]), *first)

        return [change(row) for row in best], [change(row) for row in worst]

    def points(self) -> list[Point]:
        """Each system and depth by the milliseconds a query takes and its NDCG@10, where times are known. A fused
        system takes what its model takes."""
        points = []
        retrieval = self.milliseconds or 0.0
        base = self.systems[self.first]
        points.append(Point(self.first, retrieval, float(base.ndcg.mean())))
        pairs = sum(map(len, self.lists.values()))
        mean_depth = pairs / max(1, len(self.lists))
        for system in self.systems.values():
            if system.seconds is None:
                continue
            each = 1000 * system.seconds / max(1, pairs)
            if system.is_model_alone:
                for depth, figures in self.curves.get(system.name, {}).items():
                    if 0 < depth < mean_depth:
                        name = f"{system.name} (top {depth})"
                        points.append(Point(name, retrieval + depth * each, float(figures.mean())))
            points.append(Point(system.name, retrieval + mean_depth * each, float(system.ndcg.mean())))
        return points

    def lines(self) -> list[dict[str, Any]]:
        """One line of figures for each system, for programs."""
        shared = self.facts()
        return [{**self._line(system), **shared} for system in self.systems.values()]

    def facts(self) -> dict[str, Any]:
        """What all lines say alike: the set, and what the first stage's lists hold."""
        found, wanted = self._positives()
        return {
            "collection": self.judged.name,
            "first_stage": self.first,
            "depth": self.depth,
            "queries": len(self.queries),
            "queries_judged": self.judged.queries_judged,
            "queries_without_candidates": sum(not pairs for pairs in self.lists.values()),
            "documents": len(self.judged.documents),
            "pairs": sum(map(len, self.lists.values())),
            "positives_in_lists": round(found / wanted, 4),
            "ceiling_ndcg_at_10": round(float(self.ceiling[MAIN].mean()), 4),
            "gaps": [str(gap) for gap in self.judged.gaps],
        }

    def _line(self, system: System) -> dict[str, Any]:
        models = [each.name for each in self.systems.values() if each.is_model_alone]
        others = [name for name in models if name != system.name] if system.name in models else []
        against = self.difference(system.name)
        curve = self.curves.get(system.name, {})
        return {
            "system": system.name,
            "model": system.model,
            "weight": system.weight,
            "ndcg_at_10": round(float(system.ndcg.mean()), 4),
            "minus_first": round(against.mean, 4),
            "minus_first_95": [round(against.low, 4), round(against.high, 4)],
            "is_significant": against.is_significant,
            "mrr_at_10": round(float(system.reciprocal_rank.mean()), 4),
            "figures": {name: round(float(values.mean()), 4) for name, values in system.figures.items()},
            "curve": {str(depth): round(float(values.mean()), 4) for depth, values in curve.items()},
            "spearman": {other: _mean_or_none(self.spearman(system.name, other)) for other in others},
            "minus": {other: str(self.difference(system.name, other)) for other in others},
            "seconds": None if system.seconds is None else round(system.seconds, 2),
        }

    def _positives(self) -> tuple[int, int]:
        """How many positive judgements the lists have, and how many there are."""
        found = wanted = 0
        for query in self.queries:
            positive = {document for document, grade in self.judged.grades[query].items() if grade > 0}
            wanted += len(positive)
            found += len(positive & {document for document, _ in self.lists[query]})
        return found, wanted


def judge(
    judged: Judged,
    lists: Run,
    scorers: Mapping[str, Scorer | KeptScores],
    weights: Sequence[float] = (1.0,),
    *,
    depth: int = DEPTH,
    curve: int | None = None,
    first: str = FIRST,
    milliseconds: float | None = None,
    advance: Callable[[int], Any] = lambda _: None,
) -> Judgement:
    """The first stage, each scorer alone, and z(first stage) + weight * z(scorer), on the lists' first `depth`.

    Figures are pytrec_eval's (`measures.measured`). Equal scores keep the first stage's order. Pairs are scored down
    to `curve` (None: `depth`) for the depth curves: there the best `depth` are reordered, the rest stays behind them.
    `advance` is told how many pairs were scored. Raises `InputError` for rerankers on a set without texts.
    """
    if scorers and not judged.has_texts:
        raise InputError(
            f"{judged.name} has judgements and no texts, so nothing can be reranked: give its BEIR folder"
        )
    deep = checked_lists(lists, judged, max(depth, curve or 0), first)
    lists = {query: pairs[:depth] for query, pairs in deep.items()}
    base = [np.array([score for _, score in pairs], np.float64) for pairs in lists.values()]
    systems = [_system(judged, lists, first, base)]
    curves: dict[str, Mapping[int, Figures]] = {}
    for name, scorer in scorers.items():
        kept = scorer if isinstance(scorer, KeptScores) else KeptScores(judged, scorer)
        whole = [kept.of(query, [id for id, _ in pairs], advance) for query, pairs in deep.items()]
        scores = [values[:depth] for values in whole]
        each = kept.milliseconds
        seconds = None if each is None else each * sum(map(len, scores)) / 1000
        systems.append(_system(judged, lists, name, scores, name, seconds=seconds))
        curves[name] = _curve(judged, deep, whole)
        for weight in weights:
            fused = [z_scores(b) + weight * z_scores(s) for b, s in zip(base, scores, strict=True)]
            systems.append(
                _system(judged, lists, fused_name(first, weight, name), fused, name, weight, seconds)
            )
    by_name = {system.name: system for system in systems}
    if len(by_name) < len(systems):
        raise InputError(f"each system needs a name of its own, got {', '.join(s.name for s in systems)}")
    return Judgement(judged, lists, depth, first, by_name, curves, milliseconds)


def figures_of(
    judged: Judged, lists: Run | None = None, depth: int = DEPTH
) -> Callable[[Callable[[Sequence[Pair]], FloatArray]], dict[str, float]]:
    """A function from (pairs -> raw scores) to {"ndcg@10", "mrr@10"} of a model alone on `lists` (None: BM25's), for a
    model that is judged again and again while it is trained."""
    found = bm25_lists(judged.documents, judged.queries, depth) if lists is None else lists
    lists = checked_lists(found, judged, depth, FIRST)
    pairs = [
        (judged.queries[query], judged.documents[document])
        for query, row in lists.items()
        for document, _ in row
    ]
    edges = np.cumsum([len(row) for row in lists.values()])[:-1]

    def figures(scores_of: Callable[[Sequence[Pair]], FloatArray]) -> dict[str, float]:
        scores = np.split(np.asarray(scores_of(pairs), np.float64), edges)
        found = measured(judged.grades, _ordered(lists, scores), ("ndcg", "mrr"), (10,))
        return {name: float(values.mean()) for name, values in found.items()}

    return figures


def fused_name(first: str, weight: float, model: str) -> str:
    return f"z({first})+{weight:g}*z({model})"


def _system(
    judged: Judged,
    lists: Run,
    name: str,
    scores: Sequence[Figures],
    model: str | None = None,
    weight: float | None = None,
    seconds: float | None = None,
) -> System:
    figures = measured(judged.grades, _ordered(lists, scores))
    return System(name, model, weight, scores, figures, seconds)


def _ordered(lists: Run, scores: Sequence[Figures]) -> dict[str, list[str]]:
    """Document ids by score; equal scores keep the list's order."""
    return {
        query: [pairs[row][0] for row in rank_scores(values).rows]
        for (query, pairs), values in zip(lists.items(), scores, strict=True)
    }


def _curve(judged: Judged, lists: Run, scores: Sequence[Figures]) -> dict[int, Figures]:
    """NDCG@10 when the first `depth` candidates are reordered and the rest stays where it is."""
    deepest = max(map(len, lists.values()), default=0)
    curve = {}
    for depth in sorted({*(each for each in DEPTHS if each < deepest), deepest}):
        ranked = {
            query: [
                *(pairs[row][0] for row in rank_scores(values[:depth]).rows),
                *(id for id, _ in pairs[depth:]),
            ]
            for (query, pairs), values in zip(lists.items(), scores, strict=True)
        }
        curve[depth] = measured(judged.grades, ranked, ("ndcg",), (10,))[MAIN]
    return curve


def _mean_or_none(values: Figures) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 4) if len(known) else None
