"""`runoff demo`: a whole search, before and after, on documents that are at hand."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff.cli.demo import ENCYCLOPEDIA_QUESTIONS, LIBRARY_QUESTIONS
from runoff.cli.library import library_documents
from runoff.contracts import InputError
from runoff.search.index import Index

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

TABLE = r"# +before: BM25 +score +after: {} +score +rank"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files, a new one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_out_of_the_box_it_searches_the_docstrings_and_shows_each_question_before_and_after(
    shell: Shell, tiny: Tiny, temporary: Path
) -> None:
    answer = shell("demo", "--model", tiny("bert"), "--top-k", 2)
    assert answer.code == 0, answer.err
    first, second = answer.out.splitlines()[:2]
    told = re.match(r"([\d,]+) documents \(docstrings of Python's standard library\): indexed in ", first)
    assert told is not None
    assert int(told[1].replace(",", "")) > 2000
    assert second.startswith(f"{tiny('bert')} reranks, on cpu in fp32: ")
    assert re.findall(r"^\? (.*)$", answer.out, re.MULTILINE) == list(LIBRARY_QUESTIONS)
    assert len(re.findall(TABLE.format("bert"), answer.out)) == 5
    assert len(re.findall(r"^ *[12] .* (?:=|▲|▼) ", answer.out, re.MULTILINE)) == 10
    assert re.search(
        r"^5 questions: another document in first place for [0-5]\. On average", answer.out, re.M
    )
    assert "runoff index notes.index --from ~/notes" in answer.out
    assert list(temporary.iterdir()) == []


def test_questions_of_ones_own_are_asked_of_documents_of_ones_own(
    shell: Shell, tiny: Tiny, notes: Path, temporary: Path
) -> None:
    options = ("--documents", notes, "--model", tiny("bert"))
    record = shell("demo", "boiler storm", "roof", *options, "--json").json
    assert (record["model"], record["documents"]) == (str(tiny("bert")), 5)
    assert [record[name] for name in ("added", "updated", "unchanged", "bad")] == [5, 0, 0, 0]
    assert [each["query"] for each in record["results"]] == ["boiler storm", "roof"]
    found = [{hit["id"] for hit in each["hits"]} for each in record["results"]]
    assert found == [{"boiler", "water", "roof", "window"}, {"roof"}]
    out = shell("demo", "boiler storm", "roof", *options).out
    assert re.match(r"5 documents \(notes\.jsonl\): indexed in", out)
    assert re.findall(r"^\? (.*)$", out, re.MULTILINE) == ["boiler storm", "roof"]
    changed = sum(each["hits"][0]["id"] != each["before"][0]["id"] for each in record["results"])
    assert f"2 questions: another document in first place for {changed}." in out
    assert list(temporary.iterdir()) == []


def test_documents_of_ones_own_are_asked_general_knowledge(shell: Shell, tiny: Tiny, notes: Path) -> None:
    record = shell("demo", "--documents", notes, "--model", tiny("bert"), "--json").json
    assert [each["query"] for each in record["results"]] == list(ENCYCLOPEDIA_QUESTIONS)


def test_a_kept_index_is_gone_on_with_and_gets_the_tokens_of_another_model(
    shell: Shell, tiny: Tiny, notes: Path
) -> None:
    command = ("demo", "boiler", "--documents", notes, "--index", "kept.index", "--model")
    assert "runoff search --index kept.index" in shell(*command, tiny("bert")).out
    assert Index.open("kept.index").info().tokenizer == str(tiny("bert"))
    assert ": indexed before" in shell(*command, tiny("bert")).out
    record = shell(*command, tiny("ettin"), "--json").json
    assert (record["added"], record["documents"]) == (0, 5)
    assert Index.open("kept.index").info().tokenizer == str(tiny("ettin"))
    assert {hit["id"] for hit in record["results"][0]["hits"]} == {"boiler", "water"}


def test_an_index_that_no_demo_made_is_refused_and_left_as_it_was(
    shell: Shell, tiny: Tiny, notes_index: Path, stored: Callable[[Path], dict[str, str]]
) -> None:
    before = stored(notes_index)
    answer = shell("demo", "boiler", "--index", notes_index, "--model", tiny("bert"))
    answer.check_refused(
        2,
        "holds other documents, to which the demo would add",
        "Choose another folder",
        "runoff search --index",
    )
    assert stored(notes_index) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("",), ("QUESTION: expected a query, got an empty text",)),
        (("q", "--top-k", "0"), ("1 or more, got '0'",)),
        (
            ("q", "--documents", "nowhere"),
            ("expected a file or folder of documents at nowhere", "Check the path"),
        ),
        (("q", "--documents", "empty"), ("no documents found in empty", "expected records")),
    ],
)
def test_what_cannot_be_shown_is_told(
    shell: Shell, tiny: Tiny, tmp_path: Path, temporary: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    shell("demo", *words, "--model", tiny("bert")).check_refused(2, *said)
    assert list(temporary.iterdir()) == []


# --- the collection ----------------------------------------------------------------------------------------


def test_the_collection_is_a_docstring_a_document_each_text_and_id_once() -> None:
    documents = {each.id: each for each in library_documents()}
    assert len(documents) == sum(1 for _ in library_documents())
    dedent = documents["textwrap.dedent"]
    assert (dedent.title, dedent.source, dedent.place) == ("textwrap.dedent", "module textwrap", None)
    assert dedent.text.startswith("textwrap.dedent Remove any common leading whitespace from every line")
    # A long one comes in passages, each under its name.
    assert documents["argparse#2"].text.startswith("argparse ")
    assert (documents["argparse#2"].place or "").startswith("chars ")


def test_a_python_without_docstrings_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runoff.cli.library.SHORTEST", 1 << 30)
    with pytest.raises(InputError, match=r"without docstrings.*--documents PATH"):
        list(library_documents())


def test_a_module_that_this_system_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runoff.cli.library.MODULES", ["no_such_module", "json"])
    assert {each.source for each in library_documents()} == {"module json"}
