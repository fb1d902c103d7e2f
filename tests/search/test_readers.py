"""Readers while another process writes: they see one version, and the newest where theirs has gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runoff.contracts import Query
from runoff.search.index import Index, IngestOptions
from runoff.search.retrieve import BM25
from standin_search import numbered_documents


def found(index: Index, query: str) -> list[str]:
    return [hit.id for hit in BM25(index).retrieve(Query(query), 10)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index")
    index.add(numbered_documents(100), IngestOptions(batch_documents=10))
    return index


def compacted_reader(index: Index) -> Index:
    """A reader whose version's files another writer joined and cleared away since; 20 more rows are d1's."""
    reader = Index.open(index.path)
    one = index._table.rows(index._table.schema.names, "id = 'd1'")
    for _ in range(20):
        index._table.append(one)
    index.optimize()
    return reader


def test_a_reader_sees_what_another_process_wrote_after_refresh(index: Index) -> None:
    reader = Index.open(index.path)
    index.add(numbered_documents(10, first=100))
    index.delete(ids=["d0"])
    index.optimize()
    reader.refresh()
    assert len(reader) == 109
    assert found(reader, "number105") == ["d105"]


def test_a_reader_whose_files_were_compacted_away_reads_the_newest_version(index: Index) -> None:
    reader = compacted_reader(index)
    assert found(reader, "number2") == ["d2"]
    assert list(reader.get(["d7"])) == ["d7"]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda reader: reader.count("year = 2001"), 30),
        (lambda reader: len(list(reader.documents())), 120),
        (lambda reader: len(list(reader.documents("year = 2001"))), 30),
        (lambda reader: reader.info().unindexed, 0),
    ],
    ids=["count", "documents", "documents that match", "info"],
)
def test_whatever_is_asked_first_of_such_a_reader_is_answered(
    index: Index, ask: Callable[[Index], int], answer: int
) -> None:
    assert ask(compacted_reader(index)) == answer
