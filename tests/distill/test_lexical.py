"""BM25 as a teacher: bm25s' own scores as a share of the query's best, for every pair of the candidates."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import InputError
from runoff.distill.lexical import LexicalTeacher
from runoff.distill.teacher import teach
from runoff.text.words import stemmed_words
from standin_distil import candidates

bm25s = pytest.importorskip("bm25s")
pytest.importorskip("pyarrow")

DOCUMENTS = [
    "The boiler in the cellar is serviced every autumn, and boilers need it.",
    "Storms broke two panes of the greenhouse; the gardener mended the greenhouse.",
    "A reranker scores a query with each document, and the best documents come first.",
    "Nobody services the greenhouse in autumn.",
]
QUERIES = ["When is the boiler serviced?", "greenhouse greenhouse gardeners", "zebra storms", "the of and"]


def test_scores_are_bm25s_own_over_the_most_a_document_could_get() -> None:
    teacher = LexicalTeacher.of_texts([DOCUMENTS[:3], DOCUMENTS[1:]])
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    words = stemmed_words(DOCUMENTS)
    index.index(words, show_progress=False)
    for query in QUERIES[:3]:
        asked = stemmed_words([query])[0]
        known = [word for word in asked if any(word in found for found in words)]
        counts = [sum(word in found for found in words) for word in asked]
        most = sum(math.log(1 + (4 - n + 0.5) / (n + 0.5)) for n in counts)
        found = teacher.score_pairs([(query, document) for document in DOCUMENTS])
        np.testing.assert_allclose(found * most, index.get_scores(known), rtol=1e-5)
        assert found.dtype == np.float32
        assert found.max() < 1


def test_a_query_of_stop_words_scores_nothing() -> None:
    teacher = LexicalTeacher.of_texts([DOCUMENTS])
    assert list(teacher.score_pairs([(QUERIES[3], DOCUMENTS[0])])) == [0.0]


def test_statistics_count_a_text_once_and_scores_do_not_depend_on_the_batch() -> None:
    once = LexicalTeacher.of_texts([DOCUMENTS])
    often = LexicalTeacher.of_texts([DOCUMENTS * 3, DOCUMENTS[::-1]])
    assert (once.documents, once.words) == (often.documents, often.words) == (4, once.words)
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    singly = [float(once.score_pairs([pair])[0]) for pair in pairs]
    assert singly == pytest.approx(often.score_pairs(pairs[::-1])[::-1].tolist())


def test_it_teaches_every_pair_of_a_folder_of_candidates(tmp_path: Path) -> None:
    folder = candidates(tmp_path / "cand", [(query, document) for query in QUERIES for document in DOCUMENTS])
    teacher = LexicalTeacher.of_candidates(folder)
    report = teach(folder, teacher, tmp_path / "out", shard_pairs=5)
    assert (report.teacher, report.pairs, report.scored) == ("bm25", 16, 16)


def test_documents_without_words_are_refused() -> None:
    with pytest.raises(InputError, match="BM25 needs documents with words, got 1 with 0"):
        LexicalTeacher.of_texts([["the of"]])
