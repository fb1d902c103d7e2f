"""The pictures of result lines, as SVG by matplotlib (extra `eval`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runoff.bench.record import Row
from runoff.bench.specs import BASELINE, ENGINES, is_ours
from runoff.bench.tables import machine, models_of
from runoff.contracts import MissingExtraError
from runoff.data.atomic import new_file

OURS, OTHERS, BASE = "#c2410c", "#94a3b8", "#475569"
"""Colours: Runoff, the other engines, sentence-transformers in fp32."""
SHADES = {"runoff-int8": "#c2410c", "runoff-bf16": "#ea8a4f", "runoff-fp32": "#b45309"}
COLUMNS = 4

_SETS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimd")
"""Instruction sets that a caption names, the first that a processor has."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the lines of one kind to `path`; `MissingExtraError` without matplotlib."""
    kind = rows[0]["benchmark"]
    drawn = [row for row in rows if "left_out" not in row]
    if drawn:
        _save(_DRAWN[kind](drawn), path)


def panels(count: int, *, height: float, width: float, columns: int = COLUMNS) -> tuple[Any, list[Any]]:
    """(figure, axes) of so many panels in rows, drawn without a display."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'runoff[eval]'") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "runoff"
    matplotlib.rcParams["font.size"] = 9
    from matplotlib import pyplot

    across = min(count, columns)
    down = -(-count // across)
    figure, grid = pyplot.subplots(
        down, across, figsize=(width * across, height * down), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    for each in axes[count:]:
        each.set_visible(False)
    return figure, axes[:count]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as draft:
        figure.savefig(draft, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def colour(engine: str) -> str:
    return OURS if is_ours(engine) else BASE if engine == BASELINE else OTHERS


def caption(row: Row) -> str:
    """Machine, threads and instruction set of a line."""
    settings = row["settings"]
    if settings.get("device", "cpu") != "cpu":
        return machine(row)
    sets = row["machine"].get("instruction_sets", ())
    used = settings.get("isa") or next((name for name in _SETS if name in sets), "")
    return f"{row['machine']['cpu']}, {settings['threads']} threads, {used}".rstrip(", ")


def _race(rows: Sequence[Row]) -> Any:
    """A panel for each model, the fastest engine on top."""
    models = models_of(rows)
    most = max(sum(row["settings"]["model"] == model for row in rows) for model in models)
    figure, axes = panels(len(models), height=1.0 + 0.24 * most, width=4.4)
    for axis, model in zip(axes, models, strict=True):
        here = sorted(
            (row for row in rows if row["settings"]["model"] == model), key=lambda row: row["pairs_a_second"]
        )
        names = [row["settings"]["engine"] for row in here]
        rates = [row["pairs_a_second"] for row in here]
        errors = [
            [rate - row["timed_pairs"] / max(row["seconds"]) for row, rate in zip(here, rates, strict=True)]
        ]
        errors.append(
            [row["timed_pairs"] / min(row["seconds"]) - rate for row, rate in zip(here, rates, strict=True)]
        )
        bars = axis.barh(
            [ENGINES[name].label for name in names],
            rates,
            xerr=np.maximum(errors, 0.0),
            color=[colour(name) for name in names],
            error_kw={"lw": 0.8, "ecolor": "#1f2937"},
        )
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates], padding=4)
        axis.set_title(model)
        axis.set_xlabel("pairs a second")
        axis.margins(x=0.18)
    figure.suptitle(caption(rows[-1]))
    return figure


def _latency(rows: Sequence[Row]) -> Any:
    """A panel for each model, a group of bars for each number of documents."""
    models = models_of(rows)
    figure, axes = panels(len(models), height=3.6, width=4.2)
    for axis, model in zip(axes, models, strict=True):
        here = [row for row in rows if row["settings"]["model"] == model]
        counts = list(here[0]["documents"])
        width = 0.8 / len(here)
        for place, row in enumerate(here):
            engine, found = row["settings"]["engine"], [row["documents"][count] for count in counts]
            medians = [each["p50_ms"] for each in found]
            tails = [max(each["p95_ms"] - each["p50_ms"], 0.0) for each in found]
            where = np.arange(len(medians)) + (place - (len(here) - 1) / 2) * width
            axis.bar(
                where, medians, width, yerr=[[0.0] * len(tails), tails], label=ENGINES[engine].label,
                color=colour(engine), alpha=1.0 - 0.18 * (place % 4), error_kw={"lw": 0.8},
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xticks(range(len(counts)), counts)
        axis.set_xlabel("documents of a query")
        axis.set_title(model)
    axes[0].set_ylabel("milliseconds, p50 and p95")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.suptitle(caption(rows[-1]))
    return figure


def _growth(rows: Sequence[Row]) -> Any:
    along = rows[0]["settings"]["along"]
    figure, axes = panels(len(_CURVES[along]), height=3.8, width=5.0)
    models = models_of(rows)
    styles = dict(zip(models, ["-", "--", ":", "-."] * len(models), strict=False))
    for axis, (x, y, title) in zip(axes, _CURVES[along], strict=True):
        for row in rows:
            engine, model = row["settings"]["engine"], row["settings"]["model"]
            axis.plot(
                [point[x] for point in row["points"]],
                [point[y] for point in row["points"]],
                color=SHADES.get(engine, colour(engine)),
                ls=styles[model],
                marker="o",
                ms=3,
                label=f"{ENGINES[engine].label}, {model}",
            )
        axis.set_xlabel(_AXES[along])
        axis.set_ylabel(title)
        axis.grid(alpha=0.25)
        steps = sorted({point[x] for row in rows for point in row["points"]})
        if along == "threads":
            axis.set_ylim(bottom=0)
        else:
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.minorticks_off()
        axis.set_xticks(steps, [f"{step:,}" for step in steps], fontsize=7)
    axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(caption(rows[-1]))
    return figure


_AXES = {"length": "tokens of a document", "documents": "documents of a query", "threads": "threads"}
_CURVES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "length": (
        ("tokens", "single_ms", "milliseconds, one document"),
        ("tokens", "batch_tokens_a_second", "tokens a second, batches"),
    ),
    "documents": (("documents", "ms", "milliseconds, one query"),),
    "threads": (("threads", "pairs_a_second", "pairs a second"),),
}
_DRAWN: Mapping[str, Callable[[Sequence[Row]], Any]] = {"race": _race, "latency": _latency, "growth": _growth}
