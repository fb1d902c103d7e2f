"""A scorer and a judged set by chance: what judging is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runoff.data.trec import Run
from runoff.evaluate.judged import Judged


class TableScorer:
    """A scorer that looks its scores up by (query, document) text, and counts what it is asked."""

    name = "table"
    tokenizer_fingerprint = None

    def __init__(self, scores: dict[tuple[str, str], float]) -> None:
        self.scores, self.asked = scores, 0

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        raise AssertionError("judging gives texts")

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.asked += len(documents)
        return np.array([self.scores[query, document] for document in documents], np.float32)


def random_set(seed: int, queries: int = 12, documents: int = 40) -> tuple[Judged, Run, TableScorer]:
    """A set with graded judgements, a first stage's lists over it, and a scorer."""
    draw = np.random.default_rng(seed)
    ids = [f"d{row}" for row in range(documents)]
    grades = {
        f"q{row}": {ids[d]: int(draw.integers(0, 3)) for d in draw.choice(documents, 9, replace=False)}
        for row in range(queries)
    }
    for query in grades:
        grades[query][ids[0]] = 1
    judged = Judged(
        "random",
        {id: f"text {id}" for id in ids},
        {q: f"query {q}" for q in grades},
        grades,
        queries,
        digest=f"digest {seed}",
    )
    lists = {
        q: [(ids[d], float(30 - place)) for place, d in enumerate(draw.choice(documents, 25, replace=False))]
        for q in grades
    }
    scores = {(f"query {q}", f"text {d}"): float(draw.normal()) for q in grades for d in ids}
    return judged, lists, TableScorer(scores)
