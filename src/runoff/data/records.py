"""Lines and tables of records -> Documents: jsonl, csv, tsv, parquet. One pass, a record at a time."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runoff.contracts import DOCUMENT_TEXTS, BadRow, Document, InputError, MissingExtraError, Origin
from runoff.data.encoding import not_utf8

ID_NAMES = ("id", "_id", "doc_id", "docid", "document_id", "docno", "pid")
TEXT_NAMES = ("text", "contents", "content", "body", "passage", "document")
TITLE_NAMES = ("title",)
LONGEST_FIELD = 1 << 30
PARQUET_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Which field of a record is what, and the type of a field that a csv can only give as text.

    None: the first of the usual names that the record has. `types`: field name -> int, float or bool.
    """

    id: str | None = None
    text: str | None = None
    title: str | None = None
    types: Mapping[str, type] = field(default_factory=dict)

    def document(
        self, record: Mapping[str, Any], source: str, line: int, unit: str = "line"
    ) -> Document | BadRow:
        """The document of one record, title in front of its text; or why it cannot be one.

        What is no part of the document is its metadata; named as a part is, it gets a "_" behind its name.
        """
        id_name, text_name = self._name("id", record), self._name("text", record)
        title_name = self._name("title", record)
        if id_name is None or text_name is None:
            missing = "id" if id_name is None else "text"
            return BadRow(source, line, no_column(missing, getattr(self, missing), record))
        id, text = record[id_name], record[text_name]
        title = record.get(title_name) if title_name else None
        if not isinstance(id, (str, int)) or isinstance(id, bool):
            return BadRow(source, line, f"expected text or a whole number as {id_name!r}, got {id!r}")
        if not isinstance(text, (str, type(None))) or not isinstance(title, (str, type(None))):
            return BadRow(
                source, line, f"expected text, got {text!r:.60} as {text_name!r}, title {title!r:.60}"
            )
        used = {id_name, text_name, title_name, "metadata"}
        used |= {name for name in ("source", "place") if isinstance(record.get(name), (str, type(None)))}
        metadata = {key: value for key, value in record.items() if key not in used}
        nested = record.get("metadata")
        if isinstance(nested, Mapping):
            metadata = {**nested, **metadata}
        elif nested is not None:
            metadata["metadata"] = nested
        try:
            metadata = {_apart(key, metadata): self._typed(key, value) for key, value in metadata.items()}
        except ValueError as error:
            return BadRow(source, line, str(error))
        return Document(
            id=str(id),
            text=f"{title or ''} {text or ''}".strip(),
            title=title or None,
            # A record that says itself where it comes from, as an exported one does, knows better.
            source=_said(record, "source") or source,
            place=_said(record, "place") or f"{unit} {line}",
            metadata=metadata,
            origin=Origin(source, line),
        )

    def _name(self, role: str, record: Mapping[str, Any]) -> str | None:
        chosen: str | None = getattr(self, role)
        if chosen is not None:
            return chosen if chosen in record else None
        names = {"id": ID_NAMES, "text": TEXT_NAMES, "title": TITLE_NAMES}[role]
        return next((name for name in names if name in record), None)

    def _typed(self, key: str, value: Any) -> Any:
        kind = self.types.get(key)
        if kind is None or not isinstance(value, str):
            return value
        if value == "":
            return None
        if kind is bool and value.lower() in ("true", "false", "1", "0"):
            return value.lower() in ("true", "1")
        try:
            return kind(value) if kind is not bool else kind(int(value))
        except ValueError:
            raise ValueError(f"expected {kind.__name__} as {key!r}, got {value!r}") from None


def _apart(key: str, taken: Mapping[str, Any]) -> str:
    """A metadata name that no part of a document has, nor another field."""
    if key in DOCUMENT_TEXTS:
        key += "_"
        while key in taken:
            key += "_"
    return key


def _said(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) and value else None


def no_column(role: str, chosen: str | None, names: Mapping[str, Any] | Sequence[str]) -> str:
    """The sentence about a column that is not there."""
    usual = {"id": ID_NAMES, "text": TEXT_NAMES}[role]
    wanted = repr(chosen) if chosen else f"one of {', '.join(usual)}"
    return (
        f"no {role} column: expected {wanted}; the columns are {', '.join(names) or 'none'}. "
        f"Name it with Columns({role}=...), or --columns {role}=NAME"
    )


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name ends in .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def lines_of(path: Path, source: str) -> Iterator[tuple[int, str] | BadRow]:
    """Numbered lines (from 1) that are not blank, as text; a line that is not UTF-8 is a bad row."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield BadRow(source, number, not_utf8(error, "line"))
                continue
            if text.strip():
                yield number, text


def jsonl_records(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Numbered JSON objects, one per line; other lines are bad rows."""
    for line in lines_of(path, source):
        if isinstance(line, BadRow):
            yield line
            continue
        number, text = line
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            hint = "; expected one object per line" if text.strip() in ("[", "{") else ""
            yield BadRow(source, number, f"not JSON: {error}{hint}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            found = f"{type(record).__name__}: {text.strip()[:60]}"
            yield BadRow(source, number, f"expected one JSON object per line, got {found}")


def csv_records(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Numbered rows by the names of the header. A .tsv has no quotes: its fields are what is between tabs."""
    tabs = ".tsv" in path.suffixes
    # The module's limit is 128 KiB, shorter than a long document; it has no setting per reader.
    csv.field_size_limit(LONGEST_FIELD)
    with open_bytes(path) as file:
        text = _csv_lines(file)
        # Strict, or a quote that is never closed would make one document of all rows after it, unnoticed.
        rows = (
            csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tabs
            else csv.reader(text, strict=True)
        )
        header: list[str] | None = None
        while True:
            first_line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(source, first_line, f"not a row of csv: {error}{_csv_hint(error)}")
                if header is None:
                    return
                continue
            if not row or (header is None and not "".join(row).strip()):
                continue
            if header is None:
                header = row
                if len(set(header)) < len(header):
                    twice = next(name for row, name in enumerate(header) if name in header[:row])
                    reason = f"column {twice!r} stands there twice; give each its own name"
                    yield BadRow(source, first_line, reason)
                    return
            elif len(row) != len(header):
                reason = f"expected {len(header)} fields as in the header, got {len(row)}"
                yield BadRow(source, first_line, reason)
            elif (fault := _undecoded("".join(row))) is not None:
                yield BadRow(source, first_line, fault)
            else:
                yield first_line, dict(zip(header, row, strict=True))


def _csv_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of `file`; bytes that are not UTF-8 become surrogates, so that they are found in their row."""
    for number, line in enumerate(file):
        text = line.decode("utf-8", "surrogateescape")
        yield text if number else text.removeprefix("\ufeff")


def _csv_hint(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return ": a quote is opened there and never closed"
    if "new-line" in str(error):
        return ". Lines that end as on an old Mac? Convert them: tr '\\r' '\\n'"
    return ""


def _undecoded(row: str) -> str | None:
    """What is wrong with a row whose bytes were not all UTF-8; None for a good one."""
    try:
        row.encode()
    except UnicodeEncodeError:
        try:
            row.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError as error:
            return not_utf8(error, "row")
    return None


def parquet_records(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Numbered rows (from 1), read some hundreds at a time."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            f"reading parquet needs pyarrow ({error}). Install it: pip install 'runoff[search]'"
        ) from error
    number = 0
    try:
        # So that columns are read in pieces: by default a row group, often the whole file, lies in memory
        # (233 MB in one row group: 45 MB so, 303 MB otherwise).
        with parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=512, use_threads=False):
                for row in range(batch.num_rows):
                    number += 1
                    yield _parquet_record(batch.slice(row, 1), number, source)
    except (OSError, ValueError) as error:
        reason = f"the parquet file cannot be read from here on ({error}). Was it cut short? Copy it again"
        yield BadRow(source, number + 1, reason)


def _parquet_record(row: Any, number: int, source: str) -> tuple[int, dict[str, Any]] | BadRow:
    try:
        record = {name: _plain_time(value) for name, value in row.to_pylist()[0].items()}
    except UnicodeDecodeError as error:
        return BadRow(source, number, not_utf8(error, "value"))
    except (ValueError, OverflowError) as error:  # A time in nanoseconds, a year beyond 9999.
        return BadRow(source, number, f"a value that Python cannot hold: {error}")
    return number, record


def _plain_time(value: Any) -> Any:
    """A time in nanoseconds as Python's own: where pandas is installed, pyarrow makes pandas' of it and loses none."""
    for parts, plain in (("nanosecond", "to_pydatetime"), ("nanoseconds", "to_pytimedelta")):
        if hasattr(value, parts) and hasattr(value, plain):
            if getattr(value, parts):
                raise ValueError(f"{value} has nanoseconds")
            return getattr(value, plain)()
    return value


# A file that is not there, not to be read, or a gzip that is cut short or damaged within.
UNREADABLE = (OSError, EOFError, zlib.error)

Records = Callable[[Path, str], Iterator["tuple[int, dict[str, Any]] | BadRow"]]

RECORD_READERS: dict[str, Records] = {
    ".jsonl": jsonl_records,
    ".ndjson": jsonl_records,
    ".json": jsonl_records,
    ".csv": csv_records,
    ".tsv": csv_records,
    ".parquet": parquet_records,
}


def record_reader(path: Path) -> Records | None:
    """The reader for a file's ending (.gz aside); None where it holds no records."""
    endings = path.suffixes[:-1] if path.suffix == ".gz" else path.suffixes
    return RECORD_READERS.get(endings[-1].lower()) if endings else None


def record_documents(path: Path, columns: Columns) -> Iterator[Document | BadRow]:
    """The documents of one file of records, and its bad rows, in the file's order."""
    reader, source = record_reader(path), str(path)
    if reader is None:
        raise InputError(f"expected a file ending in {', '.join(RECORD_READERS)} (or with .gz), got {path}")
    unit = "row" if reader is parquet_records else "line"
    try:
        for record in reader(path, source):
            yield (
                record if isinstance(record, BadRow) else columns.document(record[1], source, record[0], unit)
            )
    except UNREADABLE as error:
        yield BadRow(source, None, f"cannot be read (any further): {error}. Was it cut short? Copy it again")
