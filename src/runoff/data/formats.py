"""Whatever documents and queries come in: one door for records, BEIR folders and folders of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runoff.contracts import BadRow, Document, InputError, Query
from runoff.data.files import FILE_READERS, file_documents
from runoff.data.passages import PassageRule, passage_spans
from runoff.data.records import (
    RECORD_READERS,
    UNREADABLE,
    Columns,
    csv_records,
    jsonl_records,
    lines_of,
    record_documents,
    record_reader,
)
from runoff.data.trec import Qrels, Run, read_qrels, read_trec_run, write_trec_run

__all__ = [
    "Columns",
    "PassageRule",
    "Qrels",
    "Run",
    "read_documents",
    "read_qrels",
    "read_queries",
    "read_trec_run",
    "write_trec_run",
]

QUERY_ID_NAMES = ("id", "_id", "qid", "query_id", "query-id")
QUERY_TEXT_NAMES = ("text", "query", "question")
KINDS = ", ".join([*RECORD_READERS, *FILE_READERS])


def read_documents(
    path: str | Path, columns: Columns | Mapping[str, Any] | None = None, passages: PassageRule | None = None
) -> Iterator[Document | BadRow]:
    """Documents of a file or folder, streamed, with a `BadRow` in the place of each that cannot be used.

    Takes jsonl, csv, tsv and parquet, a BEIR folder, and a folder (or one file) of text, Markdown, HTML
    and PDF. `columns` says which field is what, where the usual names do not fit. `passages` None leaves
    records whole and cuts files by the default `PassageRule`; given, it cuts both.
    Raises `InputError` at once for a path that is not there, and at the end where no document came.
    """
    source = Path(path)
    named = columns if isinstance(columns, Columns) else Columns(**(columns or {}))
    if not source.exists():
        raise InputError(f"expected a file or folder of documents at {path}, found nothing. Check the path.")
    if source.is_file() and record_reader(source) is None and source.suffix.lower() not in FILE_READERS:
        raise InputError(f"expected a file ending in {KINDS} (or .jsonl.gz and the like), got {path}")
    return _checked(_documents(source, named, passages), source)


def _documents(source: Path, columns: Columns, passages: PassageRule | None) -> Iterator[Document | BadRow]:
    if source.is_file():
        yield from _of_file(source, source.name, columns, passages)
        return
    corpora = [source / name for name in ("corpus.jsonl", "corpus.jsonl.gz")]
    if corpus := next((each for each in corpora if each.is_file()), None):
        yield from _of_file(corpus, corpus.name, columns, passages)
        return
    for file in _visible_files(source):
        if isinstance(file, BadRow):
            yield file
        else:
            yield from _of_file(file, file.relative_to(source).as_posix(), columns, passages)


def _visible_files(folder: Path) -> Iterator[Path | BadRow]:
    """Files under `folder`, sorted by name within each folder; hidden files and folders are passed over."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield BadRow(str(folder), None, f"the folder cannot be read: {error.strerror or error}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A link to a folder above would lead round in circles.
            if not (entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve())):
                yield from _visible_files(entry)
        elif entry.is_file():
            yield entry
        else:
            yield BadRow(str(entry), None, "not a file that can be read (a broken link, a pipe or a device)")


def _of_file(
    file: Path, name: str, columns: Columns, passages: PassageRule | None
) -> Iterator[Document | BadRow]:
    if record_reader(file) is not None:
        for record in record_documents(file, columns):
            if passages is None or isinstance(record, BadRow):
                yield record
            else:
                yield from _cut(record, passages)
    elif file.suffix.lower() in FILE_READERS:
        yield from file_documents(file, name, passages or PassageRule())
    else:
        yield BadRow(str(file), None, f"not a kind of file Runoff reads ({KINDS})")


def _cut(document: Document, rule: PassageRule) -> Iterator[Document]:
    """The document itself where one passage holds it, else its passages with ids ID#1, ID#2 and so on."""
    spans = list(passage_spans(document.text, rule))
    if len(spans) < 2:
        yield document
        return
    for number, span in enumerate(spans, start=1):
        text = document.text[span.start : span.end]
        if document.title and not text.startswith(document.title):
            text = f"{document.title} {text}"
        place = f"{document.place}, chars {span.start}-{span.end}"
        yield replace(document, id=f"{document.id}#{number}", text=text, place=place)


def _checked(documents: Iterator[Document | BadRow], source: Path) -> Iterator[Document | BadRow]:
    """The same stream; `InputError` at its end if it held nothing at all, which is never what was meant."""
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise InputError(
            f"no documents found in {source}: expected records (one JSON object per line, rows of csv or "
            f"parquet), or files ending in {', '.join(FILE_READERS)}. Is it empty, or the wrong path?"
        )


def read_queries(path: str | Path) -> list[Query]:
    """The queries of a BEIR folder, a jsonl, csv or tsv file, or a text file with one query per line.

    A tsv without a header has id and text. Lines of a text file have their numbers as ids. Raises
    `InputError` with file and line for the first that cannot be used: a query is not to be left out.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "queries.jsonl"
    if not file.is_file():
        raise InputError(f"expected a file of queries, or a folder with queries.jsonl, at {path}; found none")
    try:
        queries = list(_queries(file))
    except UNREADABLE as error:
        raise InputError(f"{file} cannot be read (any further): {error}. Check the file.") from error
    if not queries:
        raise InputError(f"no queries found in {file}: expected at least one line. Is it the right file?")
    ids = [query.id for query in queries]
    if len(set(ids)) < len(ids):
        twice = next(id for row, id in enumerate(ids) if id in ids[:row])
        raise InputError(f"{file}: query id {twice!r} stands there twice; give each query its own id")
    return queries


def _queries(file: Path) -> Iterator[Query]:
    endings = file.suffixes[:-1] if file.suffix == ".gz" else file.suffixes
    ending = endings[-1].lower() if endings else ""
    if ending in (".jsonl", ".ndjson", ".json", ".csv") or (ending == ".tsv" and _has_header(file)):
        reader = csv_records if ending in (".csv", ".tsv") else jsonl_records
        for record in reader(file, str(file)):
            if isinstance(record, BadRow):
                raise InputError(str(record))
            yield _query(record[1], file, record[0])
        return
    for line in lines_of(file, str(file)):
        if isinstance(line, BadRow):
            raise InputError(str(line))
        number, text = line
        id, tab, rest = text.rstrip("\r\n").partition("\t")
        if ending == ".tsv" and not tab:
            raise InputError(f"{file}:{number}: expected an id, a tab and a query, got {text.strip()[:60]!r}")
        yield Query(rest.strip(), id) if ending == ".tsv" else Query(text.strip(), str(number))


def _has_header(file: Path) -> bool:
    first = next(lines_of(file, str(file)), None)
    if not isinstance(first, tuple):
        return False
    names = {name.strip().lower() for name in first[1].split("\t")}
    return bool(names & set(QUERY_ID_NAMES)) and bool(names & set(QUERY_TEXT_NAMES))


def _query(record: Mapping[str, object], file: Path, line: int) -> Query:
    id = next((record[name] for name in QUERY_ID_NAMES if name in record), str(line))
    text = next((record[name] for name in QUERY_TEXT_NAMES if name in record), None)
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"{file}:{line}: expected a query's text as one of {', '.join(QUERY_TEXT_NAMES)}; "
            f"the fields are {', '.join(record)}"
        )
    return Query(text, str(id))
