"""Ingesting: bad rows are told and left out, or stop; duplicates; batches; progress; full and read-only disks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runoff
from runoff.contracts import BadRow, Document, IndexStoreError, InputError, Query
from runoff.data.formats import read_documents
from runoff.search.index import Index, IngestOptions
from runoff.search.ingest import IdKeys
from runoff.search.retrieve import BM25
from runoff.search.rows import id_key
from standin_disk import mounted_disk
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
    assert [(row.source, row.line) for row in report.bad_rows] == [
        (str(source), line) for line in (2, 3, 4, 5, 6, 7)
    ]
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
    long = "word " * 100
    for number, document in enumerate(
        [
            Document("", long),
            Document("", "ö" * 250),
            Document("", "word", long),
            Document("", "word", metadata={"notes": long}),
            Document("", "word", metadata={"list": ["ö" * 250]}),
        ]
    ):
        sizes.clear()
        copies = [replace(document, id=f"{number}-{row}") for row in range(5)]
        index.add(copies, IngestOptions(batch_bytes=1000))
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


def test_an_error_of_the_callers_own_passes_as_it_is_and_changes_nothing(index: Index) -> None:
    index.add(numbered_documents(10))

    def broken() -> Iterator[Document]:
        yield Document("x", "words")
        raise ValueError("the database went away")

    with pytest.raises(ValueError, match=r"^the database went away$"):
        index.add(broken())
    assert (len(index), Index.open(index.path).info().state) == (10, "complete")


def test_a_file_for_bad_rows_that_cannot_be_written_is_told_before_anything_is_stored(
    index: Index, tmp_path: Path
) -> None:
    with pytest.raises(IndexStoreError, match=r"could not write the bad rows at .*nowhere"):
        index.add(numbered_documents(5), IngestOptions(bad_rows_file=tmp_path / "nowhere" / "bad.jsonl"))
    assert len(index) == 0


def test_id_keys_find_every_id_again_across_their_sorted_and_recent_parts() -> None:
    keys = IdKeys()
    count = 70_000  # more than the 65,536 after which recent keys are sorted in
    for number in range(count):
        assert id_key(f"d{number}") not in keys
        keys.add(id_key(f"d{number}"))
    assert all(id_key(f"d{number}") in keys for number in range(0, count, 100))


# --- disks --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 6 MiB; skips where this user may not mount one."""
    with mounted_disk(tmp_path / "disk", mebibytes=6) as folder:
        yield folder


def incompressible(count: int) -> Iterator[Document]:
    letters = np.random.default_rng(3)
    for number in range(count):
        yield Document(f"r{number}", f"number{number} {letters.bytes(2000).hex()}")


def test_a_full_disk_keeps_the_batches_before_it_and_running_again_completes(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    index = Index.create(small_disk / "index", tokenizer=SharedWords())
    ballast.write_bytes(b"x" * (9 << 19))
    with pytest.raises(
        IndexStoreError, match=r"The disk is full: free space.*same command again.*still opens"
    ):
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
    with pytest.raises(IndexStoreError, match=r"could not optimise the index .*The disk is full"):
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
        with pytest.raises(
            IndexStoreError, match="The disk is read-only: make it writable, or choose another place"
        ):
            write()
    assert len(Index.open(index.path)) == 50


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
FORBIDDEN = PermissionError(errno.EACCES, "Permission denied")
TOLD = {
    FULL: "The disk is full: free space",
    READ_ONLY: "The disk is read-only",
    FORBIDDEN: "You may not write",
}


@pytest.mark.parametrize("fault", TOLD, ids=["full", "read-only", "forbidden"])
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "fcntl.flock", "pathlib.Path.mkdir"])
def test_what_the_system_refuses_while_an_index_is_created_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError, call: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(call, refused)
        with pytest.raises(IndexStoreError, match=TOLD[fault]):
            Index.create(tmp_path / "index")
    # What is left of the attempt is in nobody's way.
    assert Index.create(tmp_path / "index").add(numbered_documents(3)).added == 3


def refused_at(number: int, fault: OSError, path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What an ingest of 40 documents says when its writes from this number on are refused; None: it ended first."""
    import lance

    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > number:
                raise fault
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        writes = [(os, "replace"), (lance, "write_dataset"), (lance.LanceDataset, "cleanup_old_versions")]
        for owner, name in writes:
            patched.setattr(owner, name, counted(getattr(owner, name)))
        try:
            Index.open(path).add(numbered_documents(40), IngestOptions(batch_documents=10))
        except IndexStoreError as error:
            return str(error)
    return None


@pytest.mark.parametrize("fault", TOLD, ids=["full", "read-only", "forbidden"])
def test_what_the_system_refuses_at_any_write_of_an_ingest_is_told_and_loses_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    index.add(numbered_documents(10))
    counts = [10]
    while (told := refused_at(len(counts) - 1, fault, index.path, monkeypatch)) is not None:
        assert TOLD[fault] in told
        assert "still opens and holds every batch" in told
        counts.append(len(Index.open(index.path)))
        assert counts[-1] % 10 == 0
        assert len(counts) < 20
    assert counts == sorted(counts)
    assert len(counts) > 4, "some of the writes were not refused"
    assert [each.id for each in Index.open(index.path).documents()] == [f"d{number}" for number in range(40)]
    assert Index.open(index.path).info().state == "complete"


def test_a_file_size_limit_keeps_the_batches_before_it_and_running_again_completes(tmp_path: Path) -> None:
    """The one full disk that any user can make: the system refuses a file to grow (ulimit -f)."""
    index = Index.create(tmp_path / "index", tokenizer=SharedWords())
    index.add(incompressible(100), IngestOptions(batch_documents=100))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from test_ingest import incompressible; from standin_search import SharedWords;"
        "from runoff.search.index import Index, IngestOptions;"
        "Index.open(sys.argv[1], SharedWords()).add(incompressible(1000), IngestOptions(batch_documents=900))"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), str(Path(runoff.__file__).parents[1])])
    limited = subprocess.run(
        [sys.executable, "-c", code, str(index.path)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "IndexStoreError: could not add a batch" in limited.stderr
    assert "A file reached the size limit (ulimit -f): raise it" in limited.stderr
    reopened = Index.open(index.path, tokenizer=SharedWords())
    assert (len(reopened), reopened.info().state) == (100, "complete")
    report = reopened.add(incompressible(1000))
    assert (report.added, report.unchanged) == (900, 100)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_says_so(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(IndexStoreError, match="You may not write there"):
        Index.create(tmp_path / "locked" / "index")
