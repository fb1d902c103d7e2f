"""What a person sees: lines, tables and paragraphs, by rich where it is installed and plainly elsewhere."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

# Columns assumed where stdout is no terminal, and the most that a table takes: wider is hard to read across.
DEFAULT_WIDTH, WIDEST, NARROWEST = 100, 150, 40


class Piece(NamedTuple):
    """Some text and its style, in rich's words ("bold", "dim", "green")."""

    text: str
    style: str = ""


Cell = str | Piece | Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Column:
    """A column is as wide as its content, or takes its `share` of what is left and cuts with an ellipsis."""

    title: str = ""
    is_number: bool = False
    share: int = 0
    style: str = ""


class Terminal(Protocol):
    """Where an answer is printed."""

    width: int

    def line(self, *pieces: str | Piece) -> None:
        """One line, cut at no width."""
        ...

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """A table with a head, one line per row."""
        ...


def open_terminal() -> Terminal:
    """The terminal behind stdout."""
    if hasattr(sys.stdout, "reconfigure"):
        # Letters that the terminal's encoding lacks become "?", rather than an error in mid answer.
        sys.stdout.reconfigure(errors="replace")
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns))
    return RichTerminal(width) if importlib.util.find_spec("rich") else PlainTerminal(width)


def print_json(record: Any, indent: int | None = 2) -> None:
    """One JSON value on stdout; `indent` None keeps it on a line."""
    # Dates and the like, which metadata may hold, have no form of their own in JSON.
    text = json.dumps(record, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # another encoding than UTF-8, or a file name that is not UTF-8
        text = json.dumps(record, indent=indent, default=str)
    sys.stdout.write(text + "\n")


def note(message: str) -> None:
    """One line on stderr that is no part of the answer."""
    sys.stderr.write(f"runoff: {message}\n")


def paragraph(terminal: Terminal, text: str, indent: int, lines: int, style: str = "") -> None:
    """A text wrapped to the terminal, at most `lines` lines of it."""
    wrapped = textwrap.wrap(
        " ".join(text.split()), terminal.width - indent, max_lines=lines, placeholder=" …"
    )
    for each in wrapped:
        terminal.line(Piece(" " * indent + each, style))


class RichTerminal:
    """Tables and colours by rich, which drops the colours where stdout is no terminal."""

    def __init__(self, width: int) -> None:
        from rich.console import Console

        self.width = width

        class PipedConsole(Console):  # type: ignore[misc] # rich counts as untyped
            """rich would end the process with exit code 1 itself."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

        self._console = PipedConsole(
            file=sys.stdout, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    def line(self, *pieces: str | Piece) -> None:
        self._console.print(_rich_text(_pieces(pieces)))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        from rich import box
        from rich.table import Table

        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1),
            header_style="bold",
            width=self._width(columns),
        )
        for number, column in enumerate(columns):
            # Where the terminal is too narrow names and titles are cut, and never figures.
            cells = ["", *(_flat([row[number]]) for row in rows)]
            table.add_column(
                _rich_text([Piece(column.title)]),
                justify="right" if column.is_number else "left",
                style=column.style,
                no_wrap=True,
                overflow="ellipsis",
                ratio=column.share or None,
                min_width=max(map(_cells_wide, cells)) if column.is_number else None,
            )
        for row in rows:
            table.add_row(*(_rich_text(_pieces([cell])) for cell in row))
        self._console.print(table, soft_wrap=False)

    def _width(self, columns: Sequence[Column]) -> int | None:
        return self.width if any(column.share for column in columns) else None


def _rich_text(pieces: Sequence[Piece]) -> Any:
    from rich.text import Text

    return Text.assemble(*((_printable(piece.text), piece.style) for piece in pieces))


class PlainTerminal:
    """The same without rich: aligned text."""

    def __init__(self, width: int) -> None:
        self.width = width

    def line(self, *pieces: str | Piece) -> None:
        sys.stdout.write(_flat(pieces).rstrip() + "\n")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        cells = [[column.title for column in columns], *([_flat([cell]) for cell in row] for row in rows)]
        widths = self._widths(columns, cells)
        cells.insert(1, ["-" * width for width in widths])
        for row in cells:
            padded = (
                _padded(cell, width, column.is_number)
                for cell, width, column in zip(row, widths, columns, strict=True)
            )
            sys.stdout.write("  ".join(padded).rstrip() + "\n")
        sys.stdout.write("\n")

    def _widths(self, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
        needed = [max(map(_cells_wide, column)) for column in zip(*cells, strict=True)]
        fixed = sum(width for width, column in zip(needed, columns, strict=True) if not column.share)
        left = max(self.width - fixed - 2 * (len(columns) - 1), 0)
        shares = sum(column.share for column in columns) or 1
        return [
            max(left * column.share // shares, 8) if column.share else width
            for width, column in zip(needed, columns, strict=True)
        ]


def _pieces(cells: Sequence[Cell]) -> list[Piece]:
    found: list[Piece] = []
    for cell in cells:
        if isinstance(cell, str):
            found.append(Piece(cell))
        elif isinstance(cell, Piece):
            found.append(cell)
        else:
            found.extend(cell)
    return found


def _flat(cells: Sequence[Cell]) -> str:
    return _printable("".join(piece.text for piece in _pieces(cells)))


def _printable(text: str) -> str:
    """Without the control characters by which a document could steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == " " else " " for letter in text)


def _cells_wide(text: str) -> int:
    """Columns a text takes: Chinese and the like take two a letter, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _padded(text: str, width: int, is_number: bool) -> str:
    if _cells_wide(text) > width:
        while text and _cells_wide(text) > width - 1:
            text = text[:-1]
        text = text.rstrip() + "…"
    blanks = " " * (width - _cells_wide(text))
    return blanks + text if is_number else text + blanks
