"""An ingest that is killed at any moment: whole batches remain, and the same command completes them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runoff
from runoff.contracts import Document, IndexStoreError, Query
from runoff.search.index import Index, IngestOptions
from runoff.search.retrieve import BM25
from runoff.search.settings import load_settings
from standin_search import SharedWords, numbered_documents

SCRIPT = Path(__file__).with_name("killed_ingest.py")
BATCH = 50
COUNT = 6000
KILLS = 5


def start(path: Path, count: int) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(Path(runoff.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), str(count)], stdout=subprocess.PIPE, text=True, env=environment
    )


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    """Kills the process `seconds` after its ingest began."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_an_ingest_killed_at_any_moment_keeps_whole_batches_and_completes_when_run_again(tmp_path: Path) -> None:
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
    done = start(path, COUNT)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert f"{COUNT - reached[-1]} documents added" in out
    index = Index.open(path)
    assert [each.id for each in index.documents()] == [f"d{number}" for number in range(COUNT)]
    assert (index.info().state, index.info().unindexed) == ("complete", 0)
    assert [hit.id for hit in BM25(index).retrieve(Query("number4321"), 5)] == ["d4321"]
    # The files of the batches that were cut short are cleared away: nothing but one version is left.
    data_files = list((path / "documents.lance" / "data").iterdir())
    assert len(data_files) == len(index._table.dataset.get_fragments())


def test_a_killed_creation_is_taken_up_by_open(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", tokenizer=SharedWords())
    index.settings.with_state("creating").saved_in(index.path)
    for leftover in ("nothing of the table", "an empty table"):
        if leftover == "nothing of the table":
            import shutil

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


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")

    def while_the_other_writes():  # type: ignore[no-untyped-def]
        yield Document("a", "words")
        with pytest.raises(IndexStoreError, match="another process is writing"):
            Index.open(index.path).add(numbered_documents(5))
        assert len(Index.open(index.path)) == 0  # reading is possible meanwhile

    assert index.add(while_the_other_writes()).added == 1
    assert load_settings(index.path).state == "complete"
