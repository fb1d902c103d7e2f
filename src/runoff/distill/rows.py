"""Labelled rows as training reads them: checked once, memory-mapped, and dealt into batches that a seed decides."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError, MissingExtraError
from runoff.data.shards import Place, Shards
from runoff.distill import labels as label_shards
from runoff.distill.recipe import Recipe
from runoff.distill.teacher import Moments

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("query_id", "query", "document", "grade", "label")
HELD_OUT_QUERIES = 500
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The rows of a labels folder: `starts` [queries + 1] says where each query's rows begin."""

    folder: Path
    identity: dict[str, Any]
    starts: Numbers
    mean: float
    deviation: float
    positives: int
    characters: int

    @property
    def count(self) -> int:
        return int(self.starts[-1])

    @property
    def queries(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class Split:
    """Query numbers to train on and to hold out, both ascending."""

    train: Numbers
    held_out: Numbers


def checked_rows(folder: str | Path, advance: Callable[[int], object] = lambda _count: None) -> LabelledRows:
    """Reads all rows once, as a stream, and says what is there; rows of a query that stand apart count as two queries.

    Raises `InputError` with file and row for labels that are not finite and for empty texts, and for labels that are
    all the same.
    """
    shards = Shards(folder, label_shards.KIND)
    manifest = shards.checked()
    labels, positives, characters = Moments(), 0, 0
    starts = array("q")  # 8 bytes a query: there may be a hundred million
    last: str | None = None
    seen = 0
    for place, batch in shards.batches(COLUMNS):
        values = batch.column("label").to_numpy(zero_copy_only=False)
        _check(place, batch, values)
        labels.add(values)
        positives += int(label_shards.is_positive(batch).sum())
        characters += _characters(batch)
        for row, id in enumerate(batch.column("query_id").to_pylist()):
            if id != last:
                starts.append(seen + row)
                last = id
        seen += batch.num_rows
        advance(batch.num_rows)
    if not seen:
        raise InputError(f"{shards.folder} has no rows to train on")
    if labels.is_constant:
        raise InputError(
            f"{shards.folder}: all {seen:,} labels are {labels.mean:g}; nothing can be learned from them"
        )
    return LabelledRows(
        shards.folder,
        dict(manifest["identity"]),
        np.append(np.frombuffer(starts, np.int64), seen),
        labels.mean,
        labels.deviation,
        positives,
        characters,
    )


def split(rows: LabelledRows, held_out: int, recipe: Recipe) -> Split:
    """Draws the queries to hold out, and of the rest the recipe's subset; by the seed alone.

    Raises `InputError` where nothing would be left to train on.
    """
    if not 0 <= held_out < rows.queries:
        raise InputError(
            f"expected to hold out fewer than the {rows.queries:,} queries of {rows.folder}, got {held_out:,}"
        )
    order = np.random.default_rng([recipe.seed, 1]).permutation(rows.queries)
    train = order[held_out:]
    train = train[: max(1, round(len(train) * recipe.subset))]
    return Split(np.sort(train), np.sort(order[:held_out]))


class Deal:
    """Rows in batches: every row of the queries once an epoch, in groups of a query, in an order the seed decides.

    A batch is `pairs` rows at most: pairs // group groups of up to `group` rows, the groups of a query being drawn anew
    each epoch. Rows that fill no whole batch are left out of that epoch (`left_out` of them at most).
    """

    def __init__(self, starts: Numbers, queries: Numbers, pairs: int, group: int, seed: int) -> None:
        self._starts, self._queries = starts, queries
        self._group, self._seed = group, seed
        self.groups_each = pairs // group
        sizes = starts[queries + 1] - starts[queries]
        self.rows = int(sizes.sum())
        self._groups = int((-(-sizes // group)).sum())

    def __len__(self) -> int:
        return self._groups // self.groups_each

    @property
    def left_out(self) -> int:
        return (self._groups - len(self) * self.groups_each) * self._group

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """Row numbers of each batch; the rows of a group stand together."""
        rng = np.random.default_rng([self._seed, 2, epoch])
        sizes = self._starts[self._queries + 1] - self._starts[self._queries]
        if self._group == 1:
            # Row r of these queries, counted through, is row r + shift of the folder.
            ends = np.cumsum(sizes)
            shifts = self._starts[self._queries] - (ends - sizes)
            order = rng.permutation(self.rows)
            for number in range(len(self)):
                part = order[number * self.groups_each : (number + 1) * self.groups_each]
                yield (part + shifts[np.searchsorted(ends, part, side="right")]).tolist()
            return
        yield from self._grouped(rng, sizes)

    def _grouped(self, rng: np.random.Generator, sizes: Numbers) -> Iterator[list[int]]:
        owner = np.repeat(np.arange(len(sizes)), sizes)
        firsts = np.cumsum(sizes) - sizes
        rows = np.arange(self.rows) - np.repeat(firsts, sizes) + np.repeat(self._starts[self._queries], sizes)
        rows = rows[np.lexsort((rng.random(self.rows), owner))]
        within = np.arange(self.rows) - np.repeat(firsts, sizes)
        borders = np.flatnonzero(within % self._group == 0)
        ends = np.append(borders[1:], self.rows)
        order = rng.permutation(len(borders))
        for number in range(len(self)):
            part = order[number * self.groups_each : (number + 1) * self.groups_each]
            yield np.concatenate([rows[borders[g] : ends[g]] for g in part]).tolist()


def runs(ids: list[str], group: int) -> npt.NDArray[np.int32]:
    """Where each group of a batch starts and ends, [G + 1]: rows of one query that stand together, cut at `group`."""
    edges, size = [0], 0
    for place in range(1, len(ids)):
        size += 1
        if ids[place] != ids[place - 1] or size == group:
            edges.append(place)
            size = 0
    return np.array([*edges, len(ids)], np.int32)


def mapped(rows: LabelledRows, cache: Path) -> Any:
    """The rows as a `datasets.Dataset` whose texts stay on the disk, in `cache`."""
    try:
        from datasets import Dataset, disable_progress_bars
    except ImportError as error:
        raise MissingExtraError("training needs datasets: pip install 'runoff[train]'") from error
    disable_progress_bars()
    files = [str(file) for file in Shards(rows.folder, label_shards.KIND).files()]
    return Dataset.from_parquet(files, columns=list(COLUMNS), cache_dir=str(cache))


def _check(place: Place, batch: pa.RecordBatch, values: npt.NDArray[np.floating]) -> None:
    import pyarrow.compute as compute

    def at(row: int) -> Place:
        return Place(place.file, place.row + row)

    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise InputError(
            f"{at(int(bad[0]))}: expected a number as the label, got {values[bad[0]]} ({len(bad)} such rows from "
            f"{place.file.name}, row {place.row} on). Label the candidates anew."
        )
    for name in ("query_id", "query", "document"):
        lengths = compute.utf8_length(compute.utf8_trim_whitespace(batch.column(name)))
        empty = np.flatnonzero(lengths.fill_null(0).to_numpy(zero_copy_only=False) == 0)
        if empty.size:
            raise InputError(f"{at(int(empty[0]))}: expected a text as {name}, it is empty")


def _characters(batch: pa.RecordBatch) -> int:
    import pyarrow.compute as compute

    return sum(
        int(compute.sum(compute.utf8_length(batch.column(name))).as_py() or 0)
        for name in ("query", "document")
    )
