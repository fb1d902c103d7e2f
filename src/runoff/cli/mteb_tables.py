"""The figures of `runoff judge mteb` as lines for programs, as tables in the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runoff.cli.terminal import Column, Piece, Terminal

if TYPE_CHECKING:
    from runoff.evaluate.mteb import Cell

Line = dict[str, Any]

ENGINES = {
    "native": "Runoff's engine",
    "reference": "Runoff's numpy engine",
    "sentence-transformers": "sentence-transformers",
    "bm25s": "bm25s",
}


def line_of(cell: Cell, stage: Cell) -> Line:
    """The line of figures of a cell; a reranker's with its difference from its first `stage` and the 95 % interval."""
    from runoff.evaluate.measures import difference

    line: Line = {
        "task": cell.task,
        "dataset_revision": cell.dataset_revision,
        "embedder": stage.model.name,
        "embedder_revision": stage.model.revision,
        "embedder_facts": stage.facts,
        "reranker": None,
        "queries": len(cell.ndcg),
        "ndcg_at_10": round(cell.mean, 6),
    }
    if cell.first_stage is not None:
        found = difference(list(cell.ndcg.values()), [stage.ndcg[query] for query in cell.ndcg])
        line |= {
            "reranker": cell.model.name,
            "reranker_revision": cell.model.revision,
            "reranker_facts": cell.facts,
            "depth": cell.depth,
            "pairs": cell.pairs,
            "minus_first": round(found.mean, 6),
            "minus_first_95": [round(found.low, 6), round(found.high, 6)],
        }
    return {**line, "seconds": cell.seconds}


def print_tables(terminal: Terminal, lines: Sequence[Line]) -> None:
    """A table for each embedder, and one of the means over all of them."""
    for title, note, head, rows in _tables(lines):
        terminal.line()
        terminal.line(Piece(title, "bold"), f"  {note}")
        columns = [Column(head[0]), *(Column(name, is_number=True) for name in head[1:])]
        terminal.table(columns, rows)


def markdown(lines: Sequence[Line], missing: Sequence[str]) -> str:
    """The same tables, and what could not be judged."""
    parts = ["# NDCG@10 on mteb's tasks\n"]
    for title, note, head, rows in _tables(lines):
        ruled = [head, ["---", *("---:" for _ in head[1:])], *rows]
        table = "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in ruled
        )
        parts.append(f"## {title}\n\n{note}\n\n{table}\n")
    if missing:
        parts.append("## Not judged\n\n" + "\n".join(f"- {each}" for each in missing) + "\n")
    return "\n".join(parts)


Table = tuple[str, str, list[str], list[list[str]]]
"""Title, what it says below, head, rows."""


def _tables(lines: Sequence[Line]) -> list[Table]:
    embedders = list(dict.fromkeys(line["embedder"] for line in lines))
    tables = [_of_embedder([line for line in lines if line["embedder"] == name]) for name in embedders]
    return [*tables, *([_of_means(lines)] if len(embedders) > 1 else [])]


def _of_embedder(lines: Sequence[Line]) -> Table:
    facts, rerankers = lines[0]["embedder_facts"], _rerankers(lines)
    by_system = {(line["task"], line["reranker"]): line for line in lines}
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    rows = [[task, *(_figure(by_system.get((task, name))) for name in (None, *rerankers))] for task in tasks]
    if len(tasks) > 1:
        rows.append([f"mean of {len(tasks)}", *(_mean(lines, name) for name in (None, *rerankers))])
    note = f"by {ENGINES.get(facts['engine'], facts['engine'])}"
    if facts.get("prompts"):
        note += ", with prompts " + ", ".join(f"{kind} {text!r}" for kind, text in facts["prompts"].items())
    return _shown(lines[0]["embedder"]), note, ["task", "alone", *map(_shown, rerankers)], rows


def _of_means(lines: Sequence[Line]) -> Table:
    rerankers, rows = _rerankers(lines), []
    for name in dict.fromkeys(line["embedder"] for line in lines):
        own = [line for line in lines if line["embedder"] == name]
        rows.append([_shown(name), *(_mean(own, reranker) for reranker in (None, *rerankers))])
    rows.append(["mean", *(_mean(lines, reranker) for reranker in (None, *rerankers))])
    tasks, embedders = (len({line[key] for line in lines}) for key in ("task", "embedder"))
    note = f"of {tasks} task{'s' * (tasks > 1)} and {embedders} embedders"
    return "means", note, ["embedder", "alone", *map(_shown, rerankers)], rows


def _rerankers(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line["reranker"] for line in lines if line["reranker"]))


def _figure(line: Line | None) -> str:
    """ "0.5143 +0.0204", with a star where the 95 % interval of the difference has no zero."""
    if line is None:
        return ""
    figure = f"{line['ndcg_at_10']:.4f}"
    if line["reranker"] is None:
        return figure
    low, high = line["minus_first_95"]
    return f"{figure} {line['minus_first']:+.4f}{'*' if low > 0 or high < 0 else ' '}"


def _mean(lines: Sequence[Line], reranker: str | None) -> str:
    own = [line for line in lines if line["reranker"] == reranker]
    if not own:
        return ""
    figure = f"{sum(line['ndcg_at_10'] for line in own) / len(own):.4f}"
    if reranker is None:
        return figure
    return f"{figure} {sum(line['minus_first'] for line in own) / len(own):+.4f} "


def _shown(name: str) -> str:
    return name.removeprefix("local/").removeprefix("runoff/")
