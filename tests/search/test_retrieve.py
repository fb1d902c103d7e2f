"""First stages: what they find, in which order, and that a query is only words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import Document, Hit, InputError, Query, Retriever
from runoff.search.fusion import Fusion
from runoff.search.index import Index
from runoff.search.retrieve import BM25, Candidates, Dense, Hybrid, TrecRun, stored_tokenizer
from standin_search import SharedWords, WordHashes, numbered_documents

DOCUMENTS = [
    Document("apple", "red apple pie"),
    Document("pear", "green pear tart"),
    Document("plum", "blue plum cake and apple"),
    Document("twin-b", "same words here"),
    Document("twin-a", "same words here"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("fruit") / "index", SharedWords(), WordHashes())
    index.add(DOCUMENTS)
    return index


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


# --- BM25 ------------------------------------------------------------------------------------------


def test_bm25_orders_by_score_and_keeps_score_and_rank_by_its_name(index: Index) -> None:
    hits = BM25(index).retrieve(Query("apple pie"), 10)
    assert ids(hits) == ["apple", "plum"]
    assert hits[0].score > hits[1].score > 0
    assert [hit.rank for hit in hits] == [1, 2]
    assert hits[1].scores == {"bm25": hits[1].score}
    assert hits[1].ranks == {"bm25": 2}
    assert hits[0].text == "red apple pie"


def test_bm25_finds_the_same_order_as_bm25s(shared_data: Path, tmp_path: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    stemmer = pytest.importorskip("Stemmer").Stemmer("english")
    from runoff.data.formats import read_documents, read_qrels, read_queries

    folder = shared_data / "judged" / "adi"
    documents = [each for each in read_documents(folder) if isinstance(each, Document)]
    index = Index.create(tmp_path / "index")
    index.add(documents)
    other = bm25s.BM25()
    other.index(
        bm25s.tokenize([each.text for each in documents], stemmer=stemmer, show_progress=False),
        show_progress=False,
    )
    qrels = read_qrels(folder)
    overlaps = []
    for query in read_queries(folder):
        if query.id in qrels:
            tokens = bm25s.tokenize(query.text, stemmer=stemmer, show_progress=False)
            rows, _ = other.retrieve(tokens, k=10, show_progress=False)
            theirs = {documents[row].id for row in rows[0]}
            overlaps.append(len(theirs & set(ids(BM25(index).retrieve(query, 10)))) / 10)
    # Two lists of stop words and two idf formulas: the same documents, not to the last one.
    assert np.mean(overlaps) > 0.8


@pytest.mark.parametrize(
    "text",
    [
        '"apple',
        "text:apple",
        "apple AND NOT pie",
        "apple^2 ~pie*",
        "(apple OR",
        "id = 'apple'",
        "app\x00le apple",
        "-apple",
    ],
)
def test_nothing_in_a_query_is_an_operator(index: Index, text: str) -> None:
    assert set(ids(BM25(index).retrieve(Query(text), 10))) == {"apple", "plum"}


@pytest.mark.parametrize("text", ["", "   ", "the and", "?!", "中文", "unheardof"])
def test_a_query_without_known_words_finds_nothing(index: Index, text: str) -> None:
    assert BM25(index).retrieve(Query(text), 10) == []


def test_a_very_long_query_is_only_slow(index: Index) -> None:
    assert "apple" in ids(BM25(index).retrieve(Query("apple pear " * 5000), 10))


def test_tied_documents_come_by_id_also_across_the_last_place(tmp_path: Path) -> None:
    tied = Index.create(tmp_path / "index")
    tied.add([Document(f"t{number:02}", "same words") for number in reversed(range(40))])
    assert ids(BM25(tied).retrieve(Query("words"), 3)) == ["t00", "t01", "t02"]
    assert ids(BM25(tied).retrieve(Query("words"), 40)) == [f"t{number:02}" for number in range(40)]


def test_k_of_0_gives_nothing_beyond_gives_all_and_negative_is_refused(index: Index) -> None:
    for retriever in (BM25(index), Dense(index, WordHashes()), Hybrid([BM25(index)]), Candidates(["apple"])):
        assert retriever.retrieve(Query("apple"), 0) == []
        for k in (10_000, 2**63 - 1, 2**63, 2**70):
            assert 0 < len(retriever.retrieve(Query("apple"), k)) <= len(DOCUMENTS)
        with pytest.raises(InputError, match="got -1"):
            retriever.retrieve(Query("apple"), -1)


# --- dense -------------------------------------------------------------------------------------------


def test_dense_scores_are_the_exact_cosines(index: Index) -> None:
    embedder = WordHashes()
    vectors = embedder.encode_document([each.text for each in DOCUMENTS])
    query = embedder.encode_query("green apple cake")
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected = sorted(zip((-cosines).round(6), [each.id for each in DOCUMENTS], strict=True))
    hits = Dense(index, embedder).retrieve(Query("green apple cake"), 10)
    assert ids(hits) == [id for _, id in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [-score for score, _ in expected], atol=1e-5)


def test_dense_refuses_an_embedder_that_did_not_make_the_vectors(index: Index) -> None:
    with pytest.raises(InputError, match="'other'"):
        Dense(index, WordHashes(name="other"))


def test_filters_come_before_the_nearest_are_chosen(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", embedder=WordHashes())
    index.add(numbered_documents(200))
    hits = Dense(index, WordHashes(), where="year = 2004").retrieve(Query("river"), 20)
    assert len(hits) == 20
    assert {hit.metadata["year"] for hit in hits} == {2004}


# --- hybrid ------------------------------------------------------------------------------------------


def test_hybrid_keeps_what_each_list_said(index: Index) -> None:
    words, vectors = BM25(index), Dense(index, WordHashes())
    hits = Hybrid([words, vectors]).retrieve(Query("apple pie"), 10)
    by_words, by_vectors = words.retrieve(Query("apple pie"), 10), vectors.retrieve(Query("apple pie"), 10)
    first = hits[0]
    assert first.id == "apple"
    assert first.ranks == {"bm25": 1, "dense": 1, "fusion": 1}
    assert first.scores == {"bm25": by_words[0].score, "dense": by_vectors[0].score, "fusion": 2 / 61}
    only_dense = next(hit for hit in hits if hit.id == "pear")
    assert set(only_dense.scores) == {"dense", "fusion"}
    assert ids(
        Hybrid([words, vectors], Fusion("rrf", weights=(0.0, 1.0))).retrieve(Query("apple pie"), 2)
    ) == ids(by_vectors[:2])


def test_two_lists_of_one_kind_are_told_apart(index: Index) -> None:
    hits = Hybrid([BM25(index), BM25(index, where="id <> 'apple'")]).retrieve(Query("apple"), 10)
    assert set(hits[0].ranks) == {"bm25", "bm25#2", "fusion"}
    assert hits[0].id == "plum"


def test_hybrid_asks_each_list_for_more_than_it_returns(index: Index) -> None:
    asked = []

    class Watching:
        def retrieve(self, query: Query, k: int) -> list[Hit]:
            asked.append(k)
            return []

    assert isinstance(Watching(), Retriever)
    Hybrid([Watching()], depth=30).retrieve(Query("x"), 5)
    Hybrid([Watching()], depth=30).retrieve(Query("x"), 50)
    assert asked == [30, 50]


# --- lists from elsewhere ------------------------------------------------------------------------------


def test_candidates_keep_their_order() -> None:
    hits = Candidates(["one", Document("two", "second"), Hit("three", 0.5, 9, "third")]).retrieve(
        Query("x"), 5
    )
    assert [(hit.id, hit.text, hit.rank, hit.score) for hit in hits] == [
        ("0", "one", 1, 1.0),
        ("two", "second", 2, 0.5),
        ("three", "third", 3, 0.5),
    ]


def test_candidates_of_each_query_are_found_by_its_id_or_its_text() -> None:
    candidates = Candidates({"q1": ["for one"], "what is two": ["for two"]})
    assert candidates.retrieve(Query("anything", "q1"), 5)[0].text == "for one"
    assert candidates.retrieve(Query("what is two"), 5)[0].text == "for two"
    with pytest.raises(InputError, match="no candidates for query 'q3'"):
        candidates.retrieve(Query("what is three", "q3"), 5)


def test_a_single_text_is_not_a_list_of_candidates() -> None:
    with pytest.raises(InputError, match="got one text"):
        Candidates("one text")
    with pytest.raises(InputError, match="got int at place 0"):
        Candidates([1]).retrieve(Query("x"), 1)  # type: ignore[list-item]


def test_a_trec_run_is_a_first_stage_over_an_index(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "other.run"
    path.write_text("q1 Q0 pear 1 1.5 other\nq1 Q0 apple 2 7.5 other\nq2 Q0 plum 1 0.1 other\n")
    run = TrecRun(path, index)
    hits = run.retrieve(Query("whatever", "q1"), 10)
    assert [(hit.id, hit.text, hit.rank, hit.scores) for hit in hits] == [
        ("apple", "red apple pie", 1, {"retrieve": 7.5}),
        ("pear", "green pear tart", 2, {"retrieve": 1.5}),
    ]
    assert hits[0].tokens is not None
    assert stored_tokenizer(run) == index.tokenizer
    with pytest.raises(InputError, match="id is in the run"):
        run.retrieve(Query("no id"), 10)


def test_a_trec_run_over_another_collection_is_refused(index: Index) -> None:
    run = {"q": [("apple", 2.0), ("banana", 1.0)]}
    with pytest.raises(InputError, match=r"1 of 2 documents of the run .*'banana'"):
        TrecRun(run, index).retrieve(Query("x", "q"), 5)
    hits = TrecRun(run, {"apple": "a fruit", "banana": Document("banana", "another")}).retrieve(
        Query("x", "q"), 5
    )
    assert [hit.text for hit in hits] == ["a fruit", "another"]
    assert [hit.text for hit in TrecRun(run).retrieve(Query("x", "q"), 1)] == [None]
