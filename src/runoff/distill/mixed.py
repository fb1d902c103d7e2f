"""What a mixture is written to: shards that keep queries whole, and a manifest that says what came of each subset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.contracts import FloatArray
from runoff.data.mixture import Mixture, Subset
from runoff.data.shards import Shards
from runoff.distill import labels as label_shards
from runoff.distill.teacher import Moments

if TYPE_CHECKING:
    import pyarrow as pa

HELD_OUT = "held-out"
SHARD_ROWS = 32_768
"""Rows after which a shard ends with its query: with documents of 700 characters, 25 MB in memory."""
LONGEST_SHARD = 4
"""Times SHARD_ROWS at which a shard ends within a query: whatever has that many rows is no list to be ranked."""


@dataclass(frozen=True, slots=True)
class MixedSubset:
    """What came of a subset: rows `seen`, `taken` (as often as they were taken) and `held_out`."""

    name: str
    seen: int
    taken: int
    held_out: int
    licence: str | None


@dataclass(frozen=True, slots=True)
class MixReport:
    """What came of the subsets, and of all rows that were taken the labels' mean and standard deviation."""

    subsets: tuple[MixedSubset, ...]
    mean: float
    deviation: float

    @property
    def pairs(self) -> int:
        return sum(subset.taken for subset in self.subsets)

    @property
    def held_out(self) -> int:
        return sum(subset.held_out for subset in self.subsets)


class RowWriter:
    """Shards of one subset, from number `first` on. Each ends with a query once it has `shard_rows` rows, so that a
    query whose rows stand together stays in one; those that are there already are counted and not written again."""

    def __init__(self, shards: Shards, first: int, shard_rows: int) -> None:
        self._shards, self._first, self._limit = shards, first, shard_rows
        self._number, self._tables, self._waiting, self._last = first, list[Any](), 0, ""
        self.rows = 0

    @property
    def span(self) -> list[int]:
        """[the first shard's number, the number behind the last]."""
        return [self._first, self._number]

    def add(self, table: pa.Table) -> None:
        start, ids = 0, table.column("query_id").to_pylist()
        for row, id in enumerate(ids):
            waiting = self._waiting + row - start
            if waiting >= self._limit and (id != self._last or waiting >= LONGEST_SHARD * self._limit):
                self._keep(table.slice(start, row - start))
                self.close()
                start = row
            self._last = id
        self._keep(table.slice(start))

    def _keep(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._waiting += table.num_rows

    def close(self) -> None:
        """Writes what is waiting."""
        import pyarrow as pa

        if self._waiting:
            if not self._shards.path(self._number).exists():
                whole = pa.concat_tables(self._tables)
                self._shards.write(
                    self._number, {name: whole.column(name) for name in whole.column_names}, whole.schema
                )
            self._number += 1
            self.rows += self._waiting
        self._tables, self._waiting = [], 0


class MixedFolder:
    """OUT and its held-out folder, and what their manifest says of each subset."""

    def __init__(self, made: Shards, held: Shards, mixture: Mixture, shard_rows: int) -> None:
        self._made, self._held, self._shard_rows = made, held, shard_rows
        self._subsets = mixture.subsets
        self._records: dict[str, dict[str, Any]] = made.manifest().get("subsets", {})
        self._next = self._next_held = 0

    @classmethod
    def begun(cls, out: Path, mixture: Mixture, shard_rows: int) -> MixedFolder:
        made, held = Shards(out, label_shards.KIND), Shards(out / HELD_OUT, label_shards.KIND)
        identity = {"mixture": mixture.identity(), "shard_rows": shard_rows}
        made.begin(identity)
        if _holds_out(mixture):
            held.begin({"held_out_of": identity})
        return cls(made, held, mixture, shard_rows)

    def record(self, subset: Subset) -> dict[str, Any]:
        """What was written down of the subset; empty where it was not begun."""
        return self._records.get(subset.name, {})

    def has_all_of(self, subset: Subset) -> bool:
        """Whether the subset is finished and each of its shards is there."""
        record = self.record(subset)
        if not record.get("is_done"):
            return False
        (first, end), (first_held, end_held) = record["parts"], record["held_out_parts"]
        paths = [self._made.path(number) for number in range(first, end)]
        paths += [self._held.path(number) for number in range(first_held, end_held)]
        return all(path.exists() for path in paths)

    def pass_over(self, subset: Subset) -> None:
        """The next subset's shards follow this finished one's."""
        record = self.record(subset)
        self._next, self._next_held = record["parts"][1], record["held_out_parts"][1]

    def commit_of(self, subset: Subset) -> str | None:
        """The commit of the subset's dataset that this folder was begun with: all subsets are of one."""
        origin = (subset.dataset, subset.revision)
        found = (
            self.record(each).get("commit")
            for each in self._subsets
            if (each.dataset, each.revision) == origin
        )
        return next((commit for commit in found if commit), None)

    def note(self, subset: Subset, facts: Mapping[str, Any]) -> None:
        self._records[subset.name] = dict(facts)
        self._made.note({"subsets": self._records})
        if facts["is_done"]:
            self.pass_over(subset)

    def writers(self) -> tuple[RowWriter, RowWriter]:
        """Writers of the next subset's rows and of those held out."""
        return (
            RowWriter(self._made, self._next, self._shard_rows),
            RowWriter(self._held, self._next_held, self._shard_rows),
        )

    def finish(self, mixture: Mixture) -> MixReport:
        """Marks both folders as complete."""
        subsets = [
            MixedSubset(name, *(record[key] for key in ("seen", "taken", "held_out", "licence")))
            for name, record in ((each.name, self.record(each)) for each in mixture.subsets)
        ]
        columns = label_shards.schema(is_mixed=True).names
        total = _label_moments(self._made)
        report = MixReport(tuple(subsets), total.mean, total.deviation)
        if _holds_out(mixture):
            self._held.finish({"counts": {"pairs": report.held_out}, "columns": columns})
        self._made.finish(
            {
                "counts": {"pairs": report.pairs, "held_out": report.held_out},
                "mean": total.mean,
                "deviation": total.deviation,
                "columns": columns,
                "mixture": mixture.definition(),
            }
        )
        return report


def _holds_out(mixture: Mixture) -> bool:
    return any(subset.held_out or subset.held_out_split for subset in mixture.subsets)


def _label_moments(shards: Shards) -> Moments:
    total = Moments()
    for _, batch in shards.batches(["label"], rows=1 << 16):
        labels: FloatArray = batch.column("label").to_numpy()
        total.add(labels)
    return total
