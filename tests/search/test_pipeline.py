"""Search: candidates are reranked, every score and rank is kept, stored tokens stand in for texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import (
    Document,
    FloatArray,
    Hit,
    InputError,
    Query,
    ScoreError,
    TokenIds,
    TokenizerMismatchError,
)
from runoff.search.index import Index
from runoff.search.pipeline import Search, SearchOptions
from runoff.search.retrieve import TrecRun
from standin_search import SharedWords, WordHashes, numbered_documents


class Fixed:
    """A reranker whose scores are given, by text."""

    name = "fixed"
    tokenizer_fingerprint = None

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        raise AssertionError("takes texts only")

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
        return np.array([self.scores[str(each)] for each in documents], dtype=np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("numbers") / "index", SharedWords(), WordHashes())
    index.add(numbered_documents(300))
    return index


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_a_hit_keeps_every_score_and_its_rank_before_and_after(index: Index) -> None:
    result = Search(index, SharedWords()).search("river falcon number19", top_k=5)
    assert len(result) == 5
    assert [hit.rank for hit in result] == [1, 2, 3, 4, 5]
    for hit in result:
        assert hit.score == hit.scores["rerank"]
        assert hit.ranks["rerank"] == hit.rank
        assert result.before[hit.ranks["bm25"] - 1].id == hit.id
        assert result.before[hit.ranks["bm25"] - 1].score == hit.scores["bm25"]
    assert result.query == Query("river falcon number19")
    assert sorted(result.timings) == ["rerank", "retrieve", "total"]
    assert result.timings["total"] >= result.timings["retrieve"] + result.timings["rerank"]


def test_the_reranker_decides_and_ties_keep_the_first_stages_order() -> None:
    candidates = ["a", "b", "c", "d"]
    result = Search(candidates, Fixed({"a": 1.0, "b": 2.0, "c": 1.0, "d": 2.0})).search("q")
    assert [hit.text for hit in result.hits] == ["b", "d", "a", "c"]
    assert [hit.text for hit in result.before] == candidates


def test_beyond_the_depth_documents_keep_their_order_after_the_reranked() -> None:
    scorer = Fixed({"a": 0.0, "b": 1.0, "c": 9.0, "d": 8.0})
    result = Search(["a", "b", "c", "d"], scorer, options=SearchOptions(depth=2)).search("q", top_k=4)
    assert [hit.text for hit in result.hits] == ["b", "a", "c", "d"]
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    assert "rerank" not in result.hits[2].scores
    assert result.hits[2].score == result.hits[2].scores["retrieve"]


def test_only_the_depth_is_scored(index: Index) -> None:
    words = SharedWords()
    Search(index, words, options=SearchOptions(depth=7)).search("river", top_k=20)
    assert words.documents_scored == 7


def test_final_fusion_adds_weighted_z_scores() -> None:
    hits = [Hit("a", 9.0, 1, "a"), Hit("b", 6.0, 2, "b"), Hit("c", 3.0, 3, "c")]
    scorer = Fixed({"a": -1.0, "b": 0.0, "c": 1.0})
    fused = Search(hits, scorer, options=SearchOptions(rerank_weight=0.25)).search("q")
    high = math.sqrt(1.5)  # the z-score of the first of three evenly spaced values
    assert [hit.text for hit in fused.hits] == ["a", "b", "c"]
    assert [hit.score for hit in fused.hits] == pytest.approx([high / 2, 0.0, -high / 2])
    assert fused.hits[0].scores["rerank"] == -1.0
    assert fused.hits[0].ranks == {"retrieve": 1, "rerank": 3, "final": 1}
    assert "fuse" in fused.timings
    mostly = Search(hits, scorer, options=SearchOptions(rerank_weight=0.9)).search("q")
    assert [hit.text for hit in mostly.hits] == ["c", "b", "a"]


def test_without_a_reranker_the_first_stage_stands(index: Index) -> None:
    result = Search(index).search("river falcon", top_k=4)
    assert result.hits == result.before
    assert len(result.hits) == 4


@pytest.mark.parametrize("retrieve", ["bm25", "dense", "hybrid"])
def test_every_way_to_retrieve_is_reranked(index: Index, retrieve: str) -> None:
    options = SearchOptions(retrieve=retrieve, fusion="zscore", depth=300)  # type: ignore[arg-type]
    result = Search(index, SharedWords(), WordHashes(), options).search("number38", top_k=3)
    assert result.hits[0].id == "d38"
    stages = {"bm25": {"bm25"}, "dense": {"dense"}, "hybrid": {"bm25", "dense", "fusion"}}[retrieve]
    assert set(result.hits[0].scores) == stages | {"rerank"}


def test_a_filter_narrows_one_query(index: Index) -> None:
    options = SearchOptions(retrieve="hybrid")
    result = Search(index, SharedWords(), WordHashes(), options).search(
        "river", 10, where="year = 2009 AND lang = 'en'"
    )
    assert {(hit.metadata["year"], hit.metadata["lang"]) for hit in result.hits} == {(2009, "en")}
    with pytest.raises(InputError, match="a filter needs an Index"):
        Search(["a"]).search("q", where="year = 2009")


def test_top_k_of_0_gives_none_beyond_the_corpus_gives_all_and_negative_is_refused(index: Index) -> None:
    search = Search(index, SharedWords(), WordHashes(), SearchOptions(retrieve="dense"))
    assert search.search("river", top_k=0).hits == []
    assert len(search.search("river", top_k=10_000)) == 300
    assert len(search.search("river", top_k=2**70)) == 300
    with pytest.raises(InputError, match="top_k of 0 or more, got -1"):
        search.search("river", top_k=-1)


@pytest.mark.parametrize("text", ["", "   ", "中文 unheardof"])
def test_a_query_that_finds_nothing_gives_no_hits(index: Index, text: str) -> None:
    assert Search(index, SharedWords()).search(text).hits == []


def test_many_queries_give_one_result_each_in_order(index: Index) -> None:
    results = list(Search(index, SharedWords()).search_many([Query("number3", "q3"), "number5"], top_k=1))
    assert [(result.query.id, ids(result.hits)) for result in results] == [("q3", ["d3"]), (None, ["d5"])]


def test_a_trec_run_from_elsewhere_is_reranked(index: Index) -> None:
    run = TrecRun({"q": [("d1", 3.0), ("d2", 2.0), ("d3", 1.0)]}, index)
    result = Search(run, SharedWords()).search(Query("number3", "q"))
    assert ids(result.hits) == ["d3", "d1", "d2"]
    assert result.hits[0].ranks == {"retrieve": 3, "rerank": 1}


def test_a_hit_without_text_cannot_be_reranked() -> None:
    with pytest.raises(InputError, match="hit 'd1' has no text"):
        Search(TrecRun({"q": [("d1", 3.0)]}), SharedWords()).search(Query("x", "q"))


def test_a_reranker_that_gives_no_number_is_an_error() -> None:
    with pytest.raises(ScoreError, match="not finite"):
        Search(["a", "b"], Fixed({"a": 1.0, "b": float("nan")})).search("q")


def test_a_model_of_several_labels_is_not_a_reranker() -> None:
    class Labels(Fixed):
        def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
            return np.zeros((len(documents), 3), dtype=np.float32)

    with pytest.raises(InputError, match=r"expected 2 scores .* got shape \[2, 3\]"):
        Search(["a", "b"], Labels({})).search("q")


# --- stored tokens -------------------------------------------------------------------------------------


def test_stored_tokens_give_the_scores_of_the_texts_and_tokenise_only_the_query(index: Index) -> None:
    stored, from_text = SharedWords(), SharedWords()
    by_tokens = Search(index, stored, options=SearchOptions(tokens="stored")).search("river falcon", 50)
    by_text = Search(index, from_text, options=SearchOptions(tokens="text")).search("river falcon", 50)
    assert by_tokens.hits == by_text.hits
    assert [hit.score for hit in by_tokens.hits] == [hit.score for hit in by_text.hits]
    assert stored.texts_tokenised == 1
    assert from_text.texts_tokenised > 1


def test_tokens_of_another_tokenizer_are_refused_with_both_ways_out(index: Index) -> None:
    other = SharedWords("other", "other-words")
    with pytest.raises(
        TokenizerMismatchError, match=r"(?s)'shared-words'.*'other'.*tokens=\"text\".*--retokenize"
    ):
        Search(index, other)
    assert Search(index, other, options=SearchOptions(tokens="text")).search("number3", 1).hits[0].id == "d3"


def test_an_index_retokenised_while_it_is_searched_is_noticed_and_not_misread(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", SharedWords("old", "0001"))
    index.add(numbered_documents(50))
    search = Search(Index.open(index.path), SharedWords("old", "0001"))
    before = search.search("number7 river")
    index.retokenize(SharedWords("new", "0002"))
    assert search.search("number7 river").hits == before.hits  # of the version that it opened
    for number in range(50, 70):
        index.add(
            numbered_documents(1, first=number)
        )  # until small files are joined, and old ones cleared away
    with pytest.raises(TokenizerMismatchError, match=r"(?s)'new'.*'old'"):
        search.search("number7 river")
    index.retokenize(SharedWords("old", "0001"))
    search.source.refresh()  # type: ignore[union-attr]
    assert search.search("number7", 1).hits[0].id == "d7"


def test_stored_tokens_that_are_not_there_are_asked_for_in_vain(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([Document("a", "words")])
    with pytest.raises(InputError, match="--retokenize"):
        Search(index, SharedWords(), options=SearchOptions(tokens="stored"))
    assert ids(Search(index, SharedWords()).search("words").hits) == ["a"]


def test_a_hit_whose_tokens_are_not_there_is_refused_where_they_are_insisted_on(tmp_path: Path) -> None:
    words = SharedWords()
    index = Index.create(tmp_path / "index", words)
    index.add([Document("a", "river words"), Document("b", "harbour words")])
    table = index._table
    table.append(table.rows([name for name in table.schema.names if name != "tokens"], "id = 'a'"))
    with pytest.raises(InputError, match=r"hit 'a' has no stored token ids.*Use tokens=\"auto\""):
        Search(index, words, options=SearchOptions(tokens="stored")).search("river")
    assert ids(Search(index, words).search("river").hits) == ["a", "a"]


def test_a_scorer_of_texts_only_gets_texts(index: Index) -> None:
    text = index.get(["d3"])["d3"].text
    assert Search(index, Fixed({text: 1.0})).search("number3").hits[0].text == text


# --- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retrieve": "splade"}, "bm25, dense, hybrid"),
        ({"tokens": "maybe"}, "auto, stored, text"),
        ({"depth": 0}, "depth of 1 or more"),
        ({"rerank_weight": 1.5}, "between 0 and 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]


def test_dense_without_an_embedder_says_what_to_pass(index: Index) -> None:
    with pytest.raises(InputError, match=r"embedder=\.\.\."):
        Search(index, options=SearchOptions(retrieve="dense"))
