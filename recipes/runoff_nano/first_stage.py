"""BM25, the first stage of candidates and of judgement alike."""

import bm25s
import numpy as np
import Stemmer


def bm25_index(passages: list[str]) -> tuple[bm25s.BM25, Stemmer.Stemmer]:
    """A Lucene BM25 (k1 1.5, b .75, English stop words and stemmer): the first stage in training and evaluation."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    tokens = bm25s.tokenize(passages, stopwords="en", stemmer=stemmer, show_progress=False)
    index.index(tokens, show_progress=False)
    return index, stemmer


def bm25_search(index, stemmer, queries: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(passage numbers [queries, k], scores [queries, k]), best first."""
    tokens = bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False)
    found = index.retrieve(tokens, k=min(k, index.scores["num_docs"]), show_progress=False)
    return found.documents, found.scores
