"""Upserting files: passages that a file has no more are removed, at the end, and nothing else is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runoff.contracts import BadRow, Document, IndexStoreError, InputError
from runoff.data.formats import PassageRule, read_documents, read_sources
from runoff.search.index import Index, IngestOptions, IngestReport
from runoff.search.table import Table

RULE = PassageRule(3, 0)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Two files of ten passages each."""
    folder = tmp_path / "notes"
    folder.mkdir()
    write(folder / "a.txt", range(10))
    write(folder / "b.txt", range(10))
    return folder


def write(file: Path, numbers: Sequence[int]) -> None:
    file.write_text(" ".join(f"This is number{number}." for number in numbers))


def upserted(index: Index, folder: Path) -> IngestReport:
    return index.upsert(read_documents(folder, passages=RULE), IngestOptions(batch_documents=4))


def ids(index: Index) -> list[str]:
    return sorted((each.id for each in index.documents()), key=lambda id: (id[0], len(id), id))


def test_a_file_that_was_shortened_keeps_only_the_passages_that_it_has(index: Index, notes: Path) -> None:
    upserted(index, notes)
    write(notes / "a.txt", [0])
    report = upserted(index, notes)
    assert (report.added, report.updated, report.unchanged, report.removed) == (0, 0, 11, 9)
    assert "9 removed" in str(report)
    assert ids(index) == ["a.txt#1", *(f"b.txt#{number}" for number in range(1, 11))]
    assert upserted(index, notes).removed == 0


def test_gaps_that_a_user_made_hide_no_stale_passage(index: Index, notes: Path) -> None:
    upserted(index, notes)
    index.delete(ids=["a.txt#3", "a.txt#4"])
    write(notes / "a.txt", [0, 1])
    assert upserted(index, notes).removed == 6
    assert [id for id in ids(index) if id.startswith("a")] == ["a.txt#1", "a.txt#2"]


def test_a_file_that_is_gone_or_spoiled_or_added_only_keeps_what_is_stored(index: Index, notes: Path) -> None:
    upserted(index, notes)
    (notes / "a.txt").unlink()
    (notes / "b.txt").write_bytes(b"caf\xe9")
    write(notes / "c.txt", [0])
    assert (upserted(index, notes).removed, len(index)) == (0, 21)
    write(notes / "b.txt", [0])
    assert index.add(read_documents(notes, passages=RULE)).removed == 0
    assert len(index) == 21


def test_records_are_not_taken_for_passages_of_a_file(index: Index, notes: Path, tmp_path: Path) -> None:
    upserted(index, notes)
    # Records may be a part of what there is, and may name a file that they are about.
    records = [{"id": f"r#{number}", "text": "One two three. Four five six."} for number in range(1, 4)]
    records += [{"id": id, "text": "About it.", "source": "a.txt"} for id in ("about", "a.txt#x", "a.txt#")]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    upserted(index, tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text(json.dumps(records[0] | {"text": "One."}) + "\n")
    assert upserted(index, tmp_path / "r.jsonl").removed == 0
    assert len(index) == 20 + 6 + 3 + 1
    write(notes / "a.txt", [0])
    assert upserted(index, notes).removed == 9
    assert {"about", "a.txt#x", "a.txt#", "r#1", "r#1#1"} <= set(ids(index))


def test_of_two_files_that_pass_for_one_the_longer_counts(index: Index, notes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other / "a.txt", [0])
    both = [*read_documents(notes, passages=RULE), *read_documents(other, passages=RULE)]
    report = index.upsert(both)
    assert (report.added, report.bad, report.removed) == (20, 1, 0)
    named = Index.create(tmp_path / "named").upsert(read_sources([notes, other], passages=RULE))
    assert (named.added, named.bad, named.removed) == (21, 0, 0)


# --- cut short -------------------------------------------------------------------------------------------------


def interrupted(folder: Path) -> Iterator[Document | BadRow]:
    yield from itertools.islice(read_documents(folder, passages=RULE), 10)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "moment", ["before all of it is read", "before it is removed", "while it is removed"]
)
def test_an_upsert_cut_short_loses_nothing_and_is_completed_by_the_same_command(
    index: Index, notes: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    upserted(index, notes)
    write(notes / "a.txt", [20])
    write(notes / "b.txt", [30, *range(1, 10), 40])
    delete, calls = Table.delete, 0

    def cut_short(table: Table, where: str) -> int:
        nonlocal calls
        calls += 1
        if calls == 2 or moment == "before it is removed":
            raise KeyboardInterrupt
        return delete(table, where)

    with monkeypatch.context() as patched:
        patched.setattr(Table, "delete", cut_short)
        patched.setattr("runoff.search.table.IDS_PER_FILTER", 4)
        is_read_whole = moment != "before all of it is read"
        records = read_documents(notes, passages=RULE) if is_read_whole else interrupted(notes)
        with pytest.raises(KeyboardInterrupt):
            index.upsert(records, IngestOptions(batch_documents=1))
    index = Index.open(index.path)
    kept = {each.id: each.text for each in index.documents()}
    assert {f"b.txt#{number}" for number in range(1, 11)} <= set(kept)
    stale = [id for id in kept if id.startswith("a") and id != "a.txt#1"]
    assert len(stale) == (5 if moment == "while it is removed" else 9)
    assert kept["a.txt#1"] == "This is number20."
    assert index.info().state == "incomplete"
    report = upserted(index, notes)
    assert report.removed == len(stale)
    assert ids(index) == ["a.txt#1", *(f"b.txt#{number}" for number in range(1, 12))]
    assert index.info().state == "complete"


def test_a_disk_that_fails_while_passages_are_removed_leaves_the_index_incomplete(
    index: Index, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upserted(index, notes)
    write(notes / "a.txt", [0])
    delete, calls = Table.delete, 0

    def failing(table: Table, where: str) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise IndexStoreError("could not delete documents")
        return delete(table, where)

    with monkeypatch.context() as patched:
        patched.setattr(Table, "delete", failing)
        patched.setattr("runoff.search.table.IDS_PER_FILTER", 4)
        with pytest.raises(IndexStoreError, match="could not delete"):
            upserted(index, notes)
    assert (len(index), Index.open(index.path).info().state) == (16, "incomplete")
    assert upserted(index, notes).removed == 5


def test_a_run_that_stops_at_a_bad_row_removes_nothing(index: Index, notes: Path) -> None:
    upserted(index, notes)
    write(notes / "a.txt", [0])
    (notes / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="Stopped at the first bad row"):
        index.upsert(read_documents(notes, passages=RULE), IngestOptions(on_bad_row="stop"))
    assert len(index) == 20
