"""Ingesting: bad rows are told and left out, or stop; duplicates; batches; progress; full and read-only disks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import BadRow, Document, IndexStoreError, InputError, Query
from runoff.data.formats import read_documents
from runoff.search.index import Index, IngestOptions
from runoff.search.ingest import IdKeys
from runoff.search.retrieve import BM25
from runoff.search.rows import id_key
from standin_search import SharedWords, WordHashes, numbered_documents


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index")


def write_mixed_jsonl(path: Path) -> None:
    lines = [
        b'{"_id": "a", "text": "good"}',
        b'{"_id": "b", "text": "not \xff utf-8"}',
        b'{"_id": "c", "text": "cut sho',
        b'{"_id": "a", "text": "again"}',
        b'{"_id": "e", "text": "  "}',
        b'{"text": "no id"}',
        b'["a list"]',
        b"",
        b'{"_id": "i", "title": "Good", "text": "too"}',
    ]
    path.write_bytes(b"\n".join(lines))


def test_bad_rows_are_reported_by_file_and_line_and_the_rest_is_stored(index: Index, tmp_path: Path) -> None:
    source = tmp_path / "corpus.jsonl"
    write_mixed_jsonl(source)
    report = index.add(read_documents(source), IngestOptions(bad_rows_file=tmp_path / "bad.jsonl"))
    assert (report.added, report.bad) == (2, 6)
    assert [(row.source, row.line) for row in report.bad_rows] == [(str(source), line) for line in (2, 3, 4, 5, 6, 7)]
    signs = ["UTF-8", "not JSON", "duplicate id 'a'", "no text", "no id column", "JSON object"]
    for row, sign in zip(report.bad_rows, signs, strict=True):
        assert sign in row.reason
    written = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [each["line"] for each in written] == [2, 3, 4, 5, 6, 7]
    assert index.get(["a", "i"])["i"].text == "Good too"


def test_asked_to_stop_it_stops_at_the_first_bad_row(index: Index, tmp_path: Path) -> None:
    source = tmp_path / "corpus.jsonl"
    write_mixed_jsonl(source)
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: expected UTF-8"):
        index.add(read_documents(source), IngestOptions(on_bad_row="stop"))
    assert len(index) == 0


def test_of_duplicate_ids_the_first_is_kept_and_later_ones_are_reported(index: Index) -> None:
    twins = [Document("x", "first"), Document("y", "other"), Document("x", "first"), Document("x", "third")]
    report = index.add(twins, IngestOptions(batch_documents=1))
    assert (report.added, report.bad) == (2, 2)
    assert index.get(["x"])["x"].text == "first"
    report = index.upsert(twins)
    assert (report.unchanged, report.bad) == (2, 2)


def test_no_documents_is_an_error_that_loses_nothing(index: Index, tmp_path: Path) -> None:
    index.add(numbered_documents(10))
    with pytest.raises(InputError, match="no documents found"):
        index.add([])
    with pytest.raises(InputError, match=r"all 2 records are bad; the first: f:1: torn"):
        index.add([BadRow("f", 1, "torn"), BadRow("f", 2, "torn")])
    with pytest.raises(InputError, match="expected a file or folder of documents"):
        index.add(read_documents(tmp_path / "nowhere.jsonl"))
    assert Index.open(index.path).info().state == "complete"
    assert len(index) == 10


def test_what_is_no_document_is_refused(index: Index) -> None:
    with pytest.raises(InputError, match=r"expected Document .* got str: 'a text'"):
        index.add(["a text"])  # type: ignore[list-item]


def test_the_report_keeps_the_first_thousand_bad_rows_and_counts_all(index: Index) -> None:
    report = index.add([BadRow("f", line, "torn") for line in range(1, 1501)] + [Document("a", "words")])
    assert (report.bad, len(report.bad_rows), report.bad_rows[-1].line) == (1500, 1000, 1000)


def test_a_batch_closes_by_count_or_by_bytes_and_is_one_commit(index: Index) -> None:
    sizes = []
    append = index._table.append
    index._table.append = lambda rows: (sizes.append(rows.num_rows), append(rows))  # type: ignore[assignment,func-returns-value]
    index.add(numbered_documents(25), IngestOptions(batch_documents=10))
    assert sizes == [10, 10, 5]
    sizes.clear()
    long = [Document(f"long{row}", "word " * 100) for row in range(5)]
    index.add(long, IngestOptions(batch_bytes=1000))
    assert sizes == [2, 2, 1]


def test_input_is_streamed_a_batch_at_a_time(index: Index) -> None:
    taken = 0

    def counted() -> Iterator[Document]:
        nonlocal taken
        for document in numbered_documents(100):
            taken += 1
            yield document

    seen = []
    append = index._table.append
    index._table.append = lambda rows: (seen.append(taken), append(rows))  # type: ignore[assignment,func-returns-value]
    index.add(counted(), IngestOptions(batch_documents=20))
    assert seen == [20, 40, 60, 80, 100]


def test_progress_is_shown_on_stderr_when_asked(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.add(numbered_documents(30), IngestOptions(show_progress=True))
    shown = capsys.readouterr()
    assert "30 documents" in shown.err
    assert shown.out == ""
    index.add(numbered_documents(40))
    assert capsys.readouterr().err == ""


def test_an_embedder_that_gives_no_finite_vectors_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    class Broken(WordHashes):
        def encode_document(self, inputs: object) -> np.ndarray:  # type: ignore[override]
            return np.full((len(inputs), self.dimension), np.nan, dtype=np.float32)  # type: ignore[arg-type]

    index = Index.create(tmp_path / "vectors", embedder=Broken())
    with pytest.raises(InputError, match="finite"):
        index.add(numbered_documents(3))
    assert len(index) == 0


def test_half_a_character_is_a_bad_row(index: Index) -> None:
    report = index.add([Document("a", "broken \ud83d emoji"), Document("b", "whole 😀")])
    assert (report.added, report.bad) == (1, 1)
    assert "half of a character" in report.bad_rows[0].reason


def test_id_keys_find_every_id_again_across_their_sorted_and_recent_parts() -> None:
    keys = IdKeys()
    count = 70_000  # more than the 65,536 after which recent keys are sorted in
    assert all(keys.add(id_key(f"d{number}")) for number in range(count))
    assert not any(keys.add(id_key(f"d{number}")) for number in range(0, count, 100))


# --- disks --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 6 MiB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a small disk: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def incompressible(count: int) -> Iterator[Document]:
    letters = np.random.default_rng(3)
    for number in range(count):
        yield Document(f"r{number}", f"number{number} {letters.bytes(2000).hex()}")


def test_a_full_disk_keeps_the_batches_before_it_and_running_again_completes(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    index = Index.create(small_disk / "index", tokenizer=SharedWords())
    ballast.write_bytes(b"x" * (9 << 19))
    with pytest.raises(IndexStoreError, match=r"The disk is full: free space.*same command again.*still opens"):
        index.add(incompressible(3000), IngestOptions(batch_documents=100))
    reopened = Index.open(index.path, tokenizer=SharedWords())
    kept = len(reopened)
    assert 0 < kept < 1000
    assert kept % 100 == 0
    assert [hit.id for hit in BM25(reopened).retrieve(Query("number7"), 3)] == ["r7"]
    ballast.unlink()
    report = reopened.add(incompressible(1000), IngestOptions(batch_documents=100))
    assert (report.added, report.unchanged) == (1000 - kept, kept)
    assert len(Index.open(index.path)) == 1000


def test_a_disk_that_fills_while_the_bm25_index_is_built_loses_no_document(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(language: str | None) -> None:
        raise OSError("LanceError(IO): No space left on device (os error 28), /rust/writer.rs:1:1")

    monkeypatch.setattr(index._table, "build_bm25", full)
    with pytest.raises(IndexStoreError, match="could not optimise the index .*The disk is full"):
        index.add(numbered_documents(100))
    reopened = Index.open(index.path)
    assert (len(reopened), reopened.info().state) == (100, "incomplete")
    assert [hit.id for hit in BM25(reopened).retrieve(Query("number7"), 3)] == ["d7"]
    assert reopened.add(numbered_documents(100)).unchanged == 100
    assert (reopened.info().state, reopened.info().unindexed) == ("complete", 0)


def test_a_read_only_disk_can_be_searched_and_refuses_writing_with_what_to_do(small_disk: Path) -> None:
    index = Index.create(small_disk / "index")
    index.add(numbered_documents(50))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reopened = Index.open(index.path)
    assert [hit.id for hit in BM25(reopened).retrieve(Query("number7"), 3)] == ["d7"]
    for write in (
        lambda: reopened.add(numbered_documents(60)),
        lambda: reopened.delete(ids=["d1"]),
        reopened.optimize,
        lambda: Index.create(small_disk / "another"),
    ):
        with pytest.raises(IndexStoreError, match="The disk is read-only: make it writable, or put the index"):
            write()
    assert len(Index.open(index.path)) == 50


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_says_so(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(IndexStoreError, match="You may not write there"):
        Index.create(tmp_path / "locked" / "index")
