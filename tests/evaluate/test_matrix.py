"""Retrievers x rerankers: depth curves, the ceiling, what changed, what it costs, and the report of it."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from runoff import Embedder
from runoff.data.trec import read_trec_run, write_trec_run
from runoff.evaluate.judged import Judged, read_judged
from runoff.evaluate.kept import KeptScores
from runoff.evaluate.matrix import judge
from runoff.evaluate.measures import measured
from runoff.evaluate.report import write_report
from runoff.evaluate.stages import bm25_lists, dense_lists, hybrid_lists
from runoff.search.fusion import Fusion
from standin_judged import judged_folder
from standin_scorer import TableScorer, random_set


def test_the_depth_curve_reorders_the_first_candidates_and_keeps_the_rest() -> None:
    judged, lists, scorer = random_set(1)
    found = judge(judged, lists, {"model": scorer}, depth=15, curve=25)
    curve = found.curves["model"]
    assert list(curve) == [0, 10, 20, 25]
    assert curve[0].tolist() == found.systems["bm25"].ndcg.tolist()
    for depth in (10, 20, 25):
        ranked = {}
        for query, pairs in lists.items():
            head = sorted(pairs[:depth], key=lambda p: -scorer.scores[f"query {query}", f"text {p[0]}"])
            ranked[query] = [d for d, _ in [*head, *pairs[depth:]]]
        assert curve[depth].tolist() == measured(judged.grades, ranked)["ndcg@10"].tolist()
    assert found.depth == 15
    assert {len(pairs) for pairs in found.lists.values()} == {15}
    shallow = judge(judged, lists, {"model": scorer}, depth=15)
    assert shallow.systems["model"].ndcg.tolist() == found.systems["model"].ndcg.tolist()
    assert list(shallow.curves["model"]) == [0, 10, 15]


def test_the_ceiling_is_reached_by_a_scorer_that_knows_the_grades() -> None:
    judged, lists, _ = random_set(2)
    known = {
        (f"query {q}", f"text {d}"): float(judged.grades[q].get(d, 0))
        for q in judged.queries
        for d in judged.documents
    }
    found = judge(judged, lists, {"oracle": TableScorer(known)}, [])
    assert found.systems["oracle"].ndcg.tolist() == pytest.approx(found.ceiling["ndcg@10"].tolist())
    line = found.lines()[1]
    assert line["ceiling_ndcg_at_10"] == line["ndcg_at_10"]
    assert line["is_significant"]


def test_the_queries_that_changed_most_are_named_with_their_first_documents() -> None:
    judged, lists, scorer = random_set(3)
    found = judge(judged, lists, {"model": scorer})
    gained, lost = found.changes("model", 3)
    gains = dict(zip(found.queries, found.systems["model"].ndcg - found.systems["bm25"].ndcg, strict=True))
    best = sorted(gains, key=lambda query: -gains[query])
    assert [change.query for change in gained] == [query for query in best[:3] if gains[query] > 0]
    assert [change.query for change in lost] == [query for query in best[::-1][:3] if gains[query] < 0]
    ranked = found.ranked("model")
    for change in (*gained, *lost):
        assert change.after - change.before == pytest.approx(gains[change.query])
        assert change.first_before == lists[change.query][0][0]
        assert change.first_after == ranked[change.query][0][0]


def test_a_systems_lists_are_a_run_that_gives_its_figures_again(tmp_path: Path) -> None:
    judged, lists, scorer = random_set(4)
    found = judge(judged, lists, {"model": scorer})
    write_trec_run(tmp_path / "a.trec", found.ranked("model"))
    again = judge(judged, read_trec_run(tmp_path / "a.trec"), {})
    assert again.systems["bm25"].ndcg.tolist() == found.systems["model"].ndcg.tolist()


def test_time_grows_with_depth_and_every_system_has_a_point() -> None:
    judged, lists, scorer = random_set(5)
    kept = KeptScores(judged, scorer)
    found = judge(judged, lists, {"model": kept}, curve=25, milliseconds=2.0)
    points = {point.name: point for point in found.points()}
    assert list(points) == ["bm25", "model (top 10)", "model (top 20)", "model", "z(bm25)+1*z(model)"]
    assert points["bm25"].milliseconds == 2.0
    each = kept.milliseconds
    assert each is not None
    assert points["model (top 10)"].milliseconds == pytest.approx(2 + 10 * each)
    assert points["model"].milliseconds == points["z(bm25)+1*z(model)"].milliseconds
    assert points["model"].figure == pytest.approx(found.systems["model"].ndcg.mean())


# --- first stages ----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Judged:
    return read_judged(judged_folder(tmp_path / "small"))


def test_dense_lists_are_all_cosines_in_order(small: Judged, tiny: object) -> None:
    embedder = Embedder(tiny("static"))  # type: ignore[operator]
    told: list[int] = []
    lists = dense_lists(small.documents, small.queries, embedder, 3, told.append)
    assert sum(told) == len(small.documents) + len(small.queries)
    for query, text in small.queries.items():
        asked = embedder.encode_query([text])[0]
        cosines = {}
        for id, document in small.documents.items():
            vector = embedder.encode_document([document])[0]
            cosines[id] = float(asked @ vector / np.linalg.norm(asked) / np.linalg.norm(vector))
        wanted = sorted(cosines, key=lambda id: -cosines[id])[:3]
        assert [id for id, _ in lists[query]] == wanted
        assert [score for _, score in lists[query]] == pytest.approx([cosines[id] for id in wanted], abs=1e-6)


def test_hybrid_lists_are_the_fusion_of_both(small: Judged) -> None:
    words = bm25_lists(small.documents, small.queries, 3)
    other = {query: [("garden", 0.9), ("roof", 0.1)] for query in small.queries}
    fused = hybrid_lists([words, other], Fusion("rrf").fused, 4)
    for query, pairs in fused.items():
        ranks: dict[str, float] = {}
        for list_ in (words[query], other[query]):
            for rank, (id, _) in enumerate(list_, start=1):
                ranks[id] = ranks.get(id, 0.0) + 1 / (60 + rank)
        assert [id for id, _ in pairs] == sorted(ranks, key=lambda id: -ranks[id])[:4]


# --- the report ------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """The tags that are open, and all texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.outside += [
            value or ""
            for name, value in attrs
            if name in ("src", "href") and not (value or "").startswith("#")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_says_the_same_in_three_files_and_needs_nothing_beside_it(tmp_path: Path) -> None:
    judgements, lines = [], []
    for seed in (6, 7):
        judged, lists, scorer = random_set(seed)
        for first, run in (("bm25", lists), ("<dense>", {q: pairs[::-1] for q, pairs in lists.items()})):
            found = judge(judged, run, {"org/model": scorer}, curve=25, first=first, milliseconds=1.0)
            judgements.append(found)
            lines += [{**line, "command": "runoff judge x", "date": "2026-11-25"} for line in found.lines()]
    write_report(tmp_path, judgements, lines, 2)
    page = _Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.outside == []
    texts = " ".join(page.texts)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in lines:
        assert f"{line['ndcg_at_10']:.4f}" in texts
        assert f"{line['ndcg_at_10']:.4f}" in markdown
    assert "random, <dense>" in texts
    assert "candidates reranked" in texts  # the charts' own words are text
    whole = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert whole["systems"] == json.loads(json.dumps(lines))
    means = [math.fsum(each["ndcg_at_10"].values()) / len(each["ndcg_at_10"]) for each in whole["queries"]]
    assert [round(mean, 4) for mean in means] == pytest.approx(
        [line["ndcg_at_10"] for line in lines], abs=2e-4
    )


@pytest.mark.parametrize(
    ("better", "verdict"),
    [(1.0, "Reranking helps: model"), (-1.0, "Reranking hurts: even the best"), (0.0, "No reranker helps")],
)
def test_the_report_says_in_a_sentence_whether_it_is_worth_it(
    tmp_path: Path, better: float, verdict: str
) -> None:
    judged, lists, _ = random_set(8, queries=40)
    grades = {
        (f"query {q}", f"text {d}"): better * judged.grades[q].get(d, 0)
        for q in judged.queries
        for d in judged.documents
    }
    found = judge(judged, lists, {"model": TableScorer(grades)}, [])
    write_report(tmp_path, [found], found.lines(), 1)
    assert f"**{verdict}" in (tmp_path / "report.md").read_text(encoding="utf-8")
