"""Queries that were held out of training -> how well a student orders their documents as the teacher does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import FloatArray, Pair
from runoff.data.shards import Shards
from runoff.distill import labels as label_shards
from runoff.distill.rows import COLUMNS, LabelledRows, Numbers
from runoff.ranking import spearman

NAME = "held_out"
METRIC = f"{NAME}_spearman"


class HeldOut:
    """Held-out rows in memory; called with a function from pairs to scores, it gives the figures.

    loss        mean squared difference from the labels
    spearman    rank correlation with the labels within a query, mean over queries (ties share ranks; 0 for no order)
    mrr         1 / place of the first judged answer, mean over the queries that have one (left out where none has)
    """

    def __init__(self, rows: LabelledRows, queries: Numbers) -> None:
        self.pairs: list[Pair] = []
        labels: list[float] = []
        judged: list[bool] = []
        self.edges = [0]
        wanted = [(int(rows.starts[query]), int(rows.starts[query + 1])) for query in queries]
        for found in _rows_between(rows, wanted):
            self.pairs += [(row["query"], row["document"]) for row in found]
            labels += [row["label"] for row in found]
            judged += [row["grade"] is not None and row["grade"] > 0 for row in found]
            self.edges.append(len(self.pairs))
        self.labels = np.array(labels, np.float64)
        self.judged = np.array(judged, bool)

    def __call__(self, score: Callable[[Sequence[Pair]], FloatArray]) -> dict[str, float]:
        scores = score(self.pairs).astype(np.float64)
        figures = {"loss": float(((scores - self.labels) ** 2).mean())}
        scores = np.where(np.isnan(scores), -np.inf, scores)  # behind all others
        parts = [slice(start, end) for start, end in zip(self.edges, self.edges[1:], strict=False)]
        correlations = [spearman(scores[part], self.labels[part]) for part in parts]
        known = [value for value in correlations if value == value]
        figures["spearman"] = float(np.mean(known)) if known else 0.0  # no order was learned
        firsts = [_reciprocal(scores[part], self.judged[part]) for part in parts if self.judged[part].any()]
        if firsts:
            figures["mrr"] = float(np.mean(firsts))
        return figures


def _reciprocal(scores: npt.NDArray[np.float64], judged: npt.NDArray[np.bool_]) -> float:
    """1 / place of the best answer, behind every document that scores as high."""
    best = scores[judged].max()
    return 1.0 / (1 + int((scores[~judged] >= best).sum()))


def _rows_between(rows: LabelledRows, wanted: Sequence[tuple[int, int]]) -> list[list[dict[str, Any]]]:
    """The rows of each (start, end), which ascend; one pass over the shards."""
    found: list[list[dict[str, Any]]] = [[] for _ in wanted]
    place, at = 0, 0
    for _, batch in Shards(rows.folder, label_shards.KIND).batches(COLUMNS):
        end = place + batch.num_rows
        while at < len(wanted) and wanted[at][0] < end:
            start, stop = max(wanted[at][0], place), min(wanted[at][1], end)
            found[at] += batch.slice(start - place, stop - start).to_pylist()
            if wanted[at][1] > end:
                break
            at += 1
        place = end
    return found
