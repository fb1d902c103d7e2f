"""What a person sees: aligned tables with rich and without it, and nothing that steers the terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from runoff.cli.hits import duration
from runoff.cli.terminal import (
    Column,
    Piece,
    PlainTerminal,
    RichTerminal,
    Terminal,
    open_terminal,
    paragraph,
    print_json,
)

COLUMNS = [Column("#", is_number=True), Column("name", share=1), Column("score", is_number=True)]
STEERING = "red\x1b[31m and\x07 a\nline\x9b2J"


@pytest.fixture(params=[PlainTerminal, RichTerminal])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Opens a terminal of 40 columns, of either kind, on the stdout of that moment."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    return lambda: request.param(40)


def test_a_plain_table_is_aligned_and_cut_to_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["1", "short", "0.5"], ["10", "a name that is much too long for it", Piece("-10.25", "bold")]]
    PlainTerminal(32).table(COLUMNS, rows)
    assert capsys.readouterr().out.splitlines() == [
        " #  name                   score",
        "--  --------------------  ------",
        " 1  short                    0.5",
        "10  a name that is much…  -10.25",
        "",
    ]


def test_a_wide_letter_counts_as_two_and_a_combining_mark_as_none(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["1", "火星は赤い惑星です", "1"], ["2", "cafe\u0301", "2"]]
    PlainTerminal(20).table(COLUMNS, rows)
    lines = capsys.readouterr().out.splitlines()
    # 20 less 1 and 5 columns and 4 blanks leave 10: four wide letters, the ellipsis, and one blank.
    assert lines[2] == "1  火星は赤…       1"
    assert lines[3] == "2  cafe\u0301            2"


def test_a_table_shows_every_cell_whatever_prints_it(
    opened: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    opened().table(COLUMNS, [["1", [Piece("[bold]", "red"), Piece(" :smile:")], "0.5"]])
    out = capsys.readouterr().out
    assert all(cell in out for cell in ("#", "name", "score", "1", "[bold] :smile:", "0.5"))
    assert "\x1b" not in out


def test_a_document_cannot_steer_the_terminal(
    opened: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = opened()
    terminal.line(STEERING, Piece(STEERING, "bold"))
    terminal.table(COLUMNS, [["1", STEERING, "1"]])
    paragraph(terminal, STEERING, indent=2, lines=2)
    out = capsys.readouterr().out
    assert [letter for letter in out if not letter.isprintable() and letter != "\n"] == []
    assert "red [31m and" in out


def test_a_line_is_never_cut_and_a_paragraph_is_wrapped(
    opened: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = opened()
    terminal.line("word " * 30 + "end")
    assert capsys.readouterr().out == "word " * 30 + "end\n"
    paragraph(terminal, "one two three four five six seven eight nine ten eleven", indent=30, lines=2)
    assert capsys.readouterr().out.splitlines() == [" " * 30 + "one two", " " * 30 + "three …"]


def test_the_terminal_is_rich_where_it_is_installed_and_as_wide_as_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert isinstance(open_terminal(), RichTerminal)
    assert open_terminal().width == 70
    monkeypatch.setenv("COLUMNS", "1000")
    assert open_terminal().width == 150
    monkeypatch.setenv("COLUMNS", "10")
    assert open_terminal().width == 40
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(open_terminal(), PlainTerminal)


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", '{"a": "é"}'), ("ascii", '{"a": "\\u00e9"}')])
def test_json_is_readable_where_the_encoding_allows_and_right_everywhere(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_json({"a": "é"}, indent=None)
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding) == shown + "\n"
    assert json.loads(raw.getvalue().decode(encoding)) == {"a": "é"}


@pytest.mark.parametrize("rich", [True, False])
def test_letters_that_the_terminal_lacks_become_question_marks(
    monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    open_terminal().line("caf\u00e9 \u25b2")
    sys.stdout.flush()
    assert raw.getvalue() == b"caf? ?\n"


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0.2, "0 ms"), (16.4, "16 ms"), (100, "0.10 s"), (1204, "1.20 s")]
)
def test_durations_are_short(milliseconds: float, shown: str) -> None:
    assert duration(milliseconds) == shown
