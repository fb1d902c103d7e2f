"""Pairs whose relevance is known, of judged sets or of labelled rows, and their raw scores: what is calibrated on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError, Scorer
from runoff.data.sampling import SEED
from runoff.data.shards import Place, Shards
from runoff.data.trec import Run
from runoff.evaluate.judged import Judged


@dataclass(frozen=True, slots=True)
class QueryPairs:
    """One query with documents, and of each whether it is relevant."""

    query: str
    documents: Sequence[str]
    relevant: Sequence[bool]


@dataclass(frozen=True, slots=True)
class KnownPairs:
    """The pairs of queries, the names of the sets they are from, and in words what counts as relevant."""

    queries: Sequence[QueryPairs]
    names: tuple[str, ...]
    relevance: str

    @property
    def pairs(self) -> int:
        return sum(len(each.documents) for each in self.queries)

    @property
    def relevant(self) -> int:
        return sum(sum(each.relevant) for each in self.queries)


def judged_pairs(judged: Mapping[str, Judged], candidates: Callable[[Judged], Run], among: str) -> KnownPairs:
    """The `candidates` of each query of the sets (by name): relevant where a judgement has a grade above 0.

    What nobody judged counts as not relevant. `among` says in words what the candidates are.
    """
    queries = [
        QueryPairs(
            each.queries[query],
            [each.documents[document] for document, _ in row],
            [each.grades[query].get(document, 0) > 0 for document, _ in row],
        )
        for each in judged.values()
        for query, row in candidates(each).items()
    ]
    relevance = f"a grade above 0 among {among}; what nobody judged counts as not relevant"
    return KnownPairs(queries, tuple(judged), relevance)


def labelled_pairs(
    rows: Shards, relevant_from: float | None = None, limit: int | None = None, seed: int = SEED
) -> KnownPairs:
    """The rows of a folder of labels: relevant from a label of `relevant_from` on; without it, by a grade above 0.

    With `limit` only so many queries, drawn by chance, always the same ones. Raises `InputError` for labels that are
    no numbers, and for rows without any judgement where no limit of the label is given.
    """
    rows.checked()
    texts = dict.fromkeys(
        text for _, batch in rows.batches(["query"]) for text in batch.column("query").to_pylist()
    )
    kept = sorted(texts)
    if limit is not None and limit < len(kept):
        kept = random.Random(seed).sample(kept, limit)
    found: dict[str, tuple[list[str], list[bool]]] = {query: ([], []) for query in kept}
    is_judged = False
    for place, row in _rows(rows):
        is_judged |= row["grade"] is not None
        if row["query"] not in found:
            continue
        if not np.isfinite(row["label"]):
            raise InputError(f"{place}: expected a label that is a finite number, got {row['label']}")
        is_relevant = (row["grade"] or 0) > 0 if relevant_from is None else row["label"] >= relevant_from
        documents, flags = found[row["query"]]
        documents.append(row["document"])
        flags.append(is_relevant)
    if relevant_from is None and not is_judged:
        raise InputError(
            f"no row of {rows.folder} is judged: say from which label on a pair is relevant (--relevant-from NUMBER)"
        )
    relevance = (
        "a grade above 0 among the labelled rows; what nobody judged counts as not relevant"
        if relevant_from is None
        else f"a label of {relevant_from:g} or more"
    )
    queries = [QueryPairs(query, *parts) for query, parts in found.items()]
    return KnownPairs(queries, (Path(rows.folder).resolve().name,), relevance)


def _rows(rows: Shards) -> Iterator[tuple[Place, dict[str, Any]]]:
    for first, batch in rows.batches(["query", "document", "grade", "label"]):
        for row, record in enumerate(batch.to_pylist()):
            yield Place(first.file, first.row + row), record


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Raw score, relevance, and number of the query of each pair, all [N]."""

    scores: npt.NDArray[np.float64]
    relevant: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]


def scored(
    known: KnownPairs, scorer: Scorer, advance: Callable[[int], object] = lambda _count: None
) -> ScoredPairs:
    """Every pair's raw score; `advance` hears of pairs."""
    scores = [np.empty(0)]
    for each in known.queries:
        if each.documents:
            scores.append(np.asarray(scorer.score(each.query, each.documents), np.float64))
            advance(len(each.documents))
    counts = [len(each.documents) for each in known.queries]
    flags = [flag for each in known.queries for flag in each.relevant]
    return ScoredPairs(
        np.concatenate(scores), np.array(flags, np.bool_), np.repeat(np.arange(len(counts)), counts)
    )
