"""What a process that reranks weighs, and how soon it answers: memory, and seconds to the first score.

A fresh process per run and engine, in turn A B C A B C. "to first score" is all of it, from starting Python to one
pair scored, and its parts: Python's start, imports, loading the checkpoint, the first score; the median of five runs,
files being in the page cache. "peak" is the highest resident set (VmHWM) of a process that then scores 512
pairs of natural-questions-like lengths at its defaults, weights mapped from files included; before that it is
"loaded". Nothing is tuned, and making exports for other runtimes is not counted.

An engine that cannot run here is left out, and the output says why. Lines go to benchmarks/results/footprint.jsonl
after each shape, in the place of those with the same settings and machine; the plot is
benchmarks/results/footprint.svg.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from peer_record import (
    SHAPES,
    Row,
    axes_grid,
    caption,
    checkpoint,
    chosen,
    circumstances,
    for_plot,
    parser_of,
    places,
    run,
    save,
    shown,
    table,
)
from runoff.bench.pairs import CAP, made_pairs
from runoff.bench.plots import colour
from runoff.bench.process import Peer
from runoff.bench.specs import ENGINES, Settings, UnavailableError

ENGINES_HERE = (
    "runoff-int8",
    "runoff-bf16",
    "runoff-fp32",
    "runoff-auto",
    "st-fp32",
    "st-onnx",
    "st-openvino",
    "ort-fp32",
    "ort-int8",
    "openvino-fp32",
    "openvino-int8",
)
QUICK_ENGINES = ("runoff-int8", "runoff-bf16", "runoff-fp32", "st-fp32", "ort-int8")
SHAPES_HERE = ("17m", "32m", "MiniLM-L6")
RUNS, QUICK_RUNS = 5, 1
PAIRS, QUICK_PAIRS = 512, 32
PARTS = ("start", "import", "load", "first_score")


def measured(shape: str, options: argparse.Namespace) -> list[Row]:
    """The lines of one shape, one per engine."""
    folder = checkpoint(shape)
    names = chosen(options.engines, QUICK_ENGINES if options.quick else ENGINES_HERE, ENGINES)
    runs, count = (QUICK_RUNS, QUICK_PAIRS) if options.quick else (RUNS, PAIRS)
    pairs = made_pairs(folder, count)
    print(f"{shape}:", flush=True)
    found: dict[str, list[Row]] = {}
    for turn in range(runs):
        for name in list(names):
            try:
                row = one_run(name, folder, options, pairs, turn == runs - 1)
            except UnavailableError as error:
                print(f"  left out: {ENGINES[name].label}: {error}", flush=True)
                names.remove(name)
                found.pop(name, None)
                continue
            found.setdefault(name, []).append(row)
    settings = {"shape": shape, "threads": options.threads, "isa": options.isa, "pairs": count}
    settings |= {"form": "quick" if options.quick else "full", "runs": runs}
    return [
        {
            "benchmark": "footprint",
            "settings": {"engine": name, **settings},
            "seconds_to_first_score": median_of(each["total"] for each in rows),
            "parts_seconds": {part: median_of(each[part] for each in rows) for part in PARTS},
            "loaded_mib": median_of((each["loaded_mib"] for each in rows), 1),
            "peak_mib": rows[-1]["peak_mib"],
            "about": rows[-1]["about"],
            **circumstances(rows[-1]["versions"]),
        }
        for name, rows in found.items()
    ]


def one_run(name: str, folder: Path, options: argparse.Namespace, pairs: list[Any], is_last: bool) -> Row:
    """A fresh process up to its first score, and on the last run through all pairs."""
    settings = Settings(options.threads, CAP)
    with Peer(name, folder, settings, places(options), isa=options.isa) as peer:
        loaded = peer.load()
        peer.keep("one", pairs[:1])
        first = peer.score("one")
        total = time.perf_counter() - peer.began
        parts = [loaded["import_seconds"], loaded["load_seconds"], first["seconds"]]
        row = {"total": total, **dict(zip(PARTS, [total - sum(parts), *parts], strict=True))}
        row |= {"loaded_mib": first["peak_mib"], "about": loaded["about"], "versions": peer.versions()}
        if not is_last:
            return row | {"peak_mib": None}
        peer.keep("all", pairs)
        return row | {"peak_mib": peer.score("all")["peak_mib"]}


def median_of(values: Any, digits: int = 3) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if known else None


def printed(rows: list[Row]) -> str:
    head = ["engine", "to first score, s", *PARTS, "loaded MiB", "peak MiB"]
    body = [
        [
            ENGINES[row["settings"]["engine"]].label,
            f"{row['seconds_to_first_score']:.2f}",
            *(f"{row['parts_seconds'][part]:.2f}" for part in PARTS),
            shown(row["loaded_mib"], ".0f"),
            shown(row["peak_mib"], ".0f"),
        ]
        for row in rows
    ]
    return table(head, body)


def draw() -> None:
    """benchmarks/results/footprint.svg: peak memory and seconds to the first score of one shape."""
    rows = for_plot("footprint")
    shape = rows[0]["settings"]["shape"]
    rows = [row for row in rows if row["settings"]["shape"] == shape][::-1]
    names = [row["settings"]["engine"] for row in rows]
    figure, axes = axes_grid(2, height=3.4)
    shown_values = (
        ("peak memory, MiB", [row["peak_mib"] or 0 for row in rows], ".0f"),
        ("seconds to the first score", [row["seconds_to_first_score"] for row in rows], ".2f"),
    )
    for axis, (title, values, form) in zip(axes, shown_values, strict=True):
        bars = axis.barh(
            [ENGINES[name].label for name in names], values, color=[colour(name) for name in names]
        )
        axis.bar_label(bars, [f"{value:{form}}" for value in values], padding=3)
        axis.set_xlabel(title)
        axis.margins(x=0.15)
    figure.suptitle(f"{shape} on {caption(rows[-1])}")
    save(figure, "footprint")


def main() -> int:
    """Measures, or only draws; exit code 1 where nothing could be measured."""
    options = parser_of(__doc__ or "", ENGINES_HERE, SHAPES_HERE).parse_args()
    if options.plot:
        draw()
        return 0
    shapes = chosen(options.shapes, SHAPES_HERE[:1] if options.quick else SHAPES_HERE, SHAPES)
    return run(__file__, options, shapes, measured, printed)


if __name__ == "__main__":
    sys.exit(main())
