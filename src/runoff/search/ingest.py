"""Documents -> the table, in whole batches: what is skipped, what is refused, what is written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import numpy.typing as npt

from runoff.contracts import DOCUMENT_TEXTS, BadRow, Document, InputError, Scorer, TextEmbedder
from runoff.search.rows import Hashes, MetadataTypes, hashes_of, id_key, rows_of, stored_value
from runoff.search.table import Table, id_filters, store_errors

OnBadRow = Literal["report", "stop"]
KEPT_BAD_ROWS = 1000


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How an ingest goes about it.

    on_bad_row      "report" leaves a bad row out and counts it; "stop" raises `InputError` at the first.
    bad_rows_file   Where to write every bad row as jsonl; the report itself keeps the first 1000.
    show_progress   None: a bar on stderr when that is a terminal.
    batch_documents, batch_bytes
                    A batch is one commit; it closes at whichever comes first. Memory grows with it.
    """

    on_bad_row: OnBadRow = "report"
    bad_rows_file: Path | None = None
    show_progress: bool | None = None
    batch_documents: int = 4096
    batch_bytes: int = 16 << 20


@dataclass(slots=True)
class IngestReport:
    """What became of every record that came: added, updated, unchanged (skipped) or bad.

    `removed`: stored passages of files that have fewer now, which `upsert` took out.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def written(self) -> int:
        """Rows of the table that are not as they were."""
        return self.added + self.updated + self.removed

    def __str__(self) -> str:
        return (
            f"{self.added} documents added, {self.updated} updated, {self.unchanged} unchanged, "
            f"{self.removed} removed, {self.bad} bad rows, in {self.seconds:.1f} s"
        )


class IdKeys:
    """A growing set of 16-byte id keys in sorted arrays: 16 bytes an id, where a Python set takes 100."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype="S16")
        self._recent: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        # numpy's "S16" ignores trailing zero bytes, so both sides are stripped alike.
        key = key.rstrip(b"\0")
        return key in self._recent or self._is_sorted_in(key)

    def add(self, key: bytes) -> None:
        """Takes in a key that is new."""
        self._recent.add(key.rstrip(b"\0"))
        if len(self._recent) >= 1 << 16:
            recent = np.array(list(self._recent), dtype="S16")
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent = set()

    def _is_sorted_in(self, key: bytes) -> bool:
        place = int(np.searchsorted(self._sorted, np.bytes_(key)))
        return place < len(self._sorted) and bytes(self._sorted[place]) == key


class StoredDocuments:
    """Id keys and hashes of what the table held when the ingest began: 32 bytes a document."""

    def __init__(self, table: Table) -> None:
        keys: list[npt.NDArray[np.bytes_]] = []
        hashes: list[npt.NDArray[np.uint64]] = []
        for batch in table.batches(["id", "content_hash", "place_hash"]):
            keys.append(np.array([id_key(each) for each in batch.column("id").to_pylist()], dtype="S16"))
            pair = [batch.column(name).to_numpy() for name in ("content_hash", "place_hash")]
            hashes.append(np.stack(pair, axis=1))
        all_keys = np.concatenate(keys) if keys else np.zeros(0, dtype="S16")
        order = np.argsort(all_keys)
        self._keys = all_keys[order]
        self._hashes = np.concatenate(hashes)[order] if hashes else np.zeros((0, 2), dtype=np.uint64)

    def hashes(self, key: bytes) -> Hashes | None:
        """The hashes stored under an id key; None: no such document."""
        key = key.rstrip(b"\0")
        place = int(np.searchsorted(self._keys, np.bytes_(key)))
        if place == len(self._keys) or bytes(self._keys[place]) != key:
            return None
        return Hashes(int(self._hashes[place, 0]), int(self._hashes[place, 1]))


class BadRowLog:
    """Counts bad rows, keeps the first of them in the report, writes all to a file if asked, or stops."""

    def __init__(self, report: IngestReport, options: IngestOptions) -> None:
        self.report = report
        self.options = options
        self._file: TextIO | None = None

    def __enter__(self) -> BadRowLog:
        if path := self.options.bad_rows_file:
            with store_errors("write the bad rows", path):
                # A line at a time, so that a run that is killed has told what it found.
                self._file = path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def add(self, row: BadRow) -> None:
        if self.options.on_bad_row == "stop":
            raise InputError(
                f"{row}. Stopped at the first bad row, as asked; the batches before it are stored. Mend the "
                'row and run the same command again, or leave such rows out with on_bad_row="report".'
            )
        self.report.bad += 1
        if len(self.report.bad_rows) < KEPT_BAD_ROWS:
            self.report.bad_rows.append(row)
        if self._file and self.options.bad_rows_file:
            record = {"source": row.source, "line": row.line, "reason": row.reason}
            with store_errors("write the bad rows", self.options.bad_rows_file):
                self._file.write(json.dumps(record, ensure_ascii=False) + "\n")


@dataclass(slots=True)
class Ingest:
    """One run of documents into a table; `replaces` lets a document take the place of a stored one."""

    table: Table
    tokenizer: Scorer | None
    embedder: TextEmbedder | None
    replaces: bool
    options: IngestOptions
    report: IngestReport = field(default_factory=IngestReport)
    types: MetadataTypes = field(init=False)
    # source -> number of passages, of every file that was read whole and cut.
    passages: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.types = MetadataTypes(self.table.schema)

    def run(self, records: Iterable[Document | BadRow]) -> IngestReport:
        """The report, once every whole batch is on the disk."""
        began = time.perf_counter()
        with BadRowLog(self.report, self.options) as bad_rows:
            for batch in self._batches(self._accepted(with_progress(records, self.options), bad_rows)):
                self._write(batch)
        if self.replaces and self.passages:
            self._remove_stale()
        if not (self.report.added or self.report.updated or self.report.unchanged):
            raise InputError(self._nothing_found())
        self.report.seconds = time.perf_counter() - began
        return self.report

    def _nothing_found(self) -> str:
        if self.report.bad:
            return (
                f"no usable documents: all {self.report.bad} records are bad; the first: "
                f"{self.report.bad_rows[0]}"
            )
        return "no documents found: expected at least one Document, the input was empty. Check the path."

    def _accepted(
        self, records: Iterable[Document | BadRow], bad_rows: BadRowLog
    ) -> Iterator[tuple[Document, bool]]:
        """The documents to write, each with whether its id is stored already."""
        stored, seen = StoredDocuments(self.table), IdKeys()
        for record in records:
            if isinstance(record, BadRow):
                bad_rows.add(record)
                continue
            _check_document(record)
            self._note_passages(record)
            reason = _fault(record)
            key = id_key(record.id) if reason is None else b""
            if reason is None and key in seen:
                reason = f"duplicate id {record.id!r}: an earlier record of this input has it, and was kept"
            before = stored.hashes(key) if reason is None else None
            if before is not None and self._is_kept(hashes_of(record), before):
                seen.add(key)
                self.report.unchanged += 1
                continue
            if before is not None and not self.replaces:
                reason = (
                    f"id {record.id!r} is in the index with other content, which was kept; "
                    "use upsert to replace it"
                )
            reason = reason or self.types.fault(_flat(record))
            if reason is not None:
                bad_rows.add(bad_row_of(record, reason))
            else:
                seen.add(key)
                yield record, before is not None

    def _note_passages(self, record: Document) -> None:
        """Keeps how many passages the record's file has; of two files of one name, those of the longer."""
        if record.source and record.origin and record.origin.passages:
            before = self.passages.get(record.source, 0)
            self.passages[record.source] = max(before, record.origin.passages)

    def _is_kept(self, now: Hashes, before: Hashes) -> bool:
        return now == before or (now.content == before.content and not self.replaces)

    def _batches(self, accepted: Iterable[tuple[Document, bool]]) -> Iterator[list[tuple[Document, bool]]]:
        batch: list[tuple[Document, bool]] = []
        size = 0
        for document, is_stored in accepted:
            batch.append((document, is_stored))
            size += _text_bytes(document)
            if len(batch) >= self.options.batch_documents or size >= self.options.batch_bytes:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _write(self, batch: Sequence[tuple[Document, bool]]) -> None:
        documents = [document for document, _ in batch]
        if len(arriving := self.types.settle()):
            self.table.add_columns(arriving)
        texts = [document.text for document in documents]
        tokens = self.tokenizer.tokenize(texts) if self.tokenizer else None
        vectors = self.embedder.encode_document(texts) if self.embedder else None
        rows = rows_of(documents, self.table.schema, tokens, vectors)
        if any(is_stored for _, is_stored in batch):
            added, updated = self.table.put(rows)
        else:
            self.table.append(rows)
            added, updated = len(documents), 0
        self.report.added += added
        self.report.updated += updated

    def _remove_stale(self) -> None:
        """Deletes the passages that files, read whole in this run, had before and have no more.

        Last of all: a run that is killed before has replaced or kept every passage of these files, and one
        that is killed within leaves some of the stale ones, which the next run finds in the same way.
        """
        stale = [
            id
            for batch in self.table.batches(["id", "source"], "source IS NOT NULL")
            for id, source in zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if _is_beyond(id, source, self.passages)
        ]
        for where in id_filters(stale):
            self.report.removed += self.table.delete(where)


def _check_document(record: object) -> None:
    if not isinstance(record, Document):
        raise InputError(
            f"expected Document (or BadRow) objects, got {type(record).__name__}: {str(record)[:80]!r}. "
            "Make them with runoff.data.formats.read_documents, or Document(id=..., text=...)."
        )


def _fault(record: Document) -> str | None:
    """Why this document cannot be stored whatever the table holds, or None."""
    for name in DOCUMENT_TEXTS:
        value = getattr(record, name)
        if not isinstance(value, str) and (value is not None or name in ("id", "text")):
            return f"expected text as the {name} of document {record.id!r:.60}, got {value!r:.60}"
    if not isinstance(record.metadata, Mapping):
        return f"expected a mapping as the metadata of document {record.id!r}, got {record.metadata!r:.60}"
    if not record.id:
        return "an id must be a text that is not empty"
    if not record.text.strip():
        return f"document {record.id!r} has no text"
    for name, value in (_texts(record) | _flat(record)).items():
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError as error:
            return f"the {name} of document {record.id!r} has half of a character ({error.reason})"
    return None


def _texts(document: Document) -> dict[str, object]:
    return {name: getattr(document, name) for name in DOCUMENT_TEXTS}


def _flat(document: Document) -> dict[str, object]:
    return {key: stored_value(value) for key, value in document.metadata.items()}


def _text_bytes(document: Document) -> int:
    """Bytes of all that is text in a document, its metadata included: nearly all that its row takes."""
    values = [*_texts(document).values(), *_flat(document).values()]
    return sum(len(value.encode()) for value in values if isinstance(value, str))


def _is_beyond(id: str, source: str, passages: Mapping[str, int]) -> bool:
    """Whether `id` is SOURCE#NUMBER with a higher number than its file has passages now."""
    number = id.removeprefix(f"{source}#")
    return source in passages and number != id and number.isdecimal() and int(number) > passages[source]


def bad_row_of(document: Document, reason: str) -> BadRow:
    """The bad row of a document, with the file and line where its reader found it, else with what it says."""
    if document.origin is not None:
        return BadRow(document.origin.file, document.origin.line, reason)
    placed = f"{document.place}: {reason}" if document.place else reason
    return BadRow(str(document.source or "input"), None, placed)


def with_progress(
    records: Iterable[Document | BadRow], options: IngestOptions
) -> Iterator[Document | BadRow]:
    """The same records, with a bar on stderr as `options` ask."""
    shown = sys.stderr.isatty() if options.show_progress is None else options.show_progress
    if not shown:
        yield from records
        return
    from tqdm import tqdm

    yield from tqdm(records, desc="indexing", unit=" documents", file=sys.stderr)
