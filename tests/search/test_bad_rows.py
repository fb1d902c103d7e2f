"""Documents that cannot be stored: each is one bad row with its file and line, and costs no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import BadRow, Document
from runoff.data.formats import PassageRule, read_documents
from runoff.search.index import Index, IngestOptions


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index")


def test_half_a_character_is_a_bad_row(index: Index) -> None:
    report = index.add([Document("a", "broken \ud83d emoji"), Document("b", "whole 😀")])
    assert (report.added, report.bad) == (1, 1)
    assert "half of a character" in report.bad_rows[0].reason


@pytest.mark.parametrize("field", ["id", "title", "source", "place", "metadata", "name"])
def test_half_a_character_anywhere_spoils_one_document_and_no_batch(index: Index, field: str) -> None:
    metadata = {"author": "\ud83d"} if field == "metadata" else {"\ud83d": "x"} if field == "name" else {}
    fields = {"id": "a", "text": "words", "metadata": metadata}
    if field in ("id", "title", "source", "place"):
        fields[field] = "\ud83d"
    report = index.add([Document("b", "good"), Document(**fields), Document("c", "good")])  # type: ignore[arg-type]
    assert (report.added, report.bad) == (2, 1)
    assert "half of a character" in report.bad_rows[0].reason


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": 5}, "expected text as the id of document 5, got 5"),
        ({"id": None}, "expected text as the id"),
        ({"text": None}, "expected text as the text of document 'a', got None"),
        ({"text": b"bytes"}, "got b'bytes'"),
        ({"title": 1.5}, "expected text as the title of document 'a', got 1.5"),
        ({"source": Path("a.txt")}, "expected text as the source"),
        ({"place": 3}, "expected text as the place"),
        ({"metadata": None}, "expected a mapping as the metadata of document 'a', got None"),
        ({"metadata": ["year"]}, "expected a mapping as the metadata"),
    ],
)
def test_a_document_with_parts_of_other_types_is_a_bad_row(
    index: Index, fields: dict[str, Any], said: str
) -> None:
    broken = Document(**({"id": "a", "text": "words"} | fields))
    report = index.add([Document("b", "good"), broken, Document("c", "good")])
    assert (report.added, report.bad) == (2, 1)
    assert said in report.bad_rows[0].reason


def test_an_id_counts_as_taken_only_once_a_record_with_it_is_stored(index: Index) -> None:
    index.add([Document("x", "words", metadata={"year": 1999}), Document("kept", "words")])
    report = index.add(
        [
            Document("y", "first", metadata={"year": "last year"}),
            Document("y", "second", metadata={"year": 2000}),
            Document("y", "third", metadata={"year": 2001}),
            Document("kept", "other words"),
            Document("kept", "words"),
            Document("kept", "words"),
        ]
    )
    assert (report.added, report.unchanged, report.bad) == (1, 1, 4)
    assert index.get(["y"])["y"].text == "second"
    reasons = [row.reason for row in report.bad_rows]
    for reason, sign in zip(
        reasons, ["'year' is of type int64", "duplicate id 'y'", "other content", "duplicate id"], strict=True
    ):
        assert sign in reason


# --- where it stands --------------------------------------------------------------------------------------------


def bad_rows(index: Index, path: Path, rule: PassageRule | None = None) -> list[tuple[str, int | None]]:
    rows = index.add(read_documents(path, passages=rule), IngestOptions()).bad_rows
    return [(row.source, row.line) for row in rows]


def test_a_duplicate_in_parquet_is_named_by_its_row(index: Index, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": ["a", "b", "a"], "text": ["one", "two", "three"]}), path)
    assert bad_rows(index, path) == [(str(path), 3)]


@pytest.mark.parametrize("rule", [None, PassageRule(2, 0)], ids=["whole", "in passages"])
def test_a_duplicate_or_a_wrong_type_is_named_by_file_and_line_whatever_the_record_says_of_itself(
    index: Index, tmp_path: Path, rule: PassageRule | None
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "a", "text": "One two. Three four.", "year": 1, "source": "web", "place": "page 1"}\n'
        '{"id": "b", "text": "One two.", "year": "x", "source": "web", "place": "page 2"}\n'
        '{"id": "a", "text": "One two. Three four.", "year": 1, "place": "page 3"}\n'
    )
    per_record = 1 if rule is None else 2
    assert bad_rows(index, path, rule) == [(str(path), 2)] + [(str(path), 3)] * per_record


def test_a_document_that_was_not_read_from_a_file_is_named_by_what_it_says(index: Index) -> None:
    rows = [Document("a", " ", source="web", place="page 3"), Document("b", " ")]
    report = index.add([*rows, Document("c", "words")])
    assert report.bad_rows == [
        BadRow("web", None, "page 3: document 'a' has no text"),
        BadRow("input", None, "document 'b' has no text"),
    ]
