"""Queries, documents and pairs from a file or stdin (`-`), a line at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runoff.contracts import InputError, Pair

STDIN = "-"


class Line(NamedTuple):
    """A line that is not blank, without its end, and where it stands ("pairs.tsv:3")."""

    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to rank, with the id its record gave it, if any."""

    text: str
    id: str | None = None


def lines_of(name: str) -> Iterator[Line]:
    """The lines of a file, or of stdin; `InputError` with the place of one that is not UTF-8."""
    if name == STDIN:
        yield from _decoded(sys.stdin.buffer, "stdin")
        return
    path = Path(name).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(f"expected a file at {name}, found {found}. Check the path, or give - for stdin")
    from runoff.data.records import open_bytes

    with open_bytes(path) as file:
        yield from _decoded(file, name)


def _decoded(lines: Any, name: str) -> Iterator[Line]:
    from runoff.data.encoding import not_utf8

    for number, line in enumerate(lines, start=1):
        place = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: {not_utf8(error, 'line')}") from error
        if text.strip():
            yield Line(text, place)


def read_candidates(name: str) -> list[Candidate]:
    """Documents to rank: one a line, or one JSON object a line with a text, and an id and a title if it has them.

    What the first line is, all are.
    """
    lines = list(lines_of(name))
    if not lines:
        raise InputError(f"no documents in {_called(name)}: expected one a line, as text or as a JSON object")
    if _json(lines[0].text) is None:
        return [Candidate(line.text.strip()) for line in lines]
    return [_candidate(line) for line in lines]


def _candidate(line: Line) -> Candidate:
    from runoff.data.records import ID_NAMES, TEXT_NAMES

    record = _json(line.text)
    if not isinstance(record, dict):
        raise InputError(f"{line.place}: expected a JSON object on every line, got {line.text[:60]!r}")
    text = next((record[key] for key in TEXT_NAMES if key in record), None)
    id = next((record[key] for key in ID_NAMES if key in record), None)
    if not isinstance(text, str):
        raise InputError(
            f"{line.place}: expected a text as one of {', '.join(TEXT_NAMES)}; the fields are {', '.join(record)}"
        )
    title = record.get("title")
    # The title stands in front, as it does in an index.
    text = f"{title} {text}" if isinstance(title, str) and title else text
    return Candidate(text.strip(), None if id is None else str(id))


def read_pairs(name: str) -> Iterator[Pair]:
    """Pairs: a query, a tab and a document a line; or JSON a line, {"query": ..., "document": ...} or a list of two.

    What the first line is, all are; `InputError` with the place of one that is not.
    """
    is_json: bool | None = None
    for line in lines_of(name):
        if is_json is None:
            is_json = _json(line.text) is not None
        yield _json_pair(line) if is_json else _tab_pair(line)
    if is_json is None:
        raise InputError(
            f"no pairs in {_called(name)}: expected a query, a tab and a document on each line, or JSON"
        )


def _tab_pair(line: Line) -> Pair:
    query, tab, document = line.text.partition("\t")
    if not tab:
        raise InputError(
            f"{line.place}: expected a query, a tab and a document, got no tab in {line.text[:60]!r}. "
            'Or give JSON lines: {"query": "...", "document": "..."}'
        )
    return query, document


def _json_pair(line: Line) -> Pair:
    record = _json(line.text)
    if isinstance(record, dict):
        record = [
            record.get("query"),
            next((record[key] for key in ("document", "text") if key in record), None),
        ]
    if isinstance(record, list) and len(record) == 2 and all(isinstance(text, str) for text in record):
        return record[0], record[1]
    raise InputError(
        f'{line.place}: expected {{"query": text, "document": text}} or [query, document], got {line.text[:80]!r}'
    )


def _json(text: str) -> dict[str, Any] | list[Any] | None:
    """The object or list that a line holds; None where it is ordinary text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _called(name: str) -> str:
    return "stdin" if name == STDIN else name
