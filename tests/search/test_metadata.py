"""Metadata: keys become columns, values keep their types, and what no column can hold is said or made plain."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from runoff.contracts import Document
from runoff.search.index import Index, IngestOptions
from standin_search import numbered_documents


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index")
    index.add(numbered_documents(100))
    return index


def test_new_metadata_keys_join_later(index: Index) -> None:
    index.add([Document("new", "fresh words", metadata={"score": 1.5, "tags": ["a", "b"]})])
    assert index.count("score > 1") == 1
    assert index.get(["new"])["new"].metadata == {"score": 1.5, "tags": '["a", "b"]'}
    assert index.get(["d0"])["d0"].metadata == {"year": 2000, "lang": "de"}


def test_metadata_of_another_type_is_a_bad_row_that_says_so(index: Index) -> None:
    report = index.add([Document("x", "words", metadata={"year": "last year"}), Document("y", "words")])
    assert (report.added, report.bad) == (1, 1)
    assert "'year' is of type int64" in report.bad_rows[0].reason


def test_whole_numbers_give_way_to_fractions_in_the_batch_that_brings_them(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    prices = [Document(str(row), "words", metadata={"price": price}) for row, price in enumerate([3, 3.5, 4])]
    assert index.add(prices).added == 3
    assert [each.metadata["price"] for each in index.documents()] == [3.0, 3.5, 4.0]


@pytest.mark.parametrize(
    "key", ["text", "tokens", "_score", "_rowid", "_rowoffset", "_row_anything", "a.b", "", 5]
)
def test_a_metadata_key_that_cannot_be_a_column_is_a_bad_row(index: Index, key: str) -> None:
    report = index.add([Document("x", "words", metadata={key: "1"}), Document("y", "words")])
    assert (report.added, report.bad) == (1, 1)
    assert repr(key) in report.bad_rows[0].reason
    assert len(list(Index.open(index.path).documents())) == 101


@pytest.mark.parametrize(
    "key", ["Year", "two words", "_source", "_relevance", "größe", "select", "a-b", "x[0]"]
)
def test_any_other_key_is_a_column_that_comes_back_and_filters(index: Index, key: str) -> None:
    assert index.add([Document("x", "words", metadata={key: 7})]).added == 1
    assert Index.open(index.path).get(["x"])["x"].metadata == {key: 7}
    assert index.count(f"`{key}` = 7") == 1


def valued(*values: Any) -> list[Document]:
    return [Document(str(row), "words", metadata={"v": value}) for row, value in enumerate(values)]


WIDE = 2**60 + 1


@pytest.mark.parametrize("batch_documents", [1, 100], ids=["in another batch", "in the same batch"])
@pytest.mark.parametrize(
    ("values", "bad"),
    [
        ([0.5, WIDE, 2], 1),
        ([WIDE, 0.5, 2], 1),
        ([0.5, -WIDE, 2], 1),
        ([0.5, 2**53, -(2**53)], None),
        ([WIDE, 2], None),
    ],
)
def test_a_whole_number_that_no_double_holds_is_a_bad_row_in_a_column_of_fractions(
    tmp_path: Path, values: list[float], bad: int | None, batch_documents: int
) -> None:
    index = Index.create(tmp_path / "index")
    report = index.add(valued(*values), IngestOptions(batch_documents=batch_documents))
    good = [value for row, value in enumerate(values) if row != bad]
    assert [each.metadata["v"] for each in index.documents()] == good
    assert report.bad == len(values) - len(good)
    if bad is not None:
        assert repr(values[bad]) in report.bad_rows[0].reason


def test_a_column_that_has_turned_to_fractions_takes_no_such_number_either(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    assert index.add(valued(3, 0.5, WIDE)).bad == 1
    assert [each.metadata["v"] for each in index.documents()] == [3.0, 0.5]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.array([1, 2]), "[1, 2]"),
        (np.datetime64("2026-11-24T10:30:00.000000001"), "2026-11-24T10:30:00.000000001"),
        (Decimal("1.50"), "1.50"),
        (time(10, 30), "10:30:00"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (date(2026, 11, 24), "2026-11-24"),
        (datetime(2026, 11, 24, 10, 30), "2026-11-24T10:30:00"),
        ({"a": [Decimal("1.5"), np.int64(2), None]}, '{"a": ["1.5", 2, null]}'),
        ([float("nan"), 1.0], "[null, 1.0]"),
        ("", ""),
    ],
    ids=lambda each: f"{type(each).__name__}",
)
def test_a_value_of_another_type_is_stored_as_plainly_as_it_can_be(
    tmp_path: Path, value: Any, stored: Any
) -> None:
    index = Index.create(tmp_path / "index")
    assert index.add(valued(value)).added == 1
    (found,) = index.documents()
    assert found.metadata == {"v": stored}
    assert type(found.metadata["v"]) is type(stored)
    assert index.add(valued(value)).unchanged == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_what_is_no_finite_number_is_stored_as_nothing_so_that_json_can_say_it(
    tmp_path: Path, value: float
) -> None:
    index = Index.create(tmp_path / "index")
    assert index.add(valued(value, 0.5)).added == 2
    shown = [dict(each.metadata) for each in index.documents()]
    assert shown == [{}, {"v": 0.5}]
    json.dumps(shown, allow_nan=False)
    assert index.count("v IS NULL") == 1


def test_metadata_with_names_of_several_types_is_one_bad_row(index: Index) -> None:
    mixed = Document("d1", "words", metadata={5: 1, "a": 2})  # type: ignore[dict-item]
    report = index.upsert([mixed, Document("x", "words")])
    assert (report.added, report.bad) == (1, 1)
    assert "metadata names must be text, got 5" in report.bad_rows[0].reason
