"""Result lines of latency and growth runs -> Markdown, and what page and picture belong to a file of lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runoff.bench.record import Row, read_rows, same_run
from runoff.bench.specs import ENGINES
from runoff.bench.tables import machine, models_of, race_page, table
from runoff.data.atomic import replace_file


def latency_page(rows: Sequence[Row]) -> str:
    """Milliseconds at p50 and p95 of one query, a table for each model."""
    first = rows[-1]
    parts = [
        "# Latency",
        f"One query with its documents of {first['settings']['tokens']} tokens, tokenised and scored: milliseconds at "
        f"p50 / p95. {_where(first)}",
    ]
    for model in models_of(rows):
        here = [row for row in rows if row["settings"]["model"] == model]
        counts = list(here[0]["documents"])
        body = [
            [
                _label(row),
                *(f"{each['p50_ms']:.4g} / {each['p95_ms']:.4g}" for each in row["documents"].values()),
            ]
            for row in here
        ]
        head = ["engine", *(f"{count} document" + ("s" if count != "1" else "") for count in counts)]
        parts.append(f"## {model}\n\n{table(head, body)}")
    return "\n\n".join(parts) + "\n"


_GROWTH: Mapping[str, tuple[str, str, str, str, str]] = {
    "length": (
        "tokens",
        "single_ms",
        "Milliseconds of one document, alone",
        "growth",
        "how many times longer the longest takes than one of an eighth of it (8 is linear)",
    ),
    "documents": (
        "documents",
        "ms",
        "Milliseconds of one query with so many documents of about 160 tokens",
        "growth",
        "how many times longer the most documents take than a tenth of them (10 is linear)",
    ),
    "threads": (
        "threads",
        "pairs_a_second",
        "Pairs a second with so many threads",
        "speed-up",
        "all threads over one",
    ),
}


def growth_page(rows: Sequence[Row]) -> str:
    """What each engine takes along the way, a table for each model."""
    first = rows[-1]
    x, y, what, name, meaning = _GROWTH[first["settings"]["along"]]
    parts = [f"# Growth with {first['settings']['along']}", f"{what}; {name}: {meaning}. {_where(first)}"]
    for model in models_of(rows):
        here = [row for row in rows if row["settings"]["model"] == model]
        steps = list(dict.fromkeys(point[x] for row in here for point in row["points"]))
        body = []
        for row in here:
            values = {point[x]: point[y] for point in row["points"]}
            cells = ["" if step not in values else f"{values[step]:,.4g}" for step in steps]
            body.append([_label(row), *cells, "" if row["growth"] is None else f"{row['growth']:.2f}"])
        parts.append(f"## {model}\n\n{table(['engine', *(f'{step:,}' for step in steps), name], body)}")
    return "\n\n".join(parts) + "\n"


def _where(row: Row) -> str:
    return f"{machine(row)}, {row['settings']['threads']} threads; `{row['command']}`, {row['date']}."


def _label(row: Row) -> str:
    return ENGINES[row["settings"]["engine"]].label


_PAGES: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "race": race_page,
    "latency": latency_page,
    "growth": growth_page,
}


def page(rows: Sequence[Row]) -> str:
    """The Markdown page of lines of one kind and one run."""
    return _PAGES[rows[0]["benchmark"]](rows)


def write_page(file: Path, like: Row) -> list[Row]:
    """Writes NAME.md beside NAME.jsonl of the lines that belong to one run with `like`; those lines."""
    rows = same_run(read_rows(file), like)
    replace_file(file.with_suffix(".md"), page(rows))
    return rows
