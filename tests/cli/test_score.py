"""`runoff score`: a score per pair, in the order given, whatever the pairs come in."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

PAIRS = [
    ("what is red", "Mars is red."),
    ("what is hot", "Venus is hot."),
    ("what is red", "Rust is."),
    ("what is big", "Jupiter is big, and so is Saturn."),
    ("what was one", "Pluto was one."),
]


@pytest.fixture
def expected(reference: Callable[..., list[float]], tiny: Tiny) -> list[float]:
    return reference(tiny("bert"), PAIRS)


def fields_of(out: str) -> list[tuple[float, str, str]]:
    """(score, query, document) of the printed lines."""
    lines = [line.split("\t") for line in out.splitlines()]
    return [(float(score), query, document) for score, query, document in lines]


def test_pairs_are_scored_in_the_order_given_between_tabs(
    shell: Shell, tiny: Tiny, tmp_path: Path, expected: list[float]
) -> None:
    assert expected != sorted(expected, reverse=True)
    (tmp_path / "pairs.tsv").write_text("".join(f"{query}\t{text}\n\n" for query, text in PAIRS))
    answer = shell("score", "--pairs", "pairs.tsv", "--model", tiny("bert"))
    assert (answer.code, answer.err) == (0, "")
    assert [fields[1:] for fields in fields_of(answer.out)] == PAIRS
    assert [fields[0] for fields in fields_of(answer.out)] == pytest.approx(expected, abs=1e-4)


def test_a_query_is_scored_with_each_document_of_the_command_line(
    shell: Shell, tiny: Tiny, expected: list[float]
) -> None:
    query, first, third = PAIRS[0][0], PAIRS[0][1], PAIRS[2][1]
    answer = shell("score", query, first, third, "--model", tiny("bert"))
    assert [fields[1:] for fields in fields_of(answer.out)] == [(query, first), (query, third)]
    scores = [fields[0] for fields in fields_of(answer.out)]
    assert scores == pytest.approx([expected[0], expected[2]], abs=1e-4)


def test_json_lines_have_a_score_a_query_and_a_document(
    shell: Shell, tiny: Tiny, tmp_path: Path, expected: list[float]
) -> None:
    lines = [json.dumps({"query": query, "document": text, "more": 1}) for query, text in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    answer = shell("score", "--pairs", "pairs.jsonl", "--model", tiny("bert"), "--json")
    assert [list(each) for each in answer.json_lines] == [["score", "query", "document"]] * 5
    assert [(each["query"], each["document"]) for each in answer.json_lines] == PAIRS
    assert [each["score"] for each in answer.json_lines] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("form", ["lists", "objects with text", "tabs"])
def test_every_form_of_pairs_and_every_way_in_is_the_same(
    shell: Shell, tiny: Tiny, tmp_path: Path, form: str
) -> None:
    forms: dict[str, Callable[[str, str], str]] = {
        "lists": lambda query, text: json.dumps([query, text]),
        "objects with text": lambda query, text: json.dumps({"query": query, "text": text}),
        "tabs": lambda query, text: f"{query}\t{text}",
    }
    content = "\r\n".join(forms[form](*pair) for pair in PAIRS).encode()
    (tmp_path / "plain").write_bytes(content)
    with gzip.open(tmp_path / "packed.gz", "wb") as file:
        file.write(content)
    options = ("--model", tiny("bert"), "--json")
    plain = shell("score", "--pairs", "plain", *options).json_lines
    assert [(each["query"], each["document"]) for each in plain] == PAIRS
    assert shell("score", "--pairs", "packed.gz", *options).json_lines == plain
    assert shell("score", "--pairs", "-", *options, piped=content).json_lines == plain


def test_raw_scores_are_those_before_the_activation(
    shell: Shell, tiny: Tiny, reference: Callable[..., list[float]]
) -> None:
    options = ("score", *PAIRS[0], "--model", tiny("roberta"), "--json")
    (raw,) = shell(*options, "--raw").json_lines
    (activated,) = shell(*options).json_lines
    assert raw["score"] == pytest.approx(reference(tiny("roberta"), PAIRS[:1])[0], abs=1e-4)
    # One label and no activation named: sentence-transformers takes a sigmoid.
    assert activated["score"] == pytest.approx(1 / (1 + math.exp(-raw["score"])), abs=1e-6)


def test_a_model_of_several_labels_gives_a_number_each(
    shell: Shell, tiny: Tiny, reference: Callable[..., list[list[float]]]
) -> None:
    options = ("score", *PAIRS[0], "--model", tiny("bert-3-labels"))
    (expected,) = reference(tiny("bert-3-labels"), PAIRS[:1])
    assert shell(*options, "--json").json_lines[0]["score"] == pytest.approx(expected, abs=1e-4)
    shown = shell(*options).out.split("\t")[0].split(" ")
    assert [float(number) for number in shown] == pytest.approx(expected, abs=1e-4)


def test_blanks_within_a_text_never_break_its_line_apart(shell: Shell, tiny: Tiny, tmp_path: Path) -> None:
    pair = {"query": "a\tquery", "document": "two\nlines\r\nand a\ttab"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    answer = shell("score", "--pairs", "pairs.jsonl", "--model", tiny("bert"))
    assert [fields[1:] for fields in fields_of(answer.out)] == [("a query", "two lines and a tab")]
    (record,) = shell("score", "--pairs", "pairs.jsonl", "--model", tiny("bert"), "--json").json_lines
    assert (record["query"], record["document"]) == (pair["query"], pair["document"])


def test_scores_are_printed_as_they_come_and_a_bad_line_later_costs_none_of_them(
    shell: Shell, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.cli.score.CHUNK_PAIRS", 2)
    lines = [f"{query}\t{text}" for query, text in PAIRS]
    (tmp_path / "pairs.tsv").write_text("\n".join([*lines, "no tab here"]))
    answer = shell("score", "--pairs", "pairs.tsv", "--model", tiny("bert"))
    assert answer.code == 2
    assert [fields[1:] for fields in fields_of(answer.out)] == PAIRS[:4]
    assert "pairs.tsv:6: expected a query, a tab and a document, got no tab in 'no tab here'" in answer.err


def test_on_a_terminal_lines_are_cut_to_its_width(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.cli.score.is_terminal", lambda stream: stream is sys.stdout)
    (line,) = shell("score", "q" * 300, "d" * 300, "--model", tiny("bert")).out.splitlines()
    _, query, document = line.split()
    assert query == "q" * (len(query) - 1) + "…"
    assert document == "d" * (len(document) - 1) + "…"
    assert 100 <= len(line) <= 110  # the columns of the shell
    (line,) = shell("score", "short", "d", "--model", tiny("bert")).out.splitlines()
    assert line.endswith("  short  d")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("nothing to score", 'runoff score "a query" "a document"', "--pairs FILE")),
        (("only a query",), ("nothing to score", "--pairs FILE")),
        (("query", "text", "--pairs", "good.tsv"), ("got both", "Leave one out")),
        (("--pairs", "nowhere.tsv"), ("expected a file at nowhere.tsv, found nothing", "Check the path")),
        (("--pairs", "empty.tsv"), ("no pairs in empty.tsv", "a query, a tab and a document")),
        (("--pairs", "-"), ("no pairs in stdin",)),
        (("--pairs", "no_tab.tsv"), ("no_tab.tsv:1:", "got no tab in 'no tab'", "JSON lines")),
        (("--pairs", "latin.tsv"), ("latin.tsv:1: expected UTF-8, got byte 0xe9", "iconv")),
        (("--pairs", "wrong.jsonl"), ('wrong.jsonl:1: expected {"query": text', 'got \'{"question"')),
    ],
)
def test_pairs_that_cannot_be_used_are_told_before_a_model_is_loaded(
    shell: Shell, tmp_path: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (tmp_path / "good.tsv").write_text("a\tb\n")
    (tmp_path / "empty.tsv").write_text("\n")
    (tmp_path / "no_tab.tsv").write_text("no tab\n")
    (tmp_path / "latin.tsv").write_bytes("café\ttext\n".encode("latin-1"))
    (tmp_path / "wrong.jsonl").write_text('{"question": "a", "document": "b"}\n')
    shell("score", *words, "--model", "./no-such-model").check_refused(2, *said)
