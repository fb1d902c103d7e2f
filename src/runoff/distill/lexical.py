"""BM25 as a teacher: a score for every pair of the candidates, whoever retrieved it.

What a first stage said (`--column bm25`) is known for what it retrieved alone: of hybrid candidates, those that only
the vectors found count as if they shared no word with the query, which is wrong for most of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from runoff.contracts import FloatArray, InputError, Pair
from runoff.data.shards import Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill.teacher import pair_key
from runoff.text.words import stemmed_words

K1, B = 1.5, 0.75
"""bm25s' own defaults, as in the published first-stage figures."""
KEPT = 200_000
"""Documents whose words are kept: a document stands in the lists of many queries."""


class LexicalTeacher:
    """BM25 (Lucene's form) of query and document, as a share of the most that any document could get for the query.

    sum idf(t) f / (f + K1 (1 - B + B length / average)) over the query's words t, divided by sum idf(t): 0 for no word
    in common, below 1 always. Raw BM25 grows with the query's length; this does not, so that scores of several
    queries compare, and it depends on nothing but the pair and the statistics. Robertson and Zaragoza, "The
    Probabilistic Relevance Framework" (2009), and Lucene's BM25Similarity for idf = ln(1 + (N - n + .5) / (n + .5)).
    """

    name = "bm25"

    def __init__(self, documents: int, words: int, frequencies: Mapping[str, int]) -> None:
        """Statistics of the corpus: how many documents, how many words in all, in how many documents each word is."""
        if documents < 1 or words < 1:
            raise InputError(f"BM25 needs documents with words, got {documents:,} with {words:,}")
        self.documents, self.words = documents, words
        self._average = words / documents
        self._idf = {word: math.log(1 + (documents - n + 0.5) / (n + 0.5)) for word, n in frequencies.items()}
        self._unseen = math.log(1 + (documents + 0.5) / 0.5)
        self._kept: dict[str, Counter[str]] = {}

    @classmethod
    def of_texts(cls, batches: Iterable[Sequence[str]]) -> LexicalTeacher:
        """With the statistics of these documents, each distinct text counted once."""
        seen: set[bytes] = set()
        frequencies: Counter[str] = Counter()
        total = 0
        for batch in batches:
            fresh = {pair_key("", text): text for text in batch}
            fresh = {key: text for key, text in fresh.items() if key not in seen}
            seen.update(fresh)
            for found in stemmed_words(list(fresh.values())) if fresh else ():
                frequencies.update(set(found))
                total += len(found)
        return cls(len(seen), total, frequencies)

    @classmethod
    def of_candidates(cls, folder: str | Path) -> LexicalTeacher:
        """With the statistics of the documents of a folder of candidates."""
        source = Shards(folder, candidate_shards.KIND)
        source.checked()
        return cls.of_texts(batch.column("document").to_pylist() for _, batch in source.batches(["document"]))

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        documents = self._counts([document for _, document in pairs])
        texts = list(dict.fromkeys(query for query, _ in pairs))
        queries = dict(zip(texts, stemmed_words(texts), strict=True))
        scores = [self._share(queries[query], documents[document]) for query, document in pairs]
        return np.array(scores, np.float32)

    def _share(self, query: Sequence[str], document: Counter[str]) -> float:
        room = K1 * (1 - B + B * document.total() / self._average)
        most = found = 0.0
        for word in query:
            idf = self._idf.get(word, self._unseen)
            most += idf
            if count := document.get(word):
                found += idf * count / (count + room)
        return found / most if most else 0.0

    def _counts(self, texts: Sequence[str]) -> Mapping[str, Counter[str]]:
        asked = dict.fromkeys(texts)
        if fresh := [text for text in asked if text not in self._kept]:
            self._kept.update(zip(fresh, map(Counter, stemmed_words(fresh)), strict=True))
        found = {text: self._kept[text] for text in asked}
        for text in list(self._kept)[: max(0, len(self._kept) - KEPT)]:
            del self._kept[text]
        return found
