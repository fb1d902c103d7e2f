"""A mixture -> rows to train on: subset after subset, as a stream, and gone on with where it was stopped.

    OUT/part-00000.parquet ...      the rows of all subsets, one subset behind the other
    OUT/manifest.json               the mixture; of each subset its files with their hashes, counts and licence
    OUT/held-out/                   the rows held out for an evaluation loss, a folder of the same kind

Which rows are taken depends on the mixture alone: on their numbers in their subset, never on what is read at a time.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import Datasets, InputError
from runoff.data.draw import Draw, Numbers, QueryDraw, RowDraw
from runoff.data.mixture import Mixture, Subset
from runoff.data.shards import MANIFEST, parquet_module
from runoff.distill import labels as label_shards
from runoff.distill.mixed import SHARD_ROWS, MixedFolder, MixReport, RowWriter
from runoff.distill.sources import (
    BATCH_ROWS,
    Rows,
    SourceFile,
    digest,
    find_source,
    read_labels,
    read_query_ids,
    read_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa

KEY_BYTES = 10
"""Of a text's digest, where a source gives no ids: of 143 million, two are the same with a chance of 1e-8."""

Advance = Callable[[int], object]


def mix(
    mixture: Mixture,
    out: str | Path,
    datasets: Datasets | None = None,
    *,
    shard_rows: int = SHARD_ROWS,
    batch_rows: int = BATCH_ROWS,
    advance: Advance = lambda _count: None,
) -> MixReport:
    """Writes the mixture's rows to `out`, and goes on where an earlier call was stopped.

    `datasets` reaches those of the hub. A subset that is finished is not read again, only its local files are compared
    with what they were. Raises `InputError`, with subset, file and row, for what cannot be reached or learned from;
    what was finished before stays, and the folder does not count as complete.
    """
    parquet_module()
    if shard_rows < 1 or batch_rows < 1:
        raise InputError(
            f"expected 1 row or more in a shard and in a batch, got {shard_rows} and {batch_rows}"
        )
    if not (Path(out) / MANIFEST).exists():  # what was begun was checked then
        _check_complete(mixture, datasets)
    folder = MixedFolder.begun(Path(out), mixture, shard_rows)
    for subset in mixture.subsets:
        with _named(subset):
            _mix_subset(subset, mixture, datasets, folder, batch_rows, advance)
    return folder.finish(mixture)


def _check_complete(mixture: Mixture, datasets: Datasets | None) -> None:
    """Whether the dataset of `complete_of` has exactly the configurations that the mixture takes of it."""
    if mixture.complete_of is None or datasets is None:
        return
    own = [subset for subset in mixture.subsets if subset.dataset == mixture.complete_of]
    there = set(datasets.listing(mixture.complete_of, own[0].revision if own else None).configs)
    named = {subset.config or subset.name for subset in own}
    for which, names in (("lacks", named - there), ("also has", there - named)):
        if names:
            raise InputError(
                f"{mixture.complete_of} has {len(there)} configurations and the mixture {mixture.name!r} names "
                f"{len(named)}: the dataset {which} {', '.join(sorted(names))}. Mend the mixture's file (runoff mix "
                "MIXTURE --list --json > ours.json makes one), or name the subsets to mix (--only)"
            )


@contextmanager
def _named(subset: Subset) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"subset {subset.name}: {error}") from error


# --- one subset --------------------------------------------------------------------------------------------


def _mix_subset(
    subset: Subset,
    mixture: Mixture,
    datasets: Datasets | None,
    folder: MixedFolder,
    batch_rows: int,
    advance: Advance,
) -> None:
    before, is_done = folder.record(subset), folder.has_all_of(subset)
    if is_done and subset.dataset is not None:  # of a commit that was written down: the same files for ever
        folder.pass_over(subset)
        advance(before["taken"])
        return
    source = find_source(subset, mixture, datasets, folder.commit_of(subset))
    files, held_files = _fetched(source.files), _fetched(source.held_out)
    facts = {
        "files": [_file_facts(*each) for each in files],
        "held_out_files": [_file_facts(*each) for each in held_files],
        "commit": source.commit,
        "licence": subset.licence or source.licence,
        "card_licence": source.licence,
    }
    _check_same(before, facts)
    if is_done:
        folder.pass_over(subset)
        advance(before["taken"])
        return
    folder.note(subset, {**facts, "is_done": False})
    survey = _survey([path for _, path in files], subset)
    tail = 0 if held_files else subset.held_out
    takes = _Takes.of(subset, [path for _, path in files], sum(survey), tail, mixture.seed)
    made, held = folder.writers()
    for copy in range(takes.copies):
        rows = _numbered([path for _, path in files], subset, batch_rows)
        _take(subset, rows, takes, copy, made, held, advance)
    for _, batch in _numbered([path for _, path in held_files], subset, batch_rows):
        held.add(_table(subset, batch, 0))
    made.close()
    held.close()
    if held_files and subset.held_out not in (0, held.rows):
        raise InputError(
            f"the split {subset.held_out_split!r} has {held.rows:,} rows, expected {subset.held_out:,} to hold out"
        )
    seen = sum(survey) + (held.rows if held_files else 0)
    counts = {"seen": seen, "taken": made.rows, "held_out": held.rows}
    folder.note(subset, {**facts, "is_done": True, **counts, "parts": made.span, "held_out_parts": held.span})


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses files that are no longer those that the subset was begun with."""
    for key in ("files", "held_out_files") if before else ():
        was, is_now = ({file["file"]: file for file in facts[key]} for facts in (before, now))
        if other := sorted(name for name in {*was, *is_now} if was.get(name) != is_now.get(name)):
            raise InputError(
                f"{len(other)} of its files are not as they were when it was begun, the first is {other[0]}. Mix into "
                "another folder"
            )


def _fetched(files: Sequence[SourceFile]) -> list[tuple[SourceFile, Path]]:
    return [(file, file.fetch()) for file in files]


def _file_facts(file: SourceFile, path: Path) -> dict[str, Any]:
    return {"file": file.name, "bytes": path.stat().st_size, "sha256": digest(path)}


def _survey(paths: Sequence[Path], subset: Subset) -> list[int]:
    """Rows of each file, once all labels were seen to be numbers, and not all the same."""
    counts, least, most = [], math.inf, -math.inf
    for path in paths:
        counts.append(0)
        for labels in read_labels(path, subset.columns):
            counts[-1] += len(labels)
            if len(labels):
                least, most = min(least, float(labels.min())), max(most, float(labels.max()))
    if not sum(counts):
        raise InputError(f"{paths[0]}: no row in it, nor in any other file of the subset")
    if least == most and sum(counts) > 1:
        raise InputError(
            f"{paths[0]}: all {sum(counts):,} labels of the subset, from the first row on, are {least:g}: nothing can "
            "be learned from them. Is it the right column?"
        )
    return counts


@dataclass(frozen=True, slots=True)
class _Takes:
    """Which rows are taken in each of `copies` passes: those of the first `rows` that `whole` draws, and in the last
    pass `part`, which is fewer where the weight leaves a rest. Rows from `rows` on are held out."""

    rows: int
    copies: int
    whole: Draw
    part: Draw

    @classmethod
    def of(cls, subset: Subset, paths: Sequence[Path], total: int, tail: int, seed: int) -> _Takes:
        rows = total - tail
        if rows < 1:
            raise InputError(f"it has {total:,} rows and {tail:,} are to be held out: none is left")
        starts = _query_starts(paths, subset, rows) if subset.draw == "queries" else None
        capped, whole = _drawn(rows, min(rows, subset.cap or rows), starts, (seed, subset.name))
        wanted = math.floor(capped * subset.weight + 0.5)
        full, rest = divmod(wanted, capped) if capped else (0, 0)
        drawn, part = _drawn(rows, rest, starts, (seed, subset.name)) if rest else (0, whole)
        if not full and not drawn:
            raise InputError(
                f"of its {rows:,} rows, a cap of {subset.cap or rows:,} and a weight of {subset.weight:g} take none "
                f"(drawing {subset.draw})"
            )
        return cls(rows, full + bool(drawn), whole, part)

    def taken(self, numbers: npt.NDArray[np.int64], copy: int) -> npt.NDArray[np.bool_]:
        draw = self.part if copy == self.copies - 1 else self.whole
        return (numbers < self.rows) & draw.takes(numbers)


def _drawn(rows: int, count: int, starts: Numbers | None, of: tuple[int, str]) -> tuple[int, Draw]:
    """A draw of `count` rows, or of the queries that `starts` tells apart, and how many rows it takes."""
    if starts is None:
        return count, RowDraw(rows, count, *of)
    queries = QueryDraw(starts, count, *of)
    return queries.count, queries


def _query_starts(paths: Sequence[Path], subset: Subset, rows: int) -> Numbers:
    """Where each query's rows begin among the first `rows`, [queries + 1]; 8 bytes a query."""
    starts, seen, last = array("q"), 0, object()
    for path in paths:
        for ids in read_query_ids(path, subset.columns):
            for number, id in enumerate(ids, start=seen):
                if id != last:
                    starts.append(number)
                    last = id
            seen += len(ids)
    found = np.frombuffer(starts, np.int64)
    return np.append(found[found < rows], rows)


def _numbered(paths: Sequence[Path], subset: Subset, batch_rows: int) -> Iterator[tuple[int, Rows]]:
    """(number of the first row in the subset, some rows) of all files."""
    first = 0
    for path in paths:
        for rows in read_rows(path, subset.columns, batch_rows):
            yield first, rows
            first += len(rows.labels)


def _take(
    subset: Subset,
    rows: Iterator[tuple[int, Rows]],
    takes: _Takes,
    copy: int,
    made: RowWriter,
    held: RowWriter,
    advance: Advance,
) -> None:
    """One pass over a subset: what is taken goes to `made`, in the first pass what is held out to `held`."""
    for first, batch in rows:
        numbers = np.arange(first, first + len(batch.labels))
        taken = takes.taken(numbers, copy)
        made.add(_table(subset, batch.where(taken), copy))
        if copy == 0 and (tail := numbers >= takes.rows).any():
            held.add(_table(subset, batch.where(tail), 0))
        advance(int(taken.sum()))


def _table(subset: Subset, rows: Rows, copy: int) -> pa.Table:
    """Rows as they are written. Ids are the source's, else of the text; the subset's name and, of a row that is taken
    again, its copy keep them apart."""
    import pyarrow as pa

    count, again = len(rows.labels), f"#{copy + 1}" if copy else ""
    ids = {}
    for role in ("query", "document"):
        given = rows.columns.get(f"{role}_id")
        own = given.to_pylist() if given is not None else map(_digest, rows.columns[role].to_pylist())
        ids[f"{role}_id"] = [f"{subset.name}/{id}{again if role == 'query' else ''}" for id in own]
    schema = label_shards.schema(is_mixed=True)
    columns = {
        **{name: pa.nulls(count, schema.field(name).type) for name in ("grade", "rank")},
        **rows.columns,
        **ids,
        "label": rows.labels,
        "subset": [subset.name] * count,
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()
