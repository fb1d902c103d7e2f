"""Judged sets: figures equal to hand-made ones and to a second implementation, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from scipy import stats

from runoff.contracts import Hit, InputError, Query, ScoreError
from runoff.evaluate.judged import Judged, read_judged
from runoff.evaluate.matrix import figures_of, judge
from runoff.evaluate.measures import difference_interval
from runoff.evaluate.stages import bm25_lists, retrieved_lists, run_lists
from standin_judged import CORPUS, QRELS, QUERIES, judged_folder
from standin_scorer import TableScorer, random_set


@pytest.fixture
def small(tmp_path: Path) -> Judged:
    return read_judged(judged_folder(tmp_path / "small"))


# --- reading -------------------------------------------------------------------------------------------------


def test_a_beir_folder_is_read_with_titles_in_front(small: Judged) -> None:
    assert small.name == "small"
    assert list(small.documents) == [row["_id"] for row in CORPUS]
    assert small.documents["boiler"] == "Boiler The boiler is serviced every October."
    assert small.documents["leak"] == CORPUS[1]["text"]
    assert list(small.queries) == ["q1", "q2", "q3"], "q4 has no positive judgement"
    assert small.grades["q1"] == {"boiler": 2, "leak": 1}
    assert small.queries_judged == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qrels": "q9\troof\t1\n"}, r"test\.tsv judges another set: of its 1 queries 0 have a text"),
        (
            {"qrels": "q1\tnone\t1\n"},
            r"test\.tsv judges another set: .* 1 of its judgements are of documents",
        ),
        ({"qrels": QRELS + "q1\tleak\t2\n"}, r"test\.tsv:8: document 'leak' is judged twice"),
        ({"qrels": "q1\troof\t0\n"}, r"test\.tsv holds no positive judgement"),
        ({"qrels": "q1 roof\n"}, r"test\.tsv:2: expected 4 fields"),
        ({"corpus": [*CORPUS, {"_id": "x", "text": " "}]}, r"corpus\.jsonl:6: document 'x' has neither"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, r"corpus\.jsonl:6: document id 'boiler' stands there twice$"),
        ({"corpus": [*CORPUS, *CORPUS[:3]]}, r"'boiler' stands there twice, as do 2 more$"),
        ({"corpus": [{"text": "no id"}]}, r"corpus\.jsonl:1: no id column"),
        ({"queries": [*QUERIES, {"_id": "q5"}]}, r"queries\.jsonl:5: expected a query's text"),
    ],
)
def test_what_is_no_judged_set_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_judged(judged_folder(tmp_path / "bad", **change))


def test_what_does_not_fit_together_is_counted(tmp_path: Path) -> None:
    qrels = QRELS + "q9\troof\t1\nq1\tgone\t1\nq2\tgone\t2\n"
    odd = read_judged(judged_folder(tmp_path / "odd", qrels=qrels))
    assert [str(gap) for gap in odd.gaps] == [
        "2 judgements of documents that the corpus lacks (the first: gone for query q1)",
        "1 judged queries that have no text (the first: q9)",
        "1 queries without a positive judgement (the first: q4)",
    ]
    assert list(odd.queries) == ["q1", "q2", "q3"]
    found = judge(odd, {query: [("window", 1.0)] for query in odd.queries}, {})
    # q2's ideal order still has the document of grade 2 that the corpus lacks: 1 / (2 + 1 / log2 3).
    assert found.systems["bm25"].ndcg[1] == pytest.approx(1 / (2 + 1 / math.log2(3)))
    assert found.lines()[0]["gaps"] == [str(gap) for gap in odd.gaps]


def test_judgements_alone_judge_runs_and_rerank_nothing(tmp_path: Path) -> None:
    (tmp_path / "web.qrels").write_text("q1 0 a 2\nq1 0 b 0\nq2 0 c 0\n")
    web = read_judged(tmp_path / "web.qrels")
    assert (web.name, web.has_texts, list(web.queries)) == ("web", False, ["q1"])
    assert [gap.count for gap in web.gaps] == [1]
    (tmp_path / "a.run").write_text("q1 Q0 b 1 2 t\nq1 Q0 a 2 1 t\n")
    lists = run_lists(tmp_path / "a.run", web)
    assert judge(web, lists, {}).systems["bm25"].reciprocal_rank.tolist() == [0.5]
    with pytest.raises(InputError, match="web has judgements and no texts, so nothing can be reranked"):
        judge(web, lists, {"model": TableScorer({})})


def test_the_digest_names_all_texts_and_survives_a_sample(tmp_path: Path) -> None:
    first = read_judged(judged_folder(tmp_path / "a"))
    assert first.sampled(1).digest == first.digest
    corpus = [{**CORPUS[0], "text": "The boiler was sold."}, *CORPUS[1:]]
    queries = [{**QUERIES[0], "text": "where is the boiler"}, *QUERIES[1:]]
    others = (judged_folder(tmp_path / "b", corpus=corpus), judged_folder(tmp_path / "c", queries=queries))
    assert len({first.digest, *(read_judged(other).digest for other in others)}) == 3


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = judged_folder(tmp_path / "bad")
    (folder / file).unlink()
    with pytest.raises(InputError, match=Path(file).name.replace(".", r"\.")):
        read_judged(folder)


def test_a_sample_of_queries_is_always_the_same(small: Judged) -> None:
    assert small.sampled(None) is small.sampled(3) is small
    two = small.sampled(2)
    assert len(two.queries) == 2
    assert two.queries == small.sampled(2).queries
    assert (two.queries_judged, list(two.queries)) == (3, sorted(two.queries))
    assert len({tuple(small.sampled(1, seed).queries) for seed in range(20)}) > 1


# --- first stages ----------------------------------------------------------------------------------------------


def test_bm25_finds_by_words_with_stemming_and_fills_the_list(small: Judged) -> None:
    lists = bm25_lists(small.documents, small.queries, depth=4)
    assert {len(pairs) for pairs in lists.values()} == {4}
    assert [lists[query][0][0] for query in ("q1", "q2", "q3")] == ["boiler", "window", "garden"]
    scores = [score for _, score in lists["q1"]]
    assert scores == sorted(scores, reverse=True)
    assert len(bm25_lists(small.documents, small.queries, depth=100)["q1"]) == len(CORPUS)


def test_any_retriever_or_run_is_a_first_stage(small: Judged, tmp_path: Path) -> None:
    class Fixed:
        def retrieve(self, query: Query, k: int) -> list[Hit]:
            assert query.text == small.queries[str(query.id)]
            return [Hit("roof", 2.0, 1), Hit("leak", 1.0, 2), Hit("boiler", 0.5, 3)][:k]

    lists = retrieved_lists(Fixed(), small, 2)
    assert lists == {query: [("roof", 2.0), ("leak", 1.0)] for query in small.queries}
    (tmp_path / "a.run").write_text("q1 Q0 leak 1 3 t\nq1 Q0 boiler 2 2 t\nq1 Q0 roof 3 1 t\nq9 Q0 x 1 1 t\n")
    assert run_lists(tmp_path / "a.run", small, 2) == {
        "q1": [("leak", 3.0), ("boiler", 2.0)],
        "q2": [],
        "q3": [],
    }
    (tmp_path / "b.run").write_text("q1 Q0 nowhere 1 3 t\n")
    with pytest.raises(InputError, match=r"b\.run: query 'q1' lists 'nowhere', which small does not have"):
        run_lists(tmp_path / "b.run", small)
    (tmp_path / "c.run").write_text("q1 Q0 leak 1 3 t\nq1 Q0 leak 2 2 t\n")
    with pytest.raises(InputError, match=r"c\.run: query 'q1' lists 'leak' twice"):
        run_lists(tmp_path / "c.run", small)
    (tmp_path / "d.run").write_text("other Q0 leak 1 3 t\n")
    with pytest.raises(InputError, match="none of the queries of small"):
        run_lists(tmp_path / "d.run", small)


# --- figures ---------------------------------------------------------------------------------------------------


def test_the_figures_are_those_computed_by_hand(small: Judged) -> None:
    lists = {
        "q1": [("roof", 3.0), ("leak", 2.0), ("boiler", 1.0)],
        "q2": [("roof", 2.0), ("garden", 1.0)],
        "q3": [],
    }
    texts = small.documents
    scores = {(small.queries["q1"], texts[d]): s for d, s in (("roof", 0.0), ("leak", 1.0), ("boiler", 5.0))}
    scores |= {(small.queries["q2"], texts[d]): s for d, s in (("roof", 0.0), ("garden", 1.0))}
    found = judge(small, lists, {"model": TableScorer(scores)}, [2.0])
    assert list(found.systems) == ["bm25", "model", "z(bm25)+2*z(model)"]
    ideal = 2 + 1 / math.log2(3)
    q1 = (1 / math.log2(3) + 2 / math.log2(4)) / ideal
    # q2's one relevant document is not among its candidates, q3 has none.
    assert found.systems["bm25"].ndcg.tolist() == pytest.approx([q1, 0.0, 0.0])
    assert found.systems["bm25"].reciprocal_rank.tolist() == [0.5, 0.0, 0.0]
    assert found.systems["model"].ndcg.tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert found.systems["model"].reciprocal_rank.tolist() == [1.0, 0.0, 0.0]
    spread = np.sqrt(14 / 3)  # of 0, 1, 5
    wanted = np.array([1, 0, -1]) / np.sqrt(2 / 3) + 2 * (np.array([0, 1, 5]) - 2) / spread
    assert found.systems["z(bm25)+2*z(model)"].scores[0].tolist() == pytest.approx(wanted.tolist())
    first, model, fused = found.lines()
    assert first["ndcg_at_10"] == pytest.approx(q1 / 3, abs=1e-4)
    assert model["minus_first"] == pytest.approx((1 - q1) / 3, abs=1e-4)
    assert (first["minus_first"], first["minus_first_95"], first["seconds"]) == (0.0, [0.0, 0.0], None)
    assert (model["mrr_at_10"], fused["model"], fused["weight"]) == (0.3333, "model", 2.0)
    assert {line["positives_in_lists"] for line in (first, model, fused)} == {0.5}  # 2 of 4
    assert first["queries_without_candidates"] == 1
    assert first["pairs"] == 5


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_those_of_pytrec_eval_over_all_candidates(seed: int) -> None:
    judged, lists, scorer = random_set(seed)
    found = judge(judged, lists, {"model": scorer})
    evaluator = pytrec_eval.RelevanceEvaluator(judged.grades, {"ndcg_cut_10", "recip_rank"})
    for system in found.systems.values():
        run = {
            query: {document: float(score) for (document, _), score in zip(lists[query], scores, strict=True)}
            for query, scores in zip(found.queries, system.scores, strict=True)
        }
        figures = evaluator.evaluate(run)
        assert system.ndcg.tolist() == pytest.approx([figures[q]["ndcg_cut_10"] for q in found.queries])
        whole = np.array([figures[q]["recip_rank"] for q in found.queries])
        assert system.reciprocal_rank.tolist() == pytest.approx(np.where(whole >= 0.1, whole, 0.0).tolist())


def test_a_model_in_training_is_judged_by_the_same_figures() -> None:
    judged, lists, scorer = random_set(4)
    figures = figures_of(judged, lists)(
        lambda pairs: np.concatenate([scorer.score(q, [d]) for q, d in pairs])
    )
    line = judge(judged, lists, {"model": scorer}).lines()[1]
    assert figures == {
        "ndcg@10": pytest.approx(line["ndcg_at_10"], abs=1e-4),
        "mrr@10": pytest.approx(line["mrr_at_10"], abs=1e-4),
    }


def test_equal_scores_keep_the_first_stages_order(small: Judged) -> None:
    lists = {query: [("roof", 1.0), ("boiler", 0.5), ("window", 0.25)] for query in small.queries}
    scorer = TableScorer({(q, d): 1.0 for q in small.queries.values() for d in small.documents.values()})
    found = judge(small, lists, {"model": scorer})
    assert found.systems["model"].ndcg.tolist() == found.systems["bm25"].ndcg.tolist()
    assert np.isnan(found.spearman("model", "bm25")).all()


def test_depth_is_how_many_candidates_are_scored() -> None:
    judged, lists, scorer = random_set(1)
    told: list[int] = []
    shallow = judge(judged, lists, {"model": scorer}, depth=5, advance=told.append)
    assert told == [5] * len(lists)
    assert shallow.lines()[0]["pairs"] == 5 * len(lists)
    assert shallow.lines()[0]["depth"] == 5


def test_spearman_within_a_query_is_that_of_scipy() -> None:
    judged, lists, scorer = random_set(2)
    other = TableScorer({pair: round(score, 0) for pair, score in scorer.scores.items()})
    found = judge(judged, lists, {"student": scorer, "teacher": other})
    pairs = zip(found.systems["student"].scores, found.systems["teacher"].scores, strict=True)
    wanted = [stats.spearmanr(*pair).statistic for pair in pairs]
    assert found.spearman("student", "teacher").tolist() == pytest.approx(wanted)
    line = next(line for line in found.lines() if line["system"] == "student")
    assert line["spearman"] == {"teacher": pytest.approx(np.mean(wanted), abs=1e-4)}


def test_the_interval_is_a_paired_bootstrap() -> None:
    draw = np.random.default_rng(3)
    base = draw.uniform(size=80)
    figures = base + draw.normal(0.05, 0.1, size=80)
    low, high = difference_interval(figures, base)
    sample = np.random.default_rng(12).integers(80, size=(10_000, 80))
    wanted = np.percentile((figures - base)[sample].mean(axis=1), [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(wanted))
    difference = figures - base
    other = stats.bootstrap((difference,), np.mean, n_resamples=10_000, method="percentile", random_state=1)
    assert (low, high) == pytest.approx(tuple(other.confidence_interval), abs=0.002)
    assert difference_interval(base, base) == (0.0, 0.0)


def test_scores_that_are_no_numbers_and_names_that_meet_are_refused(small: Judged) -> None:
    lists = {query: [("roof", 1.0), ("boiler", 0.5)] for query in small.queries}
    pairs = [(q, d) for q in small.queries.values() for d in small.documents.values()]
    with pytest.raises(ScoreError, match="not finite"):
        judge(small, lists, {"model": TableScorer(dict.fromkeys(pairs, math.nan))})
    with pytest.raises(InputError, match="a name of its own"):
        judge(small, lists, {"bm25": TableScorer(dict.fromkeys(pairs, 1.0))})


def test_published_figures_of_bm25_come_back(shared_data: Path) -> None:
    for name, wanted in (("adi", 0.4938), ("cisi", 0.3956)):
        judged = read_judged(shared_data / "judged" / name)
        found = judge(judged, bm25_lists(judged.documents, judged.queries), {})
        assert found.lines()[0]["ndcg_at_10"] == pytest.approx(wanted, abs=1e-4)
