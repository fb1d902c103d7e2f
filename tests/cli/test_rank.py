"""`runoff rank`: the order and the scores of the reference, for people and for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

QUERY = "which planet is the red one"
TEXTS = [
    "Venus is hot.",
    "Mars is red with rust.",
    "Jupiter is big.",
    "Saturn has rings, as everybody knows.",
    "Pluto was one.",
]


@pytest.fixture
def expected(reference: Callable[..., list[float]], tiny: Tiny) -> list[tuple[str, float]]:
    """TEXTS with their scores, best first, by sentence-transformers."""
    scores = reference(tiny("bert"), [(QUERY, text) for text in TEXTS])
    best_first = sorted(zip(TEXTS, scores, strict=True), key=lambda pair: -pair[1])
    assert [text for text, _ in best_first] != TEXTS, "the order must differ from the one given"
    assert min(a[1] - b[1] for a, b in pairwise(best_first)) > 1e-3
    return best_first


def rows_of(table: str) -> list[tuple[int, float, str]]:
    """(rank, score, what stands after them) of the printed rows."""
    found = re.findall(r"^ *(\d+) +(-?\d+\.\d+) +(.+?) *$", table, re.MULTILINE)
    return [(int(rank), float(score), rest) for rank, score, rest in found]


def test_documents_are_printed_best_first_with_the_references_scores(
    shell: Shell, tiny: Tiny, expected: list[tuple[str, float]]
) -> None:
    answer = shell("rank", QUERY, *TEXTS, "--model", tiny("bert"))
    assert (answer.code, answer.err) == (0, "")
    rows = rows_of(answer.out)
    assert [(rank, text) for rank, _, text in rows] == [
        (rank, text) for rank, (text, _) in enumerate(expected, start=1)
    ]
    assert [score for _, score, _ in rows] == pytest.approx([score for _, score in expected], abs=2e-4)
    assert f"5 documents by {tiny('bert')}: loaded in" in answer.out


def test_json_has_the_place_of_each_document_in_the_input(
    shell: Shell, tiny: Tiny, expected: list[tuple[str, float]]
) -> None:
    answer = shell("rank", QUERY, *TEXTS, "--model", tiny("bert"), "--json").json
    assert list(answer) == ["query", "model", "results", "cut_pairs", "timings_ms"]
    assert (answer["query"], answer["model"], answer["cut_pairs"]) == (QUERY, str(tiny("bert")), 0)
    assert [each["text"] for each in answer["results"]] == [text for text, _ in expected]
    assert [each["corpus_id"] for each in answer["results"]] == [TEXTS.index(text) for text, _ in expected]
    assert [each["score"] for each in answer["results"]] == pytest.approx(
        [score for _, score in expected], abs=1e-4
    )
    assert list(answer["timings_ms"]) == ["load", "rank"]


def test_tied_documents_keep_input_order(shell: Shell, tiny: Tiny) -> None:
    texts = [TEXTS[2], TEXTS[1], TEXTS[2], TEXTS[1], TEXTS[2]]
    results = shell("rank", QUERY, *texts, "--model", tiny("bert"), "--json").json["results"]
    places = [each["corpus_id"] for each in results]
    assert [place for place in places if place in (0, 2, 4)] == [0, 2, 4]
    assert [place for place in places if place in (1, 3)] == [1, 3]
    assert len({each["score"] for each in results}) == 2


def test_top_k_shows_the_best_and_says_of_how_many(
    shell: Shell, tiny: Tiny, expected: list[tuple[str, float]]
) -> None:
    answer = shell("rank", QUERY, *TEXTS, "--model", tiny("bert"), "--top-k", 2)
    assert [text for _, _, text in rows_of(answer.out)] == [text for text, _ in expected[:2]]
    assert "2 of 5 documents by" in answer.out


def test_top_k_beyond_the_documents_gives_all(shell: Shell, tiny: Tiny) -> None:
    answer = shell("rank", QUERY, *TEXTS, "--model", tiny("bert"), "--top-k", 99, "--json")
    assert len(answer.json["results"]) == 5


def test_documents_come_from_the_command_line_a_file_and_stdin_alike(
    shell: Shell, tiny: Tiny, tmp_path: Path
) -> None:
    lines = "\n\n".join(f"  {text}" for text in TEXTS) + "\r\n"
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    options = ("--model", tiny("bert"), "--json")
    given = shell("rank", QUERY, *TEXTS, *options).json["results"]
    assert shell("rank", QUERY, "--documents", "texts.txt", *options).json["results"] == given
    piped = shell("rank", QUERY, "--documents", "-", *options, piped=lines.encode())
    assert piped.json["results"] == given
    (tmp_path / "rest.txt").write_text("\n".join(TEXTS[2:]))
    both = shell("rank", QUERY, *TEXTS[:2], "--documents", "rest.txt", *options)
    assert both.json["results"] == given


def test_records_keep_their_ids_and_have_the_title_in_front(
    shell: Shell, tiny: Tiny, tmp_path: Path, reference: Callable[..., list[float]]
) -> None:
    records = [
        {"_id": 7, "title": "Mars", "text": "is red."},
        {"_id": "v", "text": "Venus is hot."},
        {"contents": "Pluto was one."},
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, records)))
    answer = shell("rank", QUERY, "--documents", "texts.jsonl", "--model", tiny("bert"), "--json").json
    by_text = {each["text"]: each for each in answer["results"]}
    assert {text: each.get("id") for text, each in by_text.items()} == {
        "Mars is red.": "7",
        "Venus is hot.": "v",
        "Pluto was one.": None,
    }
    scores = reference(tiny("bert"), [(QUERY, text) for text in by_text])
    assert [each["score"] for each in by_text.values()] == pytest.approx(scores, abs=1e-4)
    table = shell("rank", QUERY, "--documents", "texts.jsonl", "--model", tiny("bert")).out
    assert re.search(r"# +score +id +document", table)
    assert re.search(r"^ *\d +-?\d+\.\d+ +7 +Mars is red\.", table, re.MULTILINE)


def test_without_rich_the_table_is_plain_text(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    options = (QUERY, *TEXTS[:2], "--model", tiny("bert"))
    results = shell("rank", *options, "--json").json["results"]
    width = max(len(f"{each['score']:.4f}") for each in results)
    expected = ["#  " + "score".rjust(width) + "  document"]
    expected += ["-  " + "-" * width + "  " + "-" * (110 - 5 - width)]
    for rank, each in enumerate(results, start=1):
        expected.append(f"{rank}  {each['score']:>{width}.4f}  {each['text']}")
    assert shell("rank", *options).out.splitlines()[:5] == [*expected, ""]


def test_a_long_document_is_cut_and_said_to_be_or_scored_in_passages_or_refused(
    shell: Shell, tiny: Tiny
) -> None:
    # A word is a token here, and three are special: 5 + 600 + 3 tokens for the 512 that the model takes.
    options = ("the red planet is mars", "rust " * 600, "--model", tiny("bert"))
    cut = shell("rank", *options, "--json")
    assert cut.json["cut_pairs"] == 1
    assert "1 of 1 pairs were longer than 512 tokens and were cut (96 tokens lost)" in cut.err
    assert cut.err.startswith("runoff: warning: ")
    passages = shell("rank", *options, "--long-documents", "passages", "--json")
    assert (passages.json["cut_pairs"], passages.err) == (0, "")
    refused = shell("rank", *options, "--truncation", "error")
    refused.check_refused(2, "a pair of 5 + 600 tokens and 3 special ones", "512", "shorten it")


def test_max_length_is_the_most_tokens_of_a_pair(shell: Shell, tiny: Tiny) -> None:
    answer = shell("rank", "red", "rust rust rust", "--model", tiny("bert"), "--max-length", 6, "--json")
    assert answer.json["cut_pairs"] == 1  # 1 + 3 + 3 special
    answer = shell("rank", "red", "rust rust rust", "--model", tiny("bert"), "--max-length", 7, "--json")
    assert answer.json["cut_pairs"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("no documents to rank", "--documents FILE")),
        (("a", "--top-k", "0"), ("--top-k", "1 or more, got '0'", "runoff rank --help")),
        (("a", "--top-k", "some"), ("1 or more, got 'some'",)),
        (("--documents", "nowhere.txt"), ("expected a file at nowhere.txt, found nothing", "Check the path")),
        (("--documents", "."), ("expected a file at ., found a folder",)),
        (("--documents", "-"), ("no documents in stdin", "one a line")),
        (("a", "--documents", "empty.txt"), ("no documents in empty.txt", "one a line")),
        (("--documents", "latin.txt"), ("latin.txt:2: expected UTF-8, got byte 0xe9", "iconv")),
        (
            ("--documents", "mixed.jsonl"),
            ("mixed.jsonl:2: expected a JSON object on every line, got 'Venus'",),
        ),
        (("--documents", "wrong.jsonl"), ("wrong.jsonl:1: expected a text", "the fields are id, words")),
    ],
)
def test_documents_that_cannot_be_used_are_told_before_a_model_is_loaded(
    shell: Shell, tmp_path: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Mars\ncafé".encode("latin-1"))
    (tmp_path / "mixed.jsonl").write_text('{"text": "Mars"}\nVenus\n')
    (tmp_path / "wrong.jsonl").write_text('{"id": 1, "words": "Mars"}\n')
    shell("rank", QUERY, *words, "--model", "./no-such-model").check_refused(2, *said)


def test_an_empty_query_is_refused(shell: Shell) -> None:
    shell("rank", " ", "a").check_refused(2, "QUERY: expected a query, got an empty text", "--help")


def test_a_model_of_several_labels_ranks_nothing(shell: Shell, tiny: Tiny) -> None:
    shell("rank", QUERY, "a", "--model", tiny("bert-3-labels")).check_refused(2, "one label, this one has 3")
