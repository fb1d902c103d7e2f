"""What is kept: nothing is scored twice, nothing is mixed up, and a crash costs a query at most."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runoff.contracts import InputError, ScoreError
from runoff.data.trec import Run, read_trec_run
from runoff.evaluate.kept import KeptScores, kept_lists
from runoff.evaluate.matrix import judge
from standin_scorer import TableScorer, random_set


def test_a_pair_is_scored_once_over_all_retrievers_and_runs(tmp_path: Path) -> None:
    judged, lists, scorer = random_set(1)
    other: Run = {query: pairs[::-1][:12] for query, pairs in lists.items()}
    kept = KeptScores(judged, scorer, tmp_path / "s.trec", {"weights": "1"})
    first = judge(judged, lists, {"model": kept}, depth=10)
    assert (scorer.asked, kept.scored) == (120, 120)
    second = judge(judged, other, {"model": kept}, depth=12)
    union = sum(len({d for d, _ in lists[q][:10]} | {d for d, _ in other[q]}) for q in lists)
    assert scorer.asked == kept.scored == union
    again = KeptScores(judged, TableScorer({}), tmp_path / "s.trec", {"weights": "1"})
    for before, list_, depth in ((first, lists, 10), (second, other, 12)):
        after = judge(judged, list_, {"model": again}, depth=depth)
        assert after.systems["model"].ndcg.tolist() == before.systems["model"].ndcg.tolist()
        assert [s.tolist() for s in after.systems["model"].scores] == [
            s.tolist() for s in before.systems["model"].scores
        ]
    assert again.scored == 0
    assert again.milliseconds is not None
    run = read_trec_run(tmp_path / "s.trec")
    assert sum(map(len, run.values())) == union


def test_a_crash_costs_the_query_of_the_moment(tmp_path: Path) -> None:
    judged, lists, scorer = random_set(2)

    class Crashing(TableScorer):
        def score(self, query: str, documents: list[str]) -> object:
            if self.asked >= 100:
                raise KeyboardInterrupt
            return super().score(query, documents)

    file = tmp_path / "s.trec"
    with pytest.raises(KeyboardInterrupt):
        judge(judged, lists, {"model": KeptScores(judged, Crashing(scorer.scores), file)})
    with file.open("a") as out:
        out.write("q9 Q0 d1 1 0.2")  # the line of a process that died while it wrote
    kept = KeptScores(judged, scorer, file)
    found = judge(judged, lists, {"model": kept})
    assert kept.scored == 25 * 12 - 100
    wanted = judge(judged, lists, {"model": scorer})
    assert found.systems["model"].ndcg.tolist() == wanted.systems["model"].ndcg.tolist()
    assert all(line.count(" ") == 5 for line in file.read_text().splitlines())


def test_scores_of_another_model_or_of_other_texts_are_refused(tmp_path: Path) -> None:
    judged, _, scorer = random_set(3)
    file = tmp_path / "s.trec"
    KeptScores(judged, scorer, file, {"weights": "1", "precision": "fp32"})
    with pytest.raises(
        InputError, match=r"made of something else: precision 'fp32', now 'int8'\. Name another"
    ):
        KeptScores(judged, scorer, file, {"weights": "1", "precision": "int8"})
    with pytest.raises(InputError, match="texts 'digest 3', now 'digest 4'"):
        KeptScores(random_set(4)[0], scorer, file, {"weights": "1", "precision": "fp32"})
    file.with_name("s.trec.json").write_text("{")
    with pytest.raises(InputError, match=r"s\.trec\.json is damaged"):
        KeptScores(judged, scorer, file)
    file.with_name("s.trec.json").unlink()
    with pytest.raises(InputError, match=r"is there without s\.trec\.json"):
        KeptScores(judged, scorer, file)


def test_a_file_with_another_line_is_named(tmp_path: Path) -> None:
    judged, _, scorer = random_set(3)
    file = tmp_path / "s.trec"
    KeptScores(judged, scorer, file)
    file.write_text("q1 Q0 d1 1 0.5 t\nq1 Q0\n")
    with pytest.raises(InputError, match=r"s\.trec:2: expected `query Q0 document rank score tag`"):
        KeptScores(judged, scorer, file)


def test_scores_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    judged, lists, scorer = random_set(3)
    bad = TableScorer(dict.fromkeys(scorer.scores, math.nan))
    with pytest.raises(ScoreError, match="not finite"):
        judge(judged, lists, {"model": KeptScores(judged, bad, tmp_path / "s.trec")})
    assert (tmp_path / "s.trec").read_text() == ""


def test_lists_are_retrieved_once_and_again_for_more(tmp_path: Path) -> None:
    judged, lists, _ = random_set(6)
    asked = []

    def retrieve(depth: int) -> Run:
        asked.append(depth)
        return {query: pairs[:depth] for query, pairs in lists.items() if query != "q0"} | {"q0": []}

    file = tmp_path / "lists" / "bm25.trec"
    first, _, was_kept = kept_lists(judged, file, {"retriever": "x"}, 10, lambda: retrieve(10))
    assert not was_kept
    fewer = judged.sampled(3)
    second, _, was_kept = kept_lists(fewer, file, {"retriever": "x"}, 5, lambda: retrieve(5))
    assert was_kept
    assert second == {query: first[query][:5] for query in fewer.queries}
    assert "q0" not in first or first["q0"] == []
    kept_lists(judged, file, {"retriever": "x"}, 20, lambda: retrieve(20))
    assert asked == [10, 20]
    with pytest.raises(InputError, match="retriever 'x', now 'y'"):
        kept_lists(judged, file, {"retriever": "y"}, 5, lambda: retrieve(5))
    assert json.loads(file.with_name("bm25.trec.json").read_text())["depth"] == 20


def test_ids_that_a_trec_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    judged, _, scorer = random_set(3)
    kept = KeptScores(judged, scorer, tmp_path / "s.trec")
    judged.documents["a b"] = "text d1"  # type: ignore[index]
    with pytest.raises(InputError, match="cannot be empty or have blanks: 'a b'"):
        kept.of("q1", ["a b"])
