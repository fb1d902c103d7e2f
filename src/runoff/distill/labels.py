"""Candidates and teachers' scores -> rows to train on: one teacher's raw logits, or several parts as one label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import FloatArray, InputError
from runoff.data.shards import Place, Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill import teacher as score_shards
from runoff.distill.teacher import Moments, as_keys, located, pair_key

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "labels"
KEPT = ("query_id", "query", "document_id", "document", "grade", "rank")
FEWEST_POSITIVES = 20
"""Of fewer judged answers nobody can tell whether a teacher puts them in front."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a label is made of. `InputError` for nothing, unknown columns and weights that are 0 or not finite.

    `scores`: folders that `teach` wrote, with their weights. `columns`: what the first stage said ("bm25", "dense",
    "fusion"), with weights. `positive_bonus` is added for judged answers (grade above 0).
    """

    scores: Mapping[str, float]
    columns: Mapping[str, float] = field(default_factory=dict)
    positive_bonus: float = 0.0

    def __post_init__(self) -> None:
        if not self.scores and not self.columns:
            raise InputError("a label needs scores: give a folder that runoff teach wrote")
        if unknown := [name for name in self.columns if name not in candidate_shards.STAGES]:
            raise InputError(
                f"expected columns among {', '.join(candidate_shards.STAGES)}, got {unknown[0]!r}"
            )
        for name, weight in {**self.scores, **self.columns, "the bonus": self.positive_bonus or 1.0}.items():
            if not np.isfinite(weight) or weight == 0.0:
                raise InputError(f"expected a weight that is a number other than 0 for {name}, got {weight}")

    @property
    def are_raw(self) -> bool:
        """Whether the label is one teacher's score as it is: the published recipe's."""
        return len(self.scores) == 1 and not self.columns and set(self.scores.values()) == {1.0}


@dataclass(frozen=True, slots=True)
class LabelReport:
    """How many rows, the labels' mean and deviation, and each part's mean for judged answers and for the rest."""

    pairs: int
    mean: float
    deviation: float
    parts: Mapping[str, tuple[float, float]]


def schema(is_mixed: bool = False) -> pa.Schema:
    """The candidate's texts, grade and rank, and its label; of a mixture also the subset's name."""
    import pyarrow as pa

    kept = [candidate_shards.schema().field(name) for name in KEPT]
    label = pa.field("label", pa.float32(), nullable=False)
    subset = [pa.field("subset", pa.string(), nullable=False)] if is_mixed else []
    return pa.schema([*kept, label, *subset])


def schema_of(manifest: Mapping[str, Any]) -> pa.Schema:
    """The columns of a folder of labels with this manifest."""
    return schema("subset" in manifest.get("columns", ()))


def label(
    candidates: str | Path,
    parts: Parts,
    out: str | Path,
    advance: Callable[[int], object] = lambda _count: None,
) -> LabelReport:
    """Writes the candidates with their labels, shard by shard.

    One teacher of weight 1: its raw score. Else the weighted sum of the parts, each less its mean and over its standard
    deviation over all candidates, so that weights compare. Of a column, a query's values are first divided by its
    best (BM25 grows with the query's length), and a candidate that the stage did not find counts 0. Raises
    `InputError` for pairs without a score, and for a part that puts judged answers behind the rest.
    """
    source, made = Shards(candidates, candidate_shards.KIND), Shards(out, KIND)
    source.checked()
    tables = {name: ScoreTable(Shards(name, score_shards.KIND)) for name in parts.scores}
    bests = _bests(source, list(parts.columns))
    weights = {**parts.scores, **parts.columns}
    units = {name: _Unit() for name in weights}
    for first, batch in source.batches([*KEPT, *parts.columns]):
        values = _values(first, batch, tables, bests)
        judged = is_positive(batch)
        for name, unit in units.items():
            unit.add(values[name], judged)
    for name, unit in units.items():
        unit.check(name, weights[name])
    made.begin(
        {
            "scores": [
                {"folder": Path(name).name, "weight": weight, **tables[name].identity}
                for name, weight in parts.scores.items()
            ],
            "columns": dict(parts.columns),
            "positive_bonus": parts.positive_bonus,
            "raw": parts.are_raw,
            "candidates": source.checked()["identity"],
        }
    )
    total = Moments()
    for number, file in enumerate(source.files()):
        total.add(_label_shard(source, file, parts, (tables, bests, units), made, number, advance))
    made.finish({"counts": {"pairs": total.count}, "mean": total.mean, "deviation": total.deviation})
    return LabelReport(
        total.count, total.mean, total.deviation, {name: unit.sides for name, unit in units.items()}
    )


class ScoreTable:
    """All scores of one folder by key: 20 bytes a pair."""

    def __init__(self, scores: Shards) -> None:
        manifest = scores.checked()
        self.folder, self.identity = scores.folder, dict(manifest["identity"])
        keys, values = [], []
        for _, batch in scores.batches(["key", "score"]):
            keys += batch.column("key").to_pylist()
            values.append(batch.column("score").to_numpy(zero_copy_only=False))
        if not keys:
            raise InputError(f"{self.folder} has no scores ({manifest['counts']})")
        array = as_keys(keys)
        order = np.argsort(array)
        self._keys, self._scores = array[order], np.concatenate(values)[order]

    def of(self, keys: Sequence[bytes], first: Place) -> FloatArray:
        """The scores of these keys, [N]; `InputError` names the first pair that has none."""
        places, is_there = located(self._keys, as_keys(keys))
        if (missing := np.flatnonzero(~is_there)).size:
            place = Place(first.file, first.row + int(missing[0]))
            raise InputError(
                f"{self.folder} has no score for {place} and {len(missing) - 1} more of {len(keys)} pairs. Run "
                "runoff teach over these candidates again: it scores what is missing"
            )
        found: FloatArray = self._scores[places]
        return found


class _Unit:
    """Mean and deviation of a part, and its means over judged answers and over the rest."""

    def __init__(self) -> None:
        self.all, self.judged, self.rest = Moments(), Moments(), Moments()

    def add(self, values: Floats, judged: npt.NDArray[np.bool_]) -> None:
        for moments, part in (
            (self.all, values),
            (self.judged, values[judged]),
            (self.rest, values[~judged]),
        ):
            moments.add(part)

    @property
    def sides(self) -> tuple[float, float]:
        """(mean of judged answers, mean of the rest); not a number where there are none."""
        judged, rest = (side.mean if side.count else float("nan") for side in (self.judged, self.rest))
        return judged, rest

    def standardised(self, values: Floats) -> Floats:
        return (values - self.all.mean) / self.all.deviation

    def check(self, name: str, weight: float) -> None:
        """Refuses a part that says nothing, or the opposite of the judgements."""
        whole = self.all
        if whole.is_constant:
            raise InputError(f"{name}: all candidates have the same score ({whole.mean:g}); leave it out")
        judged, rest = self.sides
        if self.judged.count >= FEWEST_POSITIVES and (judged - rest) * weight < 0:
            raise InputError(
                f"{name} gives judged answers {judged:.4g} on average and the other candidates {rest:.4g}: with the "
                f"weight {weight:g} they would be taught as the worse ones. Is it a distance? Give it a weight of "
                f"{-weight:g}, or another teacher"
            )


# --- rows --------------------------------------------------------------------------------------------


def _bests(source: Shards, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Column -> query id -> its best value."""
    found: dict[str, dict[str, float]] = {name: {} for name in columns}
    for _, batch in source.batches(["query_id", *columns]) if columns else ():
        ids = batch.column("query_id").to_pylist()
        for name, best in found.items():
            for id, value in zip(ids, batch.column(name).to_pylist(), strict=True):
                if value is not None:
                    best[id] = max(best.get(id, value), value)
    return found


def _values(
    first: Place,
    batch: pa.RecordBatch,
    tables: Mapping[str, ScoreTable],
    bests: Mapping[str, Mapping[str, float]],
) -> dict[str, Floats]:
    """Each part's value of each row, [N]."""
    queries, documents = (batch.column(name).to_pylist() for name in ("query", "document"))
    keys = [pair_key(query, document) for query, document in zip(queries, documents, strict=True)]
    found = {name: table.of(keys, first).astype(np.float64) for name, table in tables.items()}
    ids = batch.column("query_id").to_pylist()
    for name, best in bests.items():
        column = batch.column(name).to_pylist()
        shares = [
            0.0 if value is None else value / (best[id] or 1.0) for id, value in zip(ids, column, strict=True)
        ]
        found[name] = np.array(shares, np.float64)
    return found


def is_positive(batch: pa.RecordBatch | pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows are judged answers, [N]."""
    return np.array([grade is not None and grade > 0 for grade in batch.column("grade").to_pylist()], bool)


Tools = tuple[Mapping[str, ScoreTable], Mapping[str, Mapping[str, float]], Mapping[str, _Unit]]


def _label_shard(
    source: Shards,
    file: Path,
    parts: Parts,
    tools: Tools,
    made: Shards,
    number: int,
    advance: Callable[[int], object],
) -> Floats:
    """Writes one shard's rows and returns its labels."""
    tables, bests, units = tools
    columns: dict[str, list[Any]] = {name: [] for name in KEPT}
    labels = []
    for first, batch in source.batches([*KEPT, *parts.columns], files=[file]):
        values, positive = _values(first, batch, tables, bests), is_positive(batch)
        if parts.are_raw:
            (total,) = values.values()
        else:
            weights = {**parts.scores, **parts.columns}
            total = sum(
                (weights[name] * units[name].standardised(values[name]) for name in weights),
                np.zeros(len(positive)),
            )
        labels.append(total + parts.positive_bonus * positive)
        for name, column in columns.items():
            column += batch.column(name).to_pylist()
        advance(len(positive))
    whole = np.concatenate(labels) if labels else np.zeros(0)
    made.write(number, {**columns, "label": whole.astype(np.float32)}, schema())
    return whole
