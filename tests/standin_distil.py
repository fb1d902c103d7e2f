"""Stand-ins for distilling: candidates made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runoff.contracts import Pair
from runoff.data.shards import Shards
from runoff.distill import candidates as candidate_shards


def candidates(
    folder: Path,
    pairs: Sequence[Pair],
    shard: int = 10,
    grades: Sequence[int | None] = (),
    bm25: Sequence[float | None] = (),
) -> Path:
    """A finished folder of these (query, document) pairs; ids are their numbers."""
    shards = Shards(folder, candidate_shards.KIND)
    shards.begin({"made": "by hand"})
    for start in range(0, len(pairs), shard):
        part = pairs[start : start + shard]
        rows = {
            "query_id": [f"q{query}" for query, _ in part],
            "query": [query for query, _ in part],
            "document_id": [f"d{start + i}" for i in range(len(part))],
            "document": [document for _, document in part],
            "grade": list(grades[start : start + shard]) or [None] * len(part),
            "rank": list(range(1, len(part) + 1)),
            **{stage: [None] * len(part) for stage in candidate_shards.STAGES},
            "bm25": list(bm25[start : start + shard]) or [None] * len(part),
        }
        shards.write(start // shard, rows, candidate_shards.schema())
    shards.finish({"counts": {"queries": 1, "pairs": len(pairs), "positives": 0}})
    return folder


def many(count: int) -> list[tuple[str, str]]:
    return [(f"query {i // 10}", f"document {i} " + "word " * (i % 13)) for i in range(count)]
