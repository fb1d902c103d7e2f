"""A real reranker's token ids, stored: the same scores as from the texts, whatever is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import standins
from runoff import CrossEncoder, Index, Search
from runoff.contracts import Document, TokenizerMismatchError, Truncation
from runoff.search.pipeline import SearchOptions
from standin_texts import sample_text

QUERIES = ["rivers and harbours", "what is 中文分词?", "a naïve — “quoted” question 🎉", "words " * 40]


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rerankers")
    return {
        "ettin": standins.build_ettin_reranker(folder / "ettin", "17m", layers=2),
        "minilm": standins.build_minilm_reranker(folder / "minilm"),
    }


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    texts = [
        "short rivers",
        "Harbours at 5 a.m.\n\twith\u00a0odd  blanks",
        "中文分词 words",
        "words 🎉 e\u0301 ﬁ",
        "[SEP] words [MASK]",
    ]
    texts += [
        f"words {sample_text(length, np.random.default_rng(length))}" for length in (3, 40, 200, 420, 700)
    ]
    return [Document(f"d{row}", f"words rivers {text}") for row, text in enumerate(texts)]


@pytest.mark.parametrize("name", ["ettin", "minilm"])
@pytest.mark.parametrize("truncation", ["longest_first", "document"])
def test_stored_tokens_give_a_real_rerankers_scores_of_the_texts(
    rerankers: dict[str, Path], documents: list[Document], tmp_path: Path, name: str, truncation: Truncation
) -> None:
    reranker = CrossEncoder(str(rerankers[name]), max_length=256, truncation=truncation)
    index = Index.create(tmp_path / "index", tokenizer=reranker)
    index.add(documents)
    reopened = Index.open(tmp_path / "index")
    stored = Search(reopened, reranker, options=SearchOptions(tokens="stored"))
    from_text = Search(reopened, reranker, options=SearchOptions(tokens="text"))
    for query in QUERIES:
        by_tokens, by_text = (each.search(f"{query} words", top_k=20) for each in (stored, from_text))
        assert len(by_tokens) == len(documents)
        assert [hit.id for hit in by_tokens] == [hit.id for hit in by_text]
        assert all(hit.tokens is not None for hit in by_tokens)
        np.testing.assert_array_equal([hit.score for hit in by_tokens], [hit.score for hit in by_text])
        assert len({hit.score for hit in by_tokens}) > 5, "scores that tell documents apart"


def test_an_index_of_one_real_reranker_refuses_another(
    rerankers: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    ettin, minilm = (CrossEncoder(str(rerankers[name])) for name in ("ettin", "minilm"))
    index = Index.create(tmp_path / "index", tokenizer=ettin)
    index.add(documents)
    with pytest.raises(TokenizerMismatchError, match="--retokenize"):
        Search(index, minilm)
    index.retokenize(minilm)
    assert Search(index, minilm, options=SearchOptions(tokens="stored")).search("rivers").hits
