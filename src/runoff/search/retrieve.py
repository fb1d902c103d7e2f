"""First stages: BM25, dense, both, a list from anywhere, a TREC run. Each has `retrieve(query, k)`.

Every retriever here orders by raw score descending, then by id, so that the order does not depend on
where Lance keeps a row. Lists from elsewhere keep the order they came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runoff.contracts import Document, Hit, InputError, Query, Retriever, TextEmbedder
from runoff.data.trec import read_trec_run
from runoff.ranking import rank_scores
from runoff.search.fusion import Fusion, FusionRule
from runoff.search.index import Index
from runoff.search.settings import TokenizerName

# With ties at the last place, ask for this many times more rows, so often; beyond, ties are cut by Lance.
TIE_GROWTH, TIE_ROUNDS = 4, 3
HYBRID_DEPTH = 100


def ordered(hits: Sequence[Hit], stage: str, top_k: int | None = None) -> list[Hit]:
    """Hits by their score, descending, ties in the order given; each gets its rank, also under `stage`."""
    order = rank_scores([hit.score for hit in hits], top_k)
    return [
        replace(hits[row], rank=rank, ranks={**hits[row].ranks, stage: rank})
        for rank, row in enumerate(order.rows.tolist(), start=1)
    ]


def _top_by_id(search: Callable[[int], list[Hit]], stage: str, k: int) -> list[Hit]:
    """The best `k`, with ties by id also across the last place: `search(limit)` returns the best `limit`."""
    _check_k(k)
    if k == 0:
        return []
    limit = k + 1
    hits = search(limit)
    for _ in range(TIE_ROUNDS):
        scores = sorted((hit.score for hit in hits), reverse=True)
        if len(hits) < limit or scores[k - 1] > scores[-1]:
            break
        limit *= TIE_GROWTH
        hits = search(limit)
    return ordered(sorted(hits, key=lambda hit: hit.id), stage, k)


def _check_k(k: int) -> None:
    if k < 0:
        raise InputError(f"expected a number of hits of 0 or more, got {k}")


class BM25:
    """Hits of an index by its words: any word of the query may match, and nothing in it is an operator."""

    def __init__(self, index: Index, where: str | None = None) -> None:
        self.index = index
        self.where = where

    @property
    def tokenizer(self) -> TokenizerName | None:
        return self.index.tokenizer

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        """At most `k` hits, best first; fewer where fewer documents share a word with the query."""
        return _top_by_id(lambda limit: self.index.match_text(query.text, limit, self.where), "bm25", k)


class Dense:
    """Hits of an index by exact cosine similarity of vectors; every document is compared."""

    def __init__(self, index: Index, embedder: TextEmbedder, where: str | None = None) -> None:
        stored = index.settings.embedder
        if stored is not None and (stored.name, stored.dimension) != (embedder.name, embedder.dimension):
            raise InputError(
                f"expected the embedder whose vectors are stored, {stored.name!r} [{stored.dimension}], got "
                f"{embedder.name!r} [{embedder.dimension}]. Use that one, or make the index anew."
            )
        self.index = index
        self.embedder = embedder
        self.where = where

    @property
    def tokenizer(self) -> TokenizerName | None:
        return self.index.tokenizer

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        """At most `k` hits, best first."""
        _check_k(k)
        vector = self.embedder.encode_query(query.text) if k else None
        if vector is None:
            return []
        return _top_by_id(lambda limit: self.index.nearest(vector, limit, self.where), "dense", k)


class Hybrid:
    """Hits of several retrievers, fused. Each is asked for `k` hits, and at least `depth`."""

    def __init__(
        self, retrievers: Sequence[Retriever], fusion: FusionRule | Fusion = "rrf", depth: int = HYBRID_DEPTH
    ) -> None:
        if not retrievers:
            raise InputError("expected at least one retriever to fuse, got none")
        self.retrievers = list(retrievers)
        self.fusion = fusion if isinstance(fusion, Fusion) else Fusion(fusion)
        self.depth = depth

    @property
    def tokenizer(self) -> TokenizerName | None:
        names = {stored_tokenizer(each) for each in self.retrievers}
        return names.pop() if len(names) == 1 else None

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        """At most `k` hits by fused score; ties stay in the order of the first list that has them."""
        _check_k(k)
        if k == 0:
            return []
        lists = [list(each.retrieve(query, max(k, self.depth))) for each in self.retrievers]
        fused = self.fusion.fused([{hit.id: hit.score for hit in hits} for hits in lists])
        merged: dict[str, Hit] = {}
        for number, hits in enumerate(lists, start=1):
            for hit in hits:
                merged[hit.id] = _merge(merged.get(hit.id), hit, number)
        scored = [
            replace(merged[id], score=score, scores={**merged[id].scores, "fusion": score})
            for id, score in fused.items()
        ]
        return ordered(scored, "fusion", k)


def _merge(before: Hit | None, hit: Hit, list_number: int) -> Hit:
    """One hit with what both lists said; a second list of the same stage is told apart by its number."""
    if before is None:
        return hit

    def told_apart(stage: str) -> str:
        return f"{stage}#{list_number}" if stage in before.scores else stage

    return replace(
        before,
        text=before.text if before.text is not None else hit.text,
        tokens=before.tokens if before.tokens is not None else hit.tokens,
        scores={**before.scores, **{told_apart(name): each for name, each in hit.scores.items()}},
        ranks={**before.ranks, **{told_apart(name): each for name, each in hit.ranks.items()}},
    )


def stored_tokenizer(retriever: Retriever) -> TokenizerName | None:
    """Whose token ids this retriever's hits carry; None for retrievers that do not say."""
    name = getattr(retriever, "tokenizer", None)
    return name if isinstance(name, TokenizerName) else None


Candidate = str | Document | Hit


class Candidates:
    """A list from anywhere, in its own order: texts, documents or hits, or one such list per query.

    A mapping is looked up by the query's id, then by its text. Texts and documents get the score 1/rank,
    since the list says no more than their order; a text's id is its place in the list, from 0.
    """

    def __init__(self, candidates: Sequence[Candidate] | Mapping[str, Sequence[Candidate]]) -> None:
        if isinstance(candidates, str):
            raise InputError(f"expected a list of candidates, got one text: {candidates[:80]!r}")
        self.candidates = candidates

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        """The first `k` candidates of the query."""
        _check_k(k)
        listed = self.candidates
        if isinstance(listed, Mapping):
            key = query.id if query.id in listed else query.text
            if key is None or key not in listed:
                raise InputError(
                    f"no candidates for query {query.id or query.text!r}: expected its id or its text among "
                    f"the {len(listed)} queries of the mapping"
                )
            listed = listed[key]
        return [_candidate_hit(each, row) for row, each in enumerate(listed[:k])]


def _candidate_hit(candidate: Candidate, row: int) -> Hit:
    rank, score = row + 1, 1.0 / (row + 1)
    if isinstance(candidate, Hit):
        stages = candidate.scores or {"retrieve": candidate.score}
        ranks = candidate.ranks or {"retrieve": rank}
        return replace(candidate, rank=rank, scores=stages, ranks=ranks)
    if isinstance(candidate, str):
        candidate = Document(str(row), candidate)
    if not isinstance(candidate, Document):
        raise InputError(
            f"expected texts, Documents or Hits as candidates, got {type(candidate).__name__} at place {row}"
        )
    return Hit(
        candidate.id,
        score,
        rank,
        candidate.text,
        candidate.title,
        candidate.source,
        candidate.place,
        candidate.metadata,
        scores={"retrieve": score},
        ranks={"retrieve": rank},
    )


class TrecRun:
    """The hits of a TREC run made elsewhere: a file, or query id -> (document id, score) pairs.

    `documents` (an index, or id -> text or Document) supplies the texts; without it hits have none.
    """

    def __init__(
        self,
        run: str | Path | Mapping[str, Sequence[tuple[str, float]]],
        documents: Index | Mapping[str, str | Document] | None = None,
    ) -> None:
        self.run = run if isinstance(run, Mapping) else read_trec_run(run)
        self.documents = documents

    @property
    def tokenizer(self) -> TokenizerName | None:
        return self.documents.tokenizer if isinstance(self.documents, Index) else None

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        """The first `k` of the run for this query's id, by score; ties in the run's own order."""
        _check_k(k)
        if query.id is None or query.id not in self.run:
            raise InputError(
                f"expected a query whose id is in the run ({len(self.run)} queries), got id {query.id!r}"
            )
        pairs = self.run[query.id]
        best = [pairs[row] for row in rank_scores([score for _, score in pairs], k).rows.tolist()]
        known = self._known([id for id, _ in best])
        hits = [
            replace(known.get(id) or Hit(id, 0.0, 0), score=score, scores={"retrieve": score})
            for id, score in best
        ]
        return ordered(hits, "retrieve")

    def _known(self, ids: Sequence[str]) -> Mapping[str, Hit]:
        if self.documents is None:
            return {}
        if isinstance(self.documents, Index):
            found: Mapping[str, Hit] = self.documents.candidates(ids)
        else:
            texts = {id: self.documents[id] for id in ids if id in self.documents}
            found = {
                id: _candidate_hit(Document(id, each) if isinstance(each, str) else each, 0)
                for id, each in texts.items()
            }
        if missing := [id for id in ids if id not in found]:
            raise InputError(
                f"{len(missing)} of {len(ids)} documents of the run are not among the documents given, the "
                f"first is {missing[0]!r}. Give the collection that the run was made on."
            )
        return {id: replace(hit, ranks={}) for id, hit in found.items()}
