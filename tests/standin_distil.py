"""Stand-ins for distilling: candidates made by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from runoff.contracts import Pair
from runoff.data.shards import Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill import labels as label_shards


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


def labelled(folder: Path, queries: int, documents: int, shard_queries: int = 20) -> Path:
    """A finished folder of rows whose label is how many of the query's three words the document has, and one a query
    that is judged (it has all)."""
    words = [
        f"{first}{second}"
        for first in "bdfgklmnprstvz"
        for second in ("a", "e", "i", "o", "u", "an", "el", "os")
    ]
    shards = Shards(folder, label_shards.KIND)
    shards.begin({"made": "by hand", "queries": queries, "documents": documents})
    for start in range(0, queries, shard_queries):
        rows: dict[str, list[object]] = {name: [] for name in label_shards.schema().names}
        for query in range(start, min(start + shard_queries, queries)):
            rng = random.Random(query)
            asked = rng.sample(words, 3)
            for place in range(documents):
                has = 3 if place == 0 else rng.randrange(3)
                text = rng.sample(asked, has) + rng.choices(words, k=rng.randrange(2, 20))
                rng.shuffle(text)
                row = (
                    f"q{query}",
                    " ".join(asked),
                    f"d{query}-{place}",
                    " ".join(text),
                    int(place == 0),
                    place + 1,
                )
                for name, value in zip(rows, (*row, float(has)), strict=True):
                    rows[name].append(value)
        shards.write(start // shard_queries, rows, label_shards.schema())
    shards.finish({"counts": {"queries": queries, "pairs": queries * documents, "positives": queries}})
    return folder
