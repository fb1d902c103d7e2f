"""What length costs: one document of 16 to 8,192 tokens, and batches of such documents of 16,384 tokens in all.

Shapes are 17m (every third layer global) and the same with all layers local, where a token sees 64 others to each
side whatever the length: there the cost of a token should not grow at all. Each engine is a process of its own with
the same threads; at each length they take turns, and all but the one whose turn it is are stopped. Figures are
medians of three turns (more for short single documents) after one for warmth, tokenisation included. "growth" is
how many times longer one document of the longest length takes than one of an eighth of it: 8 is linear.

An engine that cannot run here is left out, and the output says why. Lines go to benchmarks/results/lengths.jsonl
after each shape, in the place of those with the same settings and machine; the plot is
benchmarks/results/lengths.svg.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from peer_engines import ENGINES, UnavailableError
from peer_pairs import ALL_LOCAL, Cutter, checkpoint
from peer_process import Peer, environment_with
from peer_record import (
    Row,
    axes_grid,
    caption,
    chosen,
    circumstances,
    for_plot,
    parser_of,
    run,
    save,
    started,
    table,
)

ENGINES_HERE = ("runoff-int8", "runoff-bf16", "runoff-fp32", "st-fp32")
SHAPES_HERE = ("17m", ALL_LOCAL)
LENGTHS, QUICK_LENGTHS = [2**power for power in range(4, 14)], [2**power for power in range(4, 11)]
TOTAL, QUICK_TOTAL = 16_384, 2_048
TURNS, QUICK_TURNS = 3, 1
SINGLES_OF_TOKENS = 4096  # short single documents are repeated up to so many tokens a turn, 16 times at most
COLOURS = {"runoff-int8": "#c2410c", "runoff-bf16": "#ea8a4f", "runoff-fp32": "#b45309"}


def measured(shape: str, options: argparse.Namespace) -> list[Row]:
    """The lines of one shape, one per engine."""
    folder = checkpoint(shape, environment_with(("sentence-transformers", "torch"), options.peers).python)
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    total = QUICK_TOTAL if options.quick else TOTAL
    print(f"{shape}:", flush=True)
    peers = started(chosen(options.engines, ENGINES_HERE, ENGINES), folder, options, lengths[-1])
    points: dict[str, list[Row]] = {name: [] for name in peers}
    try:
        for length in lengths:
            for name, point in at_length(peers, folder, length, total, options.quick).items():
                points[name].append(point)
        settings = {"shape": shape, "threads": options.threads, "isa": options.isa, "total_tokens": total}
        settings |= {"form": "quick" if options.quick else "full"}
        return [
            {
                "benchmark": "lengths",
                "settings": {"engine": name, **settings},
                "growth": growth(points[name]),
                "points": points[name],
                "about": peer.about,
                **circumstances(peer.versions()),
            }
            for name, peer in peers.items()
        ]
    finally:
        for peer in peers.values():
            peer.close()


def at_length(peers: dict[str, Peer], folder: Path, length: int, total: int, quick: bool) -> dict[str, Row]:
    """{engine: the figures at one length}; an engine that fails leaves `peers`, and that is said."""
    generator = np.random.default_rng(length)
    cutter = Cutter(folder)
    singles = [
        [cutter.pair(length, generator)] for _ in range(min(16, max(1, SINGLES_OF_TOKENS // length)) + 1)
    ]
    batch = [cutter.pair(length, generator) for _ in range(total // length)]
    single_times: dict[str, list[float]] = {name: [] for name in peers}
    batch_times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range((QUICK_TURNS if quick else TURNS) + 1):
        for name in list(peers):
            try:
                alone = peers[name].score_each(singles)["seconds"]
                together = peers[name].score(batch)["seconds"]
            except UnavailableError as error:
                print(f"  dropped at {length} tokens: {ENGINES[name].label}: {error}", flush=True)
                peers.pop(name).close()
                continue
            if turn:
                single_times[name] += alone[1:]
                batch_times[name].append(together)
    return {name: figures(length, len(batch), single_times[name], batch_times[name]) for name in peers}


def figures(length: int, pairs: int, alone: list[float], together: list[float]) -> Row:
    single, batch = statistics.median(alone), statistics.median(together)
    return {
        "tokens": length,
        "single_ms": round(1000 * single, 3),
        "single_tokens_a_second": round(length / single),
        "batch_pairs": pairs,
        "batch_seconds": round(batch, 4),
        "batch_tokens_a_second": round(pairs * length / batch),
    }


def growth(points: list[Row]) -> float | None:
    """Time of the longest single document over that of one of an eighth of its length."""
    by_length = {point["tokens"]: point["single_ms"] for point in points}
    longest = max(by_length, default=0)
    return round(by_length[longest] / by_length[longest // 8], 2) if longest // 8 in by_length else None


def printed(rows: list[Row]) -> str:
    head = ["ms alone (ktok/s in batches)", *(str(point["tokens"]) for point in rows[0]["points"]), "growth"]
    body = [
        [
            ENGINES[row["settings"]["engine"]].label,
            *(
                f"{point['single_ms']:.3g} ({point['batch_tokens_a_second'] / 1e3:.3g})"
                for point in row["points"]
            ),
            str(row["growth"]),
        ]
        for row in rows
    ]
    return table(head, body)


def draw() -> None:
    """benchmarks/results/lengths.svg: time of one document, and tokens a second in batches, over the length."""
    rows = for_plot("lengths")
    figure, (left, right) = axes_grid(2, height=3.8, width=5.0)
    for row in rows:
        engine, is_local = row["settings"]["engine"], row["settings"]["shape"] == ALL_LOCAL
        style: dict[str, Any] = {"color": COLOURS.get(engine, "#475569"), "ls": "--" if is_local else "-"}
        label = ENGINES[engine].label + (", all layers local" if is_local else "")
        lengths = [point["tokens"] for point in row["points"]]
        left.plot(lengths, [point["single_ms"] for point in row["points"]], label=label, **style)
        rates = [point["batch_tokens_a_second"] for point in row["points"]]
        right.plot(lengths, rates, label=label, **style)
    for axis, title in ((left, "milliseconds, one document"), (right, "tokens a second, batches")):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("tokens of a document")
        axis.set_ylabel(title)
        axis.grid(alpha=0.25)
    left.legend(fontsize=7, frameon=False)
    figure.suptitle(f"17m on {caption(rows[-1])}")
    save(figure, "lengths")


def main() -> int:
    """Measures, or only draws; exit code 1 where nothing could be measured."""
    options = parser_of(__doc__ or "", ENGINES_HERE, SHAPES_HERE).parse_args()
    if options.plot:
        draw()
        return 0
    shapes = chosen(options.shapes, SHAPES_HERE, SHAPES_HERE)
    return run(__file__, options, shapes, measured, printed)


if __name__ == "__main__":
    sys.exit(main())
