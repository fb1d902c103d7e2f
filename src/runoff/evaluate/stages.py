"""First stages: the documents that a reranker is given, by BM25, an embedder, both, any retriever, or a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from runoff.contracts import FloatArray, InputError, Query, Retriever
from runoff.data.trec import Run, read_trec_run
from runoff.evaluate.judged import Judged
from runoff.ranking import rank_scores
from runoff.text.vectors import unit_vectors
from runoff.text.words import stemmed_words

DEPTH = 100
"""Candidates of a query, as most published figures have it."""

FIRST = "bm25"


class TextVectors(Protocol):
    """An embedder: `runoff.Embedder` and sentence-transformers' are."""

    def encode_query(self, inputs: Sequence[str]) -> FloatArray: ...

    def encode_document(self, inputs: Sequence[str]) -> FloatArray: ...


def bm25_lists(documents: Mapping[str, str], queries: Mapping[str, str], depth: int = DEPTH) -> Run:
    """BM25's best `depth` documents of each query, by bm25s (Lucene's form, k1 1.5, b 0.75, English stop words and
    stemmer). A list that words alone cannot fill goes on with documents of score 0, so that each has its `depth`."""
    document_words, query_words = (
        stemmed_words(list(documents.values())),
        stemmed_words(list(queries.values())),
    )
    import bm25s

    ids = list(documents)
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(document_words, show_progress=False)
    found = index.retrieve(query_words, k=min(depth, len(ids)), show_progress=False)
    return {
        query: [(ids[row], float(score)) for row, score in zip(rows, scores, strict=True)]
        for query, rows, scores in zip(queries, found.documents, found.scores, strict=True)
    }


def retrieved_lists(retriever: Retriever, judged: Judged, depth: int = DEPTH) -> Run:
    """What a retriever finds for each query, over the same documents."""
    run = {
        id: [(hit.id, hit.score) for hit in retriever.retrieve(Query(text, id), depth)]
        for id, text in judged.queries.items()
    }
    return checked_lists(run, judged, depth, "the retriever")


def run_lists(path: str | Path, judged: Judged, depth: int = DEPTH) -> Run:
    """The lists of a TREC run. `InputError` for a document that the set lacks, and for a run of other queries."""
    run = read_trec_run(path)
    if not run.keys() & judged.queries.keys():
        raise InputError(f"{path} has none of the queries of {judged.name}: is it the run of another set?")
    return checked_lists(run, judged, depth, str(path))


def checked_lists(run: Run, judged: Judged, depth: int, source: str) -> Run:
    """The first `depth` of each query's list; `InputError` for a document that the set lacks or a list has twice."""
    lists = {query: run.get(query, [])[:depth] for query in judged.queries}
    for query, pairs in lists.items():
        seen: set[str] = set()
        for document, _ in pairs:
            if judged.has_texts and document not in judged.documents:
                raise InputError(
                    f"{source}: query {query!r} lists {document!r}, which {judged.name} does not have"
                )
            if document in seen:
                raise InputError(f"{source}: query {query!r} lists {document!r} twice")
            seen.add(document)
    return lists


def dense_lists(
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    embedder: TextVectors,
    depth: int = DEPTH,
    advance: Callable[[int], object] = lambda _count: None,
) -> Run:
    """The best `depth` documents of each query by cosine, exactly; equal ones in the corpus' order. `advance` hears of
    embedded texts."""
    ids, blocks = list(documents), []
    for part in _parts(list(documents.values()), 512):
        blocks.append(unit_vectors(embedder.encode_document(part)))
        advance(len(part))
    vectors = np.concatenate(blocks)
    run: Run = {}
    # 64 queries' cosines with a million documents are 256 MB.
    for names in _parts(list(queries), 64):
        asked = unit_vectors(embedder.encode_query([queries[name] for name in names]))
        advance(len(names))
        for name, similarities in zip(names, asked @ vectors.T, strict=True):
            ranked = rank_scores(similarities, depth)
            run[name] = [
                (ids[row], float(score)) for row, score in zip(ranked.rows, ranked.scores, strict=True)
            ]
    return run


def _parts(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


Fuse = Callable[[Sequence[Mapping[str, float]]], Mapping[str, float]]
"""Lists (document -> score, best first) -> document -> fused score: `runoff.search.fusion.Fusion(...).fused`."""


def hybrid_lists(runs: Sequence[Run], fuse: Fuse, depth: int = DEPTH) -> Run:
    """The best `depth` of each query's lists together."""
    fused: Run = {}
    for query in runs[0]:
        scores = fuse([dict(run[query]) for run in runs])
        ids = list(scores)
        ranked = rank_scores(list(scores.values()), depth)
        fused[query] = [
            (ids[row], float(score)) for row, score in zip(ranked.rows, ranked.scores, strict=True)
        ]
    return fused
