"""Whatever documents and queries come in: one door for records, BEIR folders and folders of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from runoff.contracts import BadRow, Document, InputError, Query
from runoff.data.files import FILE_READERS, file_documents
from runoff.data.folders import names_apart, visible_files
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
    "read_sources",
    "read_trec_run",
    "write_trec_run",
]

QUERY_ID_NAMES = ("id", "_id", "qid", "query_id", "query-id")
QUERY_TEXT_NAMES = ("text", "query", "question")
KINDS = ", ".join([*RECORD_READERS, *FILE_READERS])
EXPECTED = (
    "expected records (one JSON object per line, rows of csv or parquet), or files ending in "
    + ", ".join(FILE_READERS)
)


def read_documents(
    path: str | Path, columns: Columns | Mapping[str, Any] | None = None, passages: PassageRule | None = None
) -> Iterator[Document | BadRow]:
    """Documents of a file or folder, streamed, with a `BadRow` in the place of each that cannot be used.

    Takes jsonl, csv, tsv and parquet, a BEIR folder, and a folder (or one file) of text, Markdown, HTML
    and PDF. `columns` says which field is what, where the usual names do not fit. `passages` None leaves
    records whole and cuts files by the default `PassageRule`; given, it cuts both.
    Raises `InputError` at once for a path that is not there, and at the end where no document came.
    """
    return read_sources([path], columns, passages)


def read_sources(
    paths: Sequence[str | Path],
    columns: Columns | Mapping[str, Any] | None = None,
    passages: PassageRule | None = None,
) -> Iterator[Document | BadRow]:
    """The documents of several files and folders, one after another, each as from `read_documents`.

    So that files of one name do not meet, the ids and sources of passages begin with the name of their path:
    as much of its end as tells it from the others. An empty path among others is a bad row.
    """
    sources = [Path(path) for path in paths]
    named = columns if isinstance(columns, Columns) else Columns(**(columns or {}))
    for source in sources:
        _check_kind(source)
    alone = ["" if source.is_dir() else source.name for source in sources]
    names = names_apart(sources) if len(sources) > 1 else alone
    streams = [_documents(source, name, named, passages) for source, name in zip(sources, names, strict=True)]
    return _joined(sources, streams)


def _check_kind(source: Path) -> None:
    if not source.exists():
        raise InputError(
            f"expected a file or folder of documents at {source}, found nothing. Check the path."
        )
    if source.is_file() and record_reader(source) is None and source.suffix.lower() not in FILE_READERS:
        raise InputError(f"expected a file ending in {KINDS} (or .jsonl.gz and the like), got {source}")


def _joined(
    sources: Sequence[Path], streams: Sequence[Iterator[Document | BadRow]]
) -> Iterator[Document | BadRow]:
    """All the streams; `InputError` at the end if they held nothing at all, which is never what was meant."""
    empty = []
    for source, documents in zip(sources, streams, strict=True):
        first = next(documents, None)
        if first is not None:
            yield first
            yield from documents
            continue
        empty.append(str(source))
        if len(sources) > 1:
            yield BadRow(str(source), None, f"no documents found in it: {EXPECTED}")
    if len(empty) == len(sources):
        raise InputError(
            f"no documents found in {', '.join(empty)}: {EXPECTED}. Is it empty, or the wrong path?"
        )


def _documents(
    source: Path, name: str, columns: Columns, passages: PassageRule | None
) -> Iterator[Document | BadRow]:
    """The documents of one source; `name` is what the ids of its passages begin with."""
    if source.is_file():
        yield from _of_file(source, name, columns, passages)
        return
    corpora = [source / each for each in ("corpus.jsonl", "corpus.jsonl.gz")]
    if corpus := next((each for each in corpora if each.is_file()), None):
        yield from _of_file(corpus, corpus.name, columns, passages)
        return
    for file in visible_files(source):
        if isinstance(file, BadRow):
            yield file
        else:
            inside = file.relative_to(source)
            yield from _of_file(file, (PurePath(name) / inside).as_posix(), columns, passages)


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
        if ending == ".tsv" and not (id.strip() and tab and rest.strip()):
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
