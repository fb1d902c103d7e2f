"""A mixture's subset -> its files, wherever they lie, and their rows, each checked and with its place."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from runoff.contracts import BadRow, Datasets, FloatArray, InputError
from runoff.data.folders import visible_files
from runoff.data.mixture import Mixture, RowColumns, Subset
from runoff.data.records import PARQUET_BUFFER_BYTES, UNREADABLE, parquet_records, record_reader
from runoff.data.shards import MANIFEST, Shards, parquet_module
from runoff.distill import labels as label_shards

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 2048
"""Rows read at a time: with documents of 4 KB each, 8 MB."""

_TEXTS = ("query", "document", "query_id", "document_id")
_KEPT = ("grade", "rank")
_NUMBERED = re.compile(r"(.*?)-(\d+)-of-(\d+)\b.*")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a subset: its name in folder or dataset, and what brings it to this machine."""

    name: str
    fetch: Callable[[], Path]


@dataclass(frozen=True, slots=True)
class Source:
    """A subset's files, those of its held-out split (none: its tail is held out), and what its card says."""

    files: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...] = ()
    commit: str | None = None
    licence: str | None = None


def find_source(
    subset: Subset, mixture: Mixture, datasets: Datasets | None, commit: str | None = None
) -> Source:
    """Where the subset's rows are; of a dataset at `commit`, else at its revision.

    `InputError` for a folder or dataset that is not there, one without files, and one that lacks some.
    """
    if subset.folder is not None:
        folder = mixture.base / Path(subset.folder).expanduser()
        return Source(tuple(_folder_files(folder)))
    assert subset.dataset is not None
    if datasets is None:
        raise InputError(
            f"{subset.dataset} is a dataset of the hub: give mix() a HubDatasets to reach it with"
        )
    listing = datasets.listing(subset.dataset, commit or subset.revision)
    config = subset.config or subset.name
    if config not in listing.configs:
        there = ", ".join(sorted(listing.configs)) or "none"
        raise InputError(f"{subset.dataset} has no configuration {config!r}; it has {there}")
    splits = listing.configs[config]

    def files(split: str) -> tuple[SourceFile, ...]:
        names = splits.get(split, ())
        _check_numbers(names)
        return tuple(SourceFile(name, _fetcher(subset, datasets, name, listing.commit)) for name in names)

    if not (found := files(subset.split)):
        raise InputError(
            f"{subset.dataset}, configuration {config!r}, has no file of the split {subset.split!r}; it has "
            f"{', '.join(sorted(splits)) or 'none'}"
        )
    held_out = files(subset.held_out_split) if subset.held_out_split else ()
    if subset.held_out_split and not held_out and not subset.held_out:
        raise InputError(
            f"{subset.dataset}, configuration {config!r}, has no split {subset.held_out_split!r} to hold out; it has "
            f"{', '.join(sorted(splits))}"
        )
    return Source(found, held_out, listing.commit, listing.licence)


def _fetcher(subset: Subset, datasets: Datasets, name: str, commit: str | None) -> Callable[[], Path]:
    return lambda: datasets.fetch(str(subset.dataset), name, commit)


def _folder_files(folder: Path) -> Iterator[SourceFile]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}. Mend the path (it is relative to the mixture's file)")
    if (folder / MANIFEST).is_file():
        shards = Shards.found(folder, (label_shards.KIND,))
        shards.checked()
        paths = shards.files()
    else:
        paths = []
        for path in visible_files(folder):
            if isinstance(path, BadRow):
                raise InputError(str(path))
            if record_reader(path):
                paths.append(path)
    if not paths:
        raise InputError(f"{folder} has no parquet, jsonl or csv file")
    names = [path.relative_to(folder).as_posix() for path in paths]
    _check_numbers(names)
    yield from (SourceFile(name, lambda path=path: path) for name, path in zip(names, paths, strict=True))  # type: ignore[misc]


def _check_numbers(names: Sequence[str]) -> None:
    """Refuses "x-00000-of-00003.parquet" without its two fellows: a copy that is not whole."""
    series: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            series.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, count), numbers in series.items():
        if missing := sorted(set(range(count)) - numbers):
            raise InputError(
                f"of the {count} files {stem}-...-of-{count:05d}, {len(missing)} are missing, the first is number "
                f"{missing[0]}. Copy the rest"
            )


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file, checked: texts that are not empty, labels [N] that are finite.

    `columns`: role -> values, of "query", "document", and where the file has them "query_id", "document_id", "grade",
    "rank".
    """

    labels: FloatArray
    columns: Mapping[str, pa.Array]

    def where(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Those of the rows, in their order."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask)
        return Rows(self.labels[chosen], {role: array.take(chosen) for role, array in self.columns.items()})


@dataclass(frozen=True, slots=True)
class _Raw:
    """Rows as they were read: `arrays` by role, and the number of each row in its file."""

    file: Path
    unit: str
    numbers: Sequence[int]
    arrays: Mapping[str, pa.Array]

    def refuse(self, row: int, why: str) -> NoReturn:
        raise InputError(f"{self.file}, {self.unit} {self.numbers[row]}: {why}")


def read_rows(file: Path, columns: RowColumns, batch_rows: int = BATCH_ROWS) -> Iterator[Rows]:
    """The file's rows, `batch_rows` at a time. `InputError` names file and row of what cannot be used."""
    for raw in _raw(file, columns, batch_rows, tuple(columns_of_rows())):
        for role in _TEXTS:
            if role in raw.arrays:
                _check_texts(raw, role)
        yield Rows(_labels(raw), {role: array for role, array in raw.arrays.items() if role != "label"})


def read_labels(file: Path, columns: RowColumns, batch_rows: int = 32 * BATCH_ROWS) -> Iterator[FloatArray]:
    """The file's labels alone, checked; of parquet only their column is read."""
    for raw in _raw(file, columns, batch_rows, ("label",)):
        yield _labels(raw)


def read_query_ids(file: Path, columns: RowColumns, batch_rows: int = 8 * BATCH_ROWS) -> Iterator[list[Any]]:
    """What tells the file's queries apart: their ids, where it has none their texts."""
    for raw in _raw(file, columns, batch_rows, ("query", "query_id")):
        yield raw.arrays.get("query_id", raw.arrays["query"]).to_pylist()


def columns_of_rows() -> tuple[str, ...]:
    """The roles that a row may have."""
    return ("label", *_TEXTS, *_KEPT)


def _raw(file: Path, columns: RowColumns, batch_rows: int, roles: Sequence[str]) -> Iterator[_Raw]:
    reader = record_reader(file)
    if reader is parquet_records:
        return _parquet(file, columns, batch_rows, roles)
    return _text(file, columns, batch_rows, roles)


def _chosen(file: Path, columns: RowColumns, names: Sequence[str]) -> dict[str, str]:
    try:
        chosen = columns.chosen(names)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return {**chosen, **{role: role for role in _KEPT if role in names}}


def _parquet(file: Path, columns: RowColumns, batch_rows: int, roles: Sequence[str]) -> Iterator[_Raw]:
    parquet = parquet_module()
    import pyarrow as pa

    first = 0
    try:
        # Columns in pieces: by default a whole row group lies in memory (see data/records.py).
        with parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as opened:
            chosen = _chosen(file, columns, opened.schema_arrow.names)
            wanted = {role: name for role, name in chosen.items() if role in roles}
            types = _types()
            for batch in opened.iter_batches(batch_rows, columns=list(wanted.values()), use_threads=False):
                batch.validate(full=True)
                arrays = {
                    role: _cast(file, name, batch.column(name), types[role]) for role, name in wanted.items()
                }
                yield _Raw(file, "row", range(first, first + batch.num_rows), arrays)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read from row {first} on: {error}. Was it cut short? Copy it again"
        ) from error


def _cast(file: Path, name: str, array: pa.Array, type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return array.cast(type, safe=not pa.types.is_floating(type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{file}: the column {name!r} holds {array.type}, expected {type} ({error})"
        ) from error


def _types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    return {
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys(_KEPT, pa.int32()),
        "label": pa.float32(),
    }


def _text(file: Path, columns: RowColumns, batch_rows: int, roles: Sequence[str]) -> Iterator[_Raw]:
    import pyarrow as pa

    records, types = _records(file), _types()
    first = next(records, None)
    if first is None:
        return
    chosen = _chosen(file, columns, list(first[1]))
    wanted = {role: name for role, name in chosen.items() if role in roles}
    whole = chain([first], records)
    while block := list(islice(whole, batch_rows)):
        numbers = [number for number, _ in block]
        found: dict[str, pa.Array] = {}
        raw = _Raw(file, "line", numbers, found)
        for role, name in wanted.items():
            values = [_value(raw, row, role, name, record) for row, (_, record) in enumerate(block)]
            found[role] = pa.array(values, types[role])
        yield raw


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = record_reader(file)
    assert reader is not None
    try:
        for record in reader(file, str(file)):
            if isinstance(record, BadRow):
                raise InputError(f"{record.source}, line {record.line}: {record.reason}")
            yield record
    except UNREADABLE as error:
        raise InputError(
            f"{file} cannot be read (any further): {error}. Was it cut short? Copy it again"
        ) from error


def _value(raw: _Raw, row: int, role: str, name: str, record: Mapping[str, Any]) -> Any:
    """What a record of text has as `role`, of that role's type; None where it has nothing."""
    if name not in record:
        raw.refuse(row, f"no column {name!r}, which the first has; it has {', '.join(record) or 'none'}")
    value = record[name]
    if value is None or (role in _KEPT and value == ""):
        return None
    if role in ("query", "document"):
        if not isinstance(value, str):
            raw.refuse(row, f"expected text as {name!r}, got {value!r:.60}")
        return _encodable(raw, row, name, value)
    if role in _TEXTS:
        return _encodable(raw, row, name, str(value))
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        return float(value) if role == "label" else int(value)
    except (ValueError, OverflowError):
        raw.refuse(row, f"expected a number as {name!r}, got {value!r:.60}")


def _encodable(raw: _Raw, row: int, name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raw.refuse(row, f"half a character (a lone surrogate) in {name!r}: {value!a:.60}")
    return value


def _check_texts(raw: _Raw, role: str) -> None:
    import pyarrow.compute as pc

    array = raw.arrays[role]
    is_bare = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True)
    if pc.any(is_bare).as_py():
        row = pc.index(is_bare, True).as_py()
        raw.refuse(row, f"expected a text as the {role}, got {array[row].as_py()!r}")


def _labels(raw: _Raw) -> FloatArray:
    array = raw.arrays["label"]
    labels: FloatArray = array.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if (bad := np.flatnonzero(~np.isfinite(labels))).size:
        value = array[int(bad[0])].as_py()
        said = "none" if value is None else "not a number" if math.isnan(value) else f"{value} (as float32)"
        raw.refuse(int(bad[0]), f"expected a finite number as the label, got {said}")
    return labels
