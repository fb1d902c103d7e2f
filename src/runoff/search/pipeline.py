"""Search: a query -> candidates -> reranked hits, with every score, both ranks and the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from runoff.contracts import Hit, InputError, Query, Retriever, Scorer, TextEmbedder, TokenIds
from runoff.ranking import check_finite, rank_scores, z_scores
from runoff.search.checks import check_tokenizer
from runoff.search.fusion import Fusion, FusionRule
from runoff.search.index import Index
from runoff.search.retrieve import BM25, Candidate, Candidates, Dense, Hybrid, stored_tokenizer

Retrieval = Literal["bm25", "dense", "hybrid"]
Tokens = Literal["auto", "stored", "text"]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search goes.

    retrieve        "bm25", "dense" or "hybrid" (both, fused): what an index is asked.
    fusion          "rrf", "zscore", or a `Fusion` with weights, for "hybrid".
    depth           How many candidates are retrieved and reranked; 100 as in the models' own protocol.
    rerank_weight   1: the reranker decides. Below 1: z-scores of the reranker times this, plus z-scores
                    of the first stage times the rest, over the reranked candidates.
    tokens          "auto": stored token ids where the hits have them; "stored": refuse to go without;
                    "text": always tokenise the texts.
    """

    retrieve: Retrieval = "bm25"
    fusion: FusionRule | Fusion = "rrf"
    depth: int = 100
    rerank_weight: float = 1.0
    tokens: Tokens = "auto"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("retrieve", self.retrieve, ("bm25", "dense", "hybrid")),
            ("tokens", self.tokens, ("auto", "stored", "text")),
        ):
            if value not in choices:
                raise InputError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")
        if self.depth < 1:
            raise InputError(f"expected a depth of 1 or more candidates to rerank, got {self.depth}")
        if not 0.0 <= self.rerank_weight <= 1.0:
            raise InputError(f"expected a rerank_weight between 0 and 1, got {self.rerank_weight}")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    `hits` is the final order, `before` the first stage's, of everything retrieved. `timings` are
    milliseconds by stage: "retrieve", "rerank", "fuse" where they ran, and "total".
    """

    query: Query
    hits: list[Hit]
    before: list[Hit]
    timings: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


class Search:
    """Retrieves candidates, reranks the best `depth` of them, returns hits.

    `source` is an `Index`, any `Retriever`, or a plain list of candidates. `reranker` is any `Scorer`
    (a `CrossEncoder`); without one the first stage's order stands. `embedder` is for "dense" and
    "hybrid". Holds no state between queries, so threads may share it.
    """

    def __init__(
        self,
        source: Index | Retriever | Sequence[Candidate],
        reranker: Scorer | None = None,
        embedder: TextEmbedder | None = None,
        options: SearchOptions | None = None,
    ) -> None:
        self.options = options or SearchOptions()
        self.reranker = reranker
        self.embedder = embedder
        self.source = source if isinstance(source, (Index, Retriever)) else Candidates(source)
        if self.options.retrieve != "bm25" and isinstance(self.source, Index) and embedder is None:
            raise InputError(
                f'retrieve="{self.options.retrieve}" needs the embedder of the vectors: pass embedder=...'
            )
        self._checked_tokens(self.retriever())

    def retriever(self, where: str | None = None) -> Retriever:
        """The first stage, narrowed to the documents that match the filter `where`."""
        if not isinstance(self.source, Index):
            if where is not None:
                raise InputError(
                    f"a filter needs an Index to apply it to, got a {type(self.source).__name__}; give the "
                    "filter to that retriever instead"
                )
            return self.source
        if self.options.retrieve == "bm25":
            return BM25(self.source, where)
        assert self.embedder is not None
        dense = Dense(self.source, self.embedder, where)
        if self.options.retrieve == "dense":
            return dense
        return Hybrid([BM25(self.source, where), dense], self.options.fusion, self.options.depth)

    def _checked_tokens(self, retriever: Retriever) -> bool:
        """Whether hits' stored token ids go to the reranker; refuses ids of another tokenizer."""
        scorer = self.reranker
        if scorer is None or self.options.tokens == "text":
            return False
        stored = stored_tokenizer(retriever)
        if stored is None or scorer.tokenizer_fingerprint is None:
            if self.options.tokens == "stored":
                raise InputError(
                    'tokens="stored" needs an index made with tokenizer=<the reranker>, and a reranker that '
                    'takes token ids. Use tokens="auto", or add them: '
                    "runoff index PATH --retokenize --model ..."
                )
            return False
        check_tokenizer(stored, scorer, self.source.path if isinstance(self.source, Index) else "its folder")
        return True

    def search(self, query: str | Query, top_k: int = 10, where: str | None = None) -> SearchResult:
        """The best `top_k` hits: 0 gives none, more than there are gives all.

        Documents beyond `depth` keep the first stage's order, after the reranked ones. A hit's `score`
        is that of the last stage that saw it.
        """
        if top_k < 0:
            raise InputError(f"expected a top_k of 0 or more, got {top_k}")
        query = Query(query) if isinstance(query, str) else query
        timings: dict[str, float] = {}
        with _timed(timings, "total"):
            before: list[Hit] = []
            with _timed(timings, "retrieve"):
                retriever = self.retriever(where)
                if top_k:
                    wanted = top_k if self.reranker is None else max(top_k, self.options.depth)
                    before = list(retriever.retrieve(query, wanted))
            # Asked again for each query: the index may have been retokenised since the last.
            uses_tokens = self._checked_tokens(retriever)
            hits = before if self.reranker is None else self._reranked(query, before, uses_tokens, timings)
            hits = [replace(hit, rank=rank) for rank, hit in enumerate(hits[:top_k], start=1)]
        return SearchResult(query, hits, before, timings)

    def search_many(
        self, queries: Iterable[str | Query], top_k: int = 10, where: str | None = None
    ) -> Iterator[SearchResult]:
        """One result per query, in order, each as soon as it is there."""
        for query in queries:
            yield self.search(query, top_k, where)

    def _reranked(
        self, query: Query, before: list[Hit], uses_tokens: bool, timings: dict[str, float]
    ) -> list[Hit]:
        """All hits: the first `depth` in the reranker's (or the fused) order, then the rest as they were."""
        assert self.reranker is not None
        head, rest = before[: self.options.depth], before[self.options.depth :]
        if not head:
            return []
        with _timed(timings, "rerank"):
            inputs = [self._input(hit, uses_tokens) for hit in head]
            scores = np.asarray(self.reranker.score(query.text, inputs))
            if scores.shape != (len(head),):
                raise InputError(
                    f"expected {len(head)} scores from {self.reranker.name!r}, one per document, got shape "
                    f"{list(scores.shape)}; a model with several labels per pair is not a reranker"
                )
            check_finite(scores)
        head = _with_stage(head, "rerank", scores)
        if self.options.rerank_weight == 1.0:
            return [*_by_score(head), *rest]
        with _timed(timings, "fuse"):
            weight = self.options.rerank_weight
            first = z_scores([hit.score for hit in before[: len(head)]])
            final = weight * z_scores(scores) + (1.0 - weight) * first
            # The reranker's own ranks are kept before the fused order replaces them.
            head = _with_stage(head, "final", final)
        return [*_by_score(head), *rest]

    def _input(self, hit: Hit, uses_tokens: bool) -> str | TokenIds:
        """What the reranker gets of a hit."""
        if uses_tokens and hit.tokens is not None:
            return hit.tokens
        if uses_tokens and self.options.tokens == "stored":
            raise InputError(
                f'hit {hit.id!r} has no stored token ids, which tokens="stored" insists on. Use tokens="auto", '
                "or have them stored: runoff index PATH --retokenize --model ..."
            )
        if hit.text is None:
            raise InputError(
                f"hit {hit.id!r} has no text to rerank. Give the retriever the texts, "
                "such as TrecRun(run, documents=index)."
            )
        return hit.text


def _with_stage(hits: Sequence[Hit], stage: str, scores: Sequence[float] | np.ndarray) -> list[Hit]:
    """The same hits in the same order, each with its score and rank of one more stage."""
    ranks = np.empty(len(hits), dtype=np.int64)
    ranks[rank_scores(scores).rows] = np.arange(1, len(hits) + 1)
    return [
        replace(
            hit,
            score=float(score),
            scores={**hit.scores, stage: float(score)},
            ranks={**hit.ranks, stage: int(rank)},
        )
        for hit, score, rank in zip(hits, scores, ranks, strict=True)
    ]


def _by_score(hits: Sequence[Hit]) -> list[Hit]:
    return [hits[row] for row in rank_scores([hit.score for hit in hits]).rows.tolist()]


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[stage] = (time.perf_counter() - began) * 1000.0
