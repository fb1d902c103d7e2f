"""Disks that are full or read-only: every command says so with what to do, exits with 1, and loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runoff
from runoff.data.trec import read_trec_run
from runoff.search.index import Index
from runoff.search.pipeline import Search

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]
Stored = Callable[[Path], dict[str, str]]

JOURNAL = ".out.trec.part"


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


@pytest.fixture
def index_on_disk(shell: Shell, small_disk: Path, notes: Path, tiny: Tiny) -> Path:
    """The notes, indexed on the small disk."""
    path = small_disk / "notes.index"
    assert shell("index", path, "--from", notes, "--model", tiny("bert")).code == 0
    return path


def test_a_full_disk_keeps_what_is_there_and_the_same_command_completes_it(
    shell: Shell, index_on_disk: Path, tmp_path: Path, stored: Stored
) -> None:
    before = stored(index_on_disk)
    (tmp_path / "more.jsonl").write_text(json.dumps({"id": "fresh", "text": "word " * 3000}))
    ballast = fill(index_on_disk.parent)
    command = ("index", index_on_disk, "--from", "more.jsonl")
    shell(*command).check_refused(1, "The disk is full: free space, then run the same command again")
    assert stored(index_on_disk) == before
    assert len(shell("search", "boiler storm", "--index", index_on_disk, "--json").json["hits"]) == 4
    ballast.unlink()
    assert shell(*command, "--json").json["added"] == 1
    assert set(stored(index_on_disk)) == {*before, "fresh"}


def test_a_full_disk_makes_no_index_and_the_same_command_makes_it_later(
    shell: Shell, small_disk: Path, notes: Path, tiny: Tiny
) -> None:
    ballast = fill(small_disk)
    command = ("index", small_disk / "new.index", "--from", notes, "--model", tiny("bert"))
    shell(*command).check_refused(1, "could not", "The disk is full: free space")
    ballast.unlink()
    assert shell(*command, "--json").json["added"] == 5


def test_scores_stop_at_a_full_disk_and_go_on_when_there_is_room(
    shell: Shell, small_disk: Path, notes_index: Path, tiny: Tiny
) -> None:
    assert shell("collect", "cand", "--index", notes_index, "--draw", "sentences").code == 0
    ballast = fill(small_disk)
    command = ("teach", "cand", small_disk / "scores", "--model", tiny("bert"))
    shell(*command).check_refused(
        1, "scores", "The disk is full: free space, then run the same command again"
    )
    ballast.unlink()
    facts = shell(*command, "--json").json
    assert facts["scored"] + facts["known"] == facts["pairs"] > 0


def test_a_read_only_disk_is_searched_and_nothing_else(
    shell: Shell, index_on_disk: Path, tmp_path: Path, tiny: Tiny, notes: Path, stored: Stored
) -> None:
    before = stored(index_on_disk)
    (tmp_path / "queries.txt").write_text("boiler\n")
    subprocess.run(["mount", "-o", "remount,ro", str(index_on_disk.parent)], check=True)
    search = ("search", "--index", index_on_disk)
    assert len(shell(*search, "boiler storm", "--json").json["hits"]) == 4
    assert shell(*search, "--queries", "queries.txt", "--run", "out.trec").code == 0
    model = ("--model", tiny("bert"))
    for words in (
        (index_on_disk, "--from", notes),
        (index_on_disk, "--from", notes, "--upsert"),
        (index_on_disk, "--delete", "roof"),
        (index_on_disk, "--delete-where", "year > 0"),
        (index_on_disk, "--retokenize", *model),
        (index_on_disk, "--optimize"),
        (index_on_disk.with_name("new.index"), "--from", notes, *model),
    ):
        shell("index", *words).check_refused(
            1, "The disk is read-only: make it writable, or choose another place"
        )
    demo = ("demo", "boiler", "--documents", notes, *model, "--index", index_on_disk.with_name("new.index"))
    shell(*demo).check_refused(1, "The disk is read-only: make it writable")
    target = index_on_disk.with_name("out.trec")
    answer = shell(*search, "--queries", "queries.txt", "--run", target)
    answer.check_refused(1, JOURNAL, "Read-only file system", "make it writable, or choose another place")
    answer = shell("index", "new.index", "--from", notes, *model, "--bad-rows", target)
    answer.check_refused(1, "could not write the bad rows", "The disk is read-only")
    assert stored(index_on_disk) == before
    assert Index.open(index_on_disk).info().state == "complete"


# --- a run ---------------------------------------------------------------------------------------------------

QUERIES = {"q1": "boiler storm", "q2": "roof", "q3": "storm rain", "q4": "a boiler may leak"}


def limited(limit: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process whose files may have `limit` bytes: the full disk that any user can make."""
    code = (
        "import resource, sys; from runoff.cli import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())"
    )
    place = {**os.environ, "PYTHONPATH": str(Path(runoff.__file__).parents[1])}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=place, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_that_outgrows_its_disk_keeps_its_answers_and_the_same_command_completes_it(
    shell: Shell, notes_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in QUERIES.items()))
    command = ("search", "--queries", "queries.tsv", "--index", "notes.index", "--run", "out.trec")
    journal = tmp_path / JOURNAL

    asked, search, last = [], Search.search, "q4"

    def counted(self: Search, query: Any, *arguments: Any) -> Any:
        if query.id == last:
            raise KeyboardInterrupt
        asked.append(query.id)
        return search(self, query, *arguments)

    monkeypatch.setattr(Search, "search", counted)
    assert shell(*command).code == 130
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 4  # what it answers, and three answers
    journal.unlink()

    answer = limited(len(whole) - 10, *command)
    assert answer.returncode == 1
    assert "A file reached the size limit (ulimit -f): raise it, then run the same command" in answer.stderr
    assert "Traceback" not in answer.stderr
    kept = journal.read_bytes()
    assert whole.startswith(kept)
    assert kept.count(b"\n") == 3
    assert not (tmp_path / "out.trec").exists()

    # With no room at all, what is there stays there.
    assert limited(100, *command).returncode == 1
    two_answers = b"".join(whole.splitlines(keepends=True)[:3])
    assert journal.read_bytes() == two_answers

    asked.clear()
    last = ""
    answer = shell(*command)
    assert (answer.code, asked) == (0, ["q3", "q4"])
    assert "2 of 4 queries were answered before and are kept" in answer.err
    assert list(read_trec_run(tmp_path / "out.trec")) == list(QUERIES)
