"""Lines that `runoff judge` wrote -> the tables of a model's card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runoff.contracts import InputError

Line = Mapping[str, Any]

_NEEDED = (
    *("collection", "system", "model", "weight", "first_stage", "ndcg_at_10", "minus_first_95", "depth"),
    *("queries", "queries_judged", "command", "machine", "date"),
)


def read_figures(paths: Sequence[Path], own: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The lines of the files, each with `is_own`: whether it judges one of the weights `own` (file -> SHA-256).

    Raises `InputError` with file and line for what `runoff judge` did not write, and for files without a line of the
    model that is published: figures of other weights would say nothing about it.
    """
    lines = []
    for path in paths:
        found = list(_lines(path))
        if not any(line.get("weights_sha256") in own for line in found):
            raise InputError(
                f"{path} has no line about the weights that are published. Judge them first: runoff judge SET --model "
                f"RUN/model --out {path.name}"
            )
        lines += [{**line, "is_own": line.get("weights_sha256") in own} for line in found]
    return lines


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Expected what runoff judge --out wrote") from error
    lines = []
    for number, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: not JSON ({error}). Expected what runoff judge --out wrote"
            ) from error
        missing = [name for name in _NEEDED if not isinstance(line, dict) or name not in line]
        if missing:
            raise InputError(
                f"{path}:{number}: expected a line of runoff judge, it lacks {', '.join(missing)}"
            )
        lines.append(line)
    return lines


def figures_table(lines: Sequence[Line], name: str) -> str:
    """NDCG@10 of each set (rows) by each system (columns), with the interval of the difference from the first stage;
    `name` is what the published model is called."""
    own = {line["precision"] for line in lines if line["is_own"] and line["weight"] is None}
    labels = {id(line): _label(line, name, len(own) > 1) for line in lines}
    firsts = [labels[id(line)] for line in lines if line["model"] is None]
    models = [labels[id(line)] for line in lines if line["model"] is not None]
    systems = list(dict.fromkeys([*firsts, *models]))
    cells: dict[str, dict[str, str]] = {}
    for line in lines:
        row = cells.setdefault(line["collection"], {})
        row["queries"] = _queries(line)
        row[labels[id(line)]] = _cell(line)
    table = [
        f"| set | queries | {' | '.join(systems)} |",
        f"|---|---:|{'---:|' * len(systems)}",
        *(
            f"| {collection} | {row['queries']} | {' | '.join(row.get(system, '') for system in systems)} |"
            for collection, row in cells.items()
        ),
    ]
    return "\n".join(table)


def _label(line: Line, name: str, says_precision: bool) -> str:
    first = "BM25" if line["first_stage"] == "bm25" else line["first_stage"]
    if line["model"] is None:
        return str(first)
    model = name if line["is_own"] else str(line["model"])
    if line["is_own"] and says_precision:
        model += f" ({line['precision']})"
    if line["weight"] is None:
        return model
    return f"{first} + {model}" if line["weight"] == 1 else f"{first} + {line['weight']:g} {model}"


def _queries(line: Line) -> str:
    asked, all_of_them = line["queries"], line["queries_judged"]
    return f"{asked:,}" if asked == all_of_them else f"{asked:,} of {all_of_them:,}"


def _cell(line: Line) -> str:
    figure = f"{line['ndcg_at_10']:.4f}"
    if line["model"] is None:
        return figure
    low, high = line["minus_first_95"]
    return f"{figure} [{low:+.3f}, {high:+.3f}]"


def correlations(lines: Sequence[Line]) -> list[str]:
    """A sentence for each other model that the published one's scores were correlated with."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line["is_own"] and line["weight"] is None:
            for other, value in (line.get("spearman") or {}).items():
                if value is not None:
                    found.setdefault(other, []).append(f"{value:.3f} ({line['collection']})")
    return [
        f"Spearman's correlation of its scores with those of `{other}`, within a query: {', '.join(values)}."
        for other, values in found.items()
    ]


def commands(lines: Sequence[Line]) -> list[str]:
    """The commands that gave the figures, each once."""
    return list(dict.fromkeys(str(line["command"]) for line in lines))


def circumstances(lines: Sequence[Line]) -> str:
    """On what machines, when and in what precision the published model was judged."""
    said = [f"{line['precision']}, {line['machine']}, {line['date']}" for line in lines if line["is_own"]]
    return "; ".join(dict.fromkeys(said))
