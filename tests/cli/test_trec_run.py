"""A file of queries -> a TREC run: whole or not there, and gone on with where it was stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runoff.data.trec import read_trec_run
from runoff.search.pipeline import Search, SearchResult

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

QUERIES = {
    "q1": "boiler storm",
    "q3": "roof",
    "q2": "unheardof",
    "q4": "storm rain",
    "q5": "a boiler may leak",
}
JOURNAL = ".out.trec.part"


@pytest.fixture
def command(notes_index: Path, tmp_path: Path) -> tuple[str, ...]:
    """Answers QUERIES from the notes into out.trec."""
    (tmp_path / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in QUERIES.items()))
    return ("search", "--queries", "queries.tsv", "--index", "notes.index", "--run", "out.trec")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return tmp_path / "out.trec"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the queries that were searched, as they come."""
    ids: list[str] = []
    search = Search.search

    def counted(self: Search, query: Any, *arguments: Any, **options: Any) -> SearchResult:
        ids.append(query.id)
        return search(self, query, *arguments, **options)

    monkeypatch.setattr(Search, "search", counted)
    return ids


@contextmanager
def stopped_at(
    number: int, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException] = KeyboardInterrupt
) -> Iterator[None]:
    """Ctrl-C, or another fault, as the search with this number (from 1) begins."""
    calls, search = 0, Search.search

    def doomed(self: Search, *arguments: Any, **options: Any) -> SearchResult:
        nonlocal calls
        calls += 1
        if calls == number:
            raise fault
        return search(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Search, "search", doomed)
        yield


def test_a_run_has_the_hits_and_scores_of_single_searches(
    shell: Shell, command: tuple[str, ...], run_file: Path, notes_index: Path
) -> None:
    answer = shell(*command)
    assert (answer.code, answer.err) == (0, "")
    expected = {}
    for id, text in QUERIES.items():
        hits = shell("search", text, "--index", notes_index, "--json").json["hits"]
        if hits:
            expected[id] = [(hit["id"], hit["score"]) for hit in hits]
    run = read_trec_run(run_file)
    assert run == expected
    assert list(run) == ["q1", "q3", "q4", "q5"]  # in the file's order; q2 finds nothing
    lines = [line.split() for line in run_file.read_text().splitlines()]
    assert {(line[1], line[5]) for line in lines} == {("Q0", "runoff-bert")}
    for pairs in run.values():
        assert all(before[1] >= after[1] for before, after in pairwise(pairs))
    ranks = [int(line[3]) for line in lines if line[0] == "q1"]
    assert ranks == [1, 2, 3, 4]
    assert re.fullmatch(rf".*\bout\.trec: 5 queries, {len(lines)} lines, in \d+\.\d s\n", answer.out)
    assert [each.name for each in run_file.parent.glob(".*")] == []


def test_json_says_what_was_written(shell: Shell, command: tuple[str, ...], run_file: Path) -> None:
    facts = shell(*command, "--json").json
    assert (Path(facts["run"]).resolve(), facts["queries"]) == (run_file.resolve(), 5)
    assert facts["lines"] == len(run_file.read_text().splitlines())


def test_top_k_and_a_filter_hold_for_every_query(
    shell: Shell, command: tuple[str, ...], run_file: Path
) -> None:
    assert shell(*command, "--top-k", 1, "--where", "year < 2024").code == 0
    run = read_trec_run(run_file)
    assert {id: len(pairs) for id, pairs in run.items()} == {"q1": 1, "q4": 1, "q5": 1}
    assert {pairs[0][0] for pairs in run.values()} <= {"water", "window", "garden"}


def test_a_first_stage_run_is_named_by_no_model(
    shell: Shell, command: tuple[str, ...], run_file: Path
) -> None:
    assert shell(*command, "--no-rerank").code == 0
    assert {line.split()[5] for line in run_file.read_text().splitlines()} == {"runoff"}


def test_scores_fall_with_the_rank_beyond_the_reranked_depth_too(
    shell: Shell, command: tuple[str, ...], run_file: Path, notes_index: Path
) -> None:
    assert shell(*command, "--depth", 2).code == 0
    found = shell("search", QUERIES["q1"], "--index", notes_index, "--depth", 2, "--json").json["hits"]
    first, second, third, fourth = read_trec_run(run_file)["q1"]
    assert [pair[0] for pair in (first, second, third, fourth)] == [hit["id"] for hit in found]
    assert [first[1], second[1]] == [hit["score"] for hit in found[:2]]
    # One below the last reranked score, and from there down as BM25's scores fall.
    assert third[1] == pytest.approx(second[1] - 1)
    assert fourth[1] - third[1] == pytest.approx(found[3]["score"] - found[2]["score"])


# --- stopped and taken up again --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_interrupted_run_leaves_no_run_and_the_same_command_asks_only_the_rest(
    shell: Shell,
    command: tuple[str, ...],
    run_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
    number: int,
) -> None:
    assert shell(*command).code == 0
    undisturbed = run_file.read_bytes()
    run_file.unlink()
    with stopped_at(number, monkeypatch):
        answer = shell(*command)
    assert (answer.code, answer.out, answer.err) == (130, "", "runoff: interrupted\n")
    assert not run_file.exists()
    asked.clear()
    answer = shell(*command)
    assert answer.code == 0
    assert asked == list(QUERIES)[number - 1 :]
    kept = f"runoff: {number - 1} of 5 queries were answered before and are kept\n" if number > 1 else ""
    assert answer.err == kept
    assert run_file.read_bytes() == undisturbed
    assert not run_file.with_name(JOURNAL).exists()


def test_interrupted_again_and_again_it_gets_to_the_end(
    shell: Shell, command: tuple[str, ...], run_file: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    for _ in QUERIES:
        with stopped_at(2, monkeypatch):
            code = shell(*command).code
        if code == 0:
            break
    assert asked == list(QUERIES)
    assert len(read_trec_run(run_file)) == 4


def test_an_answer_that_was_cut_short_is_asked_for_again(
    shell: Shell, command: tuple[str, ...], run_file: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    with stopped_at(4, monkeypatch):
        shell(*command)
    journal = run_file.with_name(JOURNAL)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])
    asked.clear()
    with stopped_at(2, monkeypatch):
        shell(*command)
    assert asked == ["q2"]
    assert journal.read_bytes() == whole
    assert shell(*command).code == 0
    assert asked == ["q2", "q4", "q5"]


def test_a_run_of_before_stays_until_the_new_one_is_whole(
    shell: Shell, command: tuple[str, ...], run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell(*command).code == 0
    before = run_file.read_bytes()
    with stopped_at(3, monkeypatch):
        assert shell(*command, "--top-k", 1).code == 130
    assert run_file.read_bytes() == before


@pytest.mark.parametrize(
    "change", ["another option", "another query", "another document", "another model", "no reranker"]
)
def test_answers_to_another_question_are_not_kept(
    shell: Shell,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
    tiny: Tiny,
    change: str,
) -> None:
    with stopped_at(3, monkeypatch):
        shell(*command)
    options: tuple[object, ...] = ()
    if change == "another option":
        options = ("--top-k", 2)
    elif change == "another query":
        queries = tmp_path / "queries.tsv"
        queries.write_text(queries.read_text().replace("roof", "window"))
    elif change == "another document":
        assert shell("index", "notes.index", "--delete", "garden").code == 0
    elif change == "another model":
        options = ("--model", tiny("ettin"), "--tokens", "text")
    else:
        options = ("--no-rerank",)
    asked.clear()
    answer = shell(*command, *options)
    assert (answer.code, answer.err) == (0, "")
    assert asked == list(QUERIES)


def test_a_fault_midway_costs_no_answer(
    shell: Shell, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    with stopped_at(4, monkeypatch, MemoryError):
        shell(*command).check_refused(1, "out of memory", "fewer or shorter texts")
    asked.clear()
    assert shell(*command).code == 0
    assert asked == ["q4", "q5"]


# --- what is refused before the work -------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nowhere/out.trec", "."])
def test_a_run_that_could_not_be_written_is_refused_before_the_work(
    shell: Shell, command: tuple[str, ...], asked: list[str], target: str
) -> None:
    answer = shell(*command[:-1], target)
    answer.check_refused(2, f"cannot write a run to {target}", "expected a file in a folder that is there")
    assert asked == []


@pytest.mark.parametrize("id", ["has blank", "has\ttab", "has\u00a0blank", ""])
def test_query_ids_that_a_run_cannot_hold_are_refused_before_the_work(
    shell: Shell, command: tuple[str, ...], tmp_path: Path, asked: list[str], id: str
) -> None:
    records = [{"id": "good", "text": "roof"}, {"id": id, "text": "storm"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, records)))
    answer = shell(*command, "--queries", "queries.jsonl")
    answer.check_refused(2, "1 query ids hold blanks", repr(id), "Change the ids, or take --json")
    assert asked == []


@pytest.mark.parametrize("id", ["has blank", "has\ttab", "has\u00a0blank", "has\u001cseparator"])
def test_document_ids_that_a_run_cannot_hold_are_refused_before_the_work(
    shell: Shell, command: tuple[str, ...], tmp_path: Path, asked: list[str], id: str
) -> None:
    (tmp_path / "more.jsonl").write_text(json.dumps({"id": id, "text": "storm"}))
    assert shell("index", "notes.index", "--from", "more.jsonl").code == 0
    answer = shell(*command)
    answer.check_refused(2, "1 document ids hold blanks", "Change the ids, or take --json")
    assert asked == []
