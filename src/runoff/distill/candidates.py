"""Queries x a retriever -> candidates: which documents a teacher is asked about, and what the first stage said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.contracts import Hit, InputError, Query, Retriever
from runoff.data.shards import Shards, parquet_module
from runoff.distill.queries import Asked

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "candidates"
DEEPEST = 2048
"""Most candidates of a query: what the published mixture retrieves before it samples."""
SHARD_QUERIES = 256
STAGES = ("bm25", "dense", "fusion")


@dataclass(frozen=True, slots=True)
class CandidateOptions:
    """How many candidates a query gets, and how many queries a shard holds. `InputError` for what cannot be."""

    depth: int = 100
    shard_queries: int = SHARD_QUERIES

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= DEEPEST:
            raise InputError(f"expected 1 to {DEEPEST:,} candidates a query, got {self.depth}")
        if self.shard_queries < 1:
            raise InputError(f"expected 1 query or more in a shard, got {self.shard_queries}")


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What came of it: `missed` positives were not retrieved and were added, `empty` queries have no candidate."""

    queries: int
    pairs: int
    positives: int
    missed: int
    empty: tuple[str, ...]
    kept_shards: int


Texts = Callable[[Sequence[str]], Mapping[str, Hit]]
"""Document ids -> hits with their texts, for positives that the retriever missed."""


def schema() -> pa.Schema:
    """One row a pair. `grade`: the judgement, null where there is none; `rank` from 1, null where not retrieved."""
    import pyarrow as pa

    texts = [
        pa.field(name, pa.string(), nullable=False)
        for name in ("query_id", "query", "document_id", "document")
    ]
    return pa.schema(
        [
            *texts,
            pa.field("grade", pa.int32()),
            pa.field("rank", pa.int32()),
            *(pa.field(stage, pa.float32()) for stage in STAGES),
        ]
    )


def collect(
    asked: Sequence[Asked],
    retriever: Retriever,
    texts: Texts,
    out: str | Path,
    options: CandidateOptions | None = None,
    *,
    source: Mapping[str, Any],
    advance: Callable[[int], object] = lambda _count: None,
) -> CandidateReport:
    """Writes the candidates of all queries to `out`, and goes on where an earlier call was stopped.

    `source` says by what they were found (index, retriever): a folder begun with another one is refused. `texts` gives
    the documents of positives that were not retrieved. Raises `InputError` for queries without an id or with
    the same one, positives that no document has, and documents without text.
    """
    parquet_module()
    options = options or CandidateOptions()
    _check_ids([each.query for each in asked])
    shards = Shards(out, KIND)
    identity = {
        **source,
        "depth": options.depth,
        "shard_queries": options.shard_queries,
        "queries": _digest(asked),
    }
    shards.begin(identity)
    kept = 0
    for number in range(0, len(asked), options.shard_queries):
        block = asked[number : number + options.shard_queries]
        path_number = number // options.shard_queries
        if shards.path(path_number).exists():
            kept += 1
        else:
            rows = [row for each in block for row in _rows(each, retriever, texts, options.depth)]
            shards.write(path_number, _columns(rows), schema())
        advance(len(block))
    report = _report(shards, asked, kept)
    shards.finish(
        {"counts": {"queries": report.queries, "pairs": report.pairs, "positives": report.positives}}
    )
    return report


def _check_ids(queries: Sequence[Query]) -> None:
    if not queries:
        raise InputError("expected at least one query, got none")
    seen: set[str] = set()
    for place, query in enumerate(queries, start=1):
        if query.id is None or query.id in seen:
            raise InputError(f"query {place} ({query.text[:60]!r}) needs an id of its own, got {query.id!r}")
        seen.add(query.id)


def _digest(asked: Sequence[Asked]) -> str:
    """Names the queries with their positives."""
    digest = hashlib.sha256()
    for query, positives in asked:
        digest.update(json.dumps([query.id, query.text, sorted(positives.items())]).encode() + b"\n")
    return digest.hexdigest()


Row = dict[str, Any]


def _rows(asked: Asked, retriever: Retriever, texts: Texts, depth: int) -> Iterator[Row]:
    """The rows of one query: what was retrieved, then positives that were not."""
    query, positives = asked
    hits = list(retriever.retrieve(query, depth))
    for rank, hit in enumerate(hits, start=1):
        yield _row(query, hit, positives.get(hit.id), rank)
    found = {hit.id for hit in hits}
    if missed := [id for id, grade in positives.items() if id not in found and grade > 0]:
        known = texts(missed)
        if unknown := [id for id in missed if id not in known]:
            raise InputError(
                f"query {query.id!r}: {len(unknown)} of its judged documents are not in the corpus, the first is "
                f"{unknown[0]!r}. Judge documents of this corpus, or leave those judgements out."
            )
        for id in missed:
            yield _row(query, known[id], positives[id], None)


def _row(query: Query, hit: Hit, grade: int | None, rank: int | None) -> Row:
    if hit.text is None or not hit.text.strip():
        raise InputError(f"query {query.id!r}: document {hit.id!r} has no text, so nobody can score it")
    return {
        "query_id": query.id,
        "query": query.text,
        "document_id": hit.id,
        "document": hit.text,
        "grade": grade,
        "rank": rank,
        **{stage: hit.scores.get(stage) if rank is not None else None for stage in STAGES},
    }


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in schema().names}


def _report(shards: Shards, asked: Sequence[Asked], kept: int) -> CandidateReport:
    pairs = positives = missed = 0
    answered: set[str] = set()
    for _, batch in shards.batches(["query_id", "grade", "rank"]):
        answered.update(batch.column("query_id").to_pylist())
        for grade, rank in zip(
            batch.column("grade").to_pylist(), batch.column("rank").to_pylist(), strict=True
        ):
            pairs += 1
            positives += grade is not None and grade > 0
            missed += rank is None
    empty = tuple(str(each.query.id) for each in asked if each.query.id not in answered)
    return CandidateReport(len(asked), pairs, positives, missed, empty, kept)
