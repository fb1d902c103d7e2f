"""An ingest that is killed at any moment: whole batches remain, and the same command completes them."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import runoff
from runoff.contracts import Document, IndexStoreError, Query, TokenizerMismatchError
from runoff.search.index import Index, IngestOptions
from runoff.search.retrieve import BM25
from runoff.search.settings import load_settings
from standin_search import SharedWords, numbered_documents, worded

SCRIPT = Path(__file__).with_name("killed_ingest.py")
BATCH = 50
COUNT = 6000
KILLS = 5


def start(path: Path, count: int, word: str = "first", *kill: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(Path(runoff.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(SCRIPT), str(path), str(count), word, *kill]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def completed(path: Path, count: int, word: str = "first") -> str:
    """What the same command prints when nobody kills it."""
    with start(path, count, word) as done:
        out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    return out


def complete_here(path: Path, count: int, word: str) -> None:
    """The same command, without a process of its own."""
    index = Index.create(path, tokenizer=SharedWords(), exist_ok=True)
    index.upsert(worded(count, word), IngestOptions(batch_documents=BATCH))


def killed_in(stage: str, call: int, seconds: float, path: Path, count: int, word: str) -> None:
    """Kills itself as the stage begins, for certain, or some time into it, if the stage comes again at all."""
    with start(path, count, word, stage, str(call), str(seconds)) as process:
        process.communicate(timeout=60)
    assert process.returncode in ((-signal.SIGKILL,) if seconds == 0.0 else (-signal.SIGKILL, 0))


def check_whole(path: Path, count: int, word: str) -> None:
    """The index holds d0, d1, ... once each, finds them, is up to date and has no leftovers on the disk."""
    index = Index.open(path)
    assert sorted(each.id for each in index.documents()) == sorted(f"d{number}" for number in range(count))
    assert all(each.text.endswith(f" {word}") for each in index.documents())
    assert (index.info().state, index.info().unindexed) == ("complete", 0)
    assert [hit.id for hit in BM25(index).retrieve(Query(f"number{count - 1}"), 5)] == [f"d{count - 1}"]
    rows = index.candidates([f"d{number}" for number in range(0, count, 50)]).values()
    for hit in rows:
        np.testing.assert_array_equal(hit.tokens, SharedWords().tokenize([hit.text or ""])[0])
    # The files of batches that were cut short are cleared away, and so is every version but the last.
    data_files = {each.name for each in (path / "documents.lance" / "data").iterdir()}
    used = {file.path for each in index._table.dataset.get_fragments() for file in each.data_files()}
    assert data_files == used
    assert not list(path.glob(".*.draft"))


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """Kills the process `seconds` after its ingest began."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_an_ingest_killed_at_any_moment_keeps_whole_batches_and_completes_when_run_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index"
    moments = random.Random(20261124)
    reached = []
    for _ in range(KILLS):
        kill_after(start(path, COUNT), moments.uniform(0.0, 0.35))
        index = Index.open(path)
        reached.append(len(index))
        assert len(index) % BATCH == 0
        # What is there is a beginning of the input, each document once, and it is found.
        ids = [each.id for each in index.documents()]
        assert ids == [f"d{number}" for number in range(len(index))]
        if len(index):
            last = f"number{len(index) - 1}"
            assert [hit.id for hit in BM25(index).retrieve(Query(last), 5)] == [ids[-1]]
    assert reached == sorted(reached)
    assert any(0 < count < COUNT for count in reached), f"every kill missed the ingest: {reached}"
    assert f"{COUNT - reached[-1]} documents added" in completed(path, COUNT)
    check_whole(path, COUNT, "first")


# Stage, which call of it, and how many documents are there after: fewer than asked where batches are missing.
FIRST_RUN = [
    ("save settings", 1, None),
    ("write", 1, 0),
    ("build bm25", 1, 0),
    ("save settings", 2, 0),
    ("save settings", 3, 0),
    ("append", 1, 50),
    ("append", 13, 650),
    ("join small files", 1, 1000),
    ("build bm25", 2, 1000),
    ("index ids", 1, 1000),
    ("clear away", 1, 1000),
    ("save settings", 4, 1000),
]


@pytest.mark.parametrize(("stage", "call", "most"), FIRST_RUN, ids=lambda each: str(each).replace(" ", "-"))
def test_killed_in_any_stage_it_opens_with_whole_batches_and_completes(
    tmp_path: Path, stage: str, call: int, most: int | None
) -> None:
    path = tmp_path / "index"
    moments = random.Random(f"{stage}{call}")
    for seconds in (0.0, moments.uniform(0.0005, 0.01)):
        killed_in(stage, call, seconds, path, 1000, "first")
        if not (path / "runoff-index.json").exists():
            assert most is None
            with pytest.raises(IndexStoreError, match="found a folder without it"):
                Index.open(path)
            continue
        count = len(Index.open(path))
        assert count % BATCH == 0
        assert [each.id for each in Index.open(path).documents()] == [f"d{number}" for number in range(count)]
        if seconds == 0.0 and most is not None:
            assert count == (most - BATCH if stage == "append" else most)
    complete_here(path, 1000, "first")
    check_whole(path, 1000, "first")


# The last number: how many documents are replaced. Few are merged into the BM25 index, many build it anew.
UPDATE = [("put", 1, 1000), ("put", 7, 1000), ("join small files", 1, 1000), ("build bm25", 1, 1000)]
UPDATE += [
    ("update bm25", 1, 300),
    ("index ids", 1, 300),
    ("clear away", 1, 1000),
    ("replace tokens", 1, 1000),
]


@pytest.mark.parametrize(("stage", "call", "count"), UPDATE, ids=lambda each: str(each).replace(" ", "-"))
def test_an_update_killed_in_any_stage_leaves_each_batch_old_or_new_and_completes(
    tmp_path: Path, whole_index: Path, stage: str, call: int, count: int
) -> None:
    path = tmp_path / "index"
    shutil.copytree(whole_index, path)
    moments = random.Random(f"{stage}{call}")
    for seconds in (0.0, moments.uniform(0.0005, 0.01)):
        killed_in(stage, call, seconds, path, count, "second")
        words = {each.id: each.text.split()[-1] for each in Index.open(path).documents()}
        assert sorted(words) == sorted(f"d{number}" for number in range(1000))
        batches = [{words[f"d{first + row}"] for row in range(BATCH)} for first in range(0, 1000, BATCH)]
        assert all(len(each) == 1 for each in batches), "a batch is half old and half new"
        new = [each == {"second"} for each in batches]
        assert new == sorted(new, reverse=True)
        if seconds == 0.0:
            assert sum(new) == (call - 1 if stage == "put" else count / BATCH)
        if stage == "replace tokens":
            assert Index.open(path).tokenizer is None
            with pytest.raises(TokenizerMismatchError, match="--retokenize"):
                complete_here(path, count, "second")
            Index.open(path).retokenize(SharedWords())
    complete_here(path, 1000, "second")
    check_whole(path, 1000, "second")


@pytest.fixture(scope="module")
def whole_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "index"
    completed(path, 1000)
    return path


def test_a_killed_creation_is_taken_up_by_open(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", tokenizer=SharedWords())
    index.settings.with_state("creating").saved_in(index.path)
    for leftover in ("nothing of the table", "an empty table"):
        if leftover == "nothing of the table":
            shutil.rmtree(index.path / "documents.lance")
        reopened = Index.open(index.path, tokenizer=SharedWords())
        assert len(reopened) == 0
        assert reopened.settings.state == "complete"
        reopened.settings.with_state("creating").saved_in(index.path)
    reopened = Index.open(index.path, tokenizer=SharedWords())
    assert reopened.add(numbered_documents(3)).added == 3


def test_an_interrupted_ingest_keeps_whole_batches_and_says_it_is_incomplete(tmp_path: Path) -> None:
    def interrupted():  # type: ignore[no-untyped-def]
        yield from numbered_documents(130)
        raise KeyboardInterrupt

    index = Index.create(tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        index.add(interrupted(), IngestOptions(batch_documents=BATCH))
    reopened = Index.open(index.path)
    assert len(reopened) == 100
    assert reopened.info().state == "incomplete"
    assert reopened.add(numbered_documents(130)).added == 30
    assert reopened.info().state == "complete"


@pytest.mark.parametrize("stored", [0, 100])
def test_interrupted_before_its_first_batch_an_index_is_complete_only_if_it_was(
    tmp_path: Path, stored: int
) -> None:
    def interrupted():  # type: ignore[no-untyped-def]
        yield from numbered_documents(10, first=stored)
        raise KeyboardInterrupt

    index = Index.create(tmp_path / "index")
    if stored:
        index.add(numbered_documents(stored))
    with pytest.raises(KeyboardInterrupt):
        index.add(interrupted())
    reopened = Index.open(index.path)
    assert (len(reopened), reopened.info().state) == (stored, "complete" if stored else "incomplete")
    assert reopened.add(numbered_documents(stored + 10)).added == 10
    assert reopened.info().state == "complete"


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")

    def while_the_other_writes():  # type: ignore[no-untyped-def]
        yield Document("a", "words")
        with pytest.raises(IndexStoreError, match="another process is writing"):
            Index.open(index.path).add(numbered_documents(5))
        assert len(Index.open(index.path)) == 0  # reading is possible meanwhile

    assert index.add(while_the_other_writes()).added == 1
    assert load_settings(index.path).state == "complete"
