"""Pairs a second of Runoff and of everything else that runs rerankers on a CPU, in turn, in one run.

Shapes are Ettin's and MiniLM-L6's with random weights; pairs have the lengths of natural questions (mean 148
tokens, median 112, capped at 512) and are tokenised inside the timed pass. Each engine is a process of its own
with the same threads; they take turns A B C A B C, and all but the one whose turn it is are stopped. "pairs/s" is
the median of three such passes after one for warmth over a few pairs. The runtimes used directly (ort-*, openvino-*)
choose their batches and their threading for themselves, on other pairs, before the first pass.

x default   pairs/s over those of sentence-transformers as it comes (fp32, batches of 32), of the same run
x best      pairs/s over those of the fastest engine that is not Runoff, of the same run
Spearman    correlation of the scores with those of sentence-transformers in fp32, over all pairs
max diff    the largest difference from them

An engine that cannot run here is left out, and the output says why; python benchmarks/peer_setup.py installs
what is missing. Lines go to benchmarks/results/engines.jsonl after each shape, in the place of those with the same
settings and machine; the plot is benchmarks/results/engines.svg.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from peer_engines import BASELINE, ENGINES, TUNING_PAIRS, UnavailableError, is_ours
from peer_pairs import CAP, SHAPES, checkpoint, described, made_pairs, token_counts
from peer_process import Peer, environment_with
from peer_record import (
    Row,
    agreement,
    axes_grid,
    caption,
    chosen,
    circumstances,
    colour,
    for_plot,
    parser_of,
    run,
    save,
    shown,
    started,
    table,
)

PASSES = 3
QUICK = ("runoff-int8", "runoff-bf16", "runoff-fp32", "st-fp32", "ort-int8")
# The larger shapes take fewer pairs of the same lengths: a pass of the slowest engine stays under two minutes.
PAIRS = {"68m": 256, "150m": 128}
DEFAULT_PAIRS, QUICK_PAIRS = 512, 32
ONLY_ON = {"runoff-reference": "17m"}


def measured(shape: str, options: argparse.Namespace) -> list[Row]:
    """The lines of one shape, one per engine."""
    folder = checkpoint(shape, environment_with(("sentence-transformers", "torch"), options.peers).python)
    form = "quick" if options.quick else "full"
    count = options.pairs or (QUICK_PAIRS if options.quick else PAIRS.get(shape, DEFAULT_PAIRS))
    pairs = made_pairs(folder, count)
    lengths = described(token_counts(folder, pairs))
    print(f"{shape}: {count} pairs, {lengths['tokens']:,} tokens", flush=True)
    names = chosen(options.engines, QUICK if options.quick else tuple(ENGINES), ENGINES)
    if not options.engines:
        names = [name for name in names if ONLY_ON.get(name, shape) == shape]
    peers = started(names, folder, options, CAP)
    try:
        found = taken_in_turn(peers, pairs, made_pairs(folder, TUNING_PAIRS, seed=2))
        rates = {name: count / statistics.median(each["seconds"]) for name, each in found.items()}
        base = found.get(BASELINE, {}).get("scores")
        settings = {"shape": shape, "max_length": CAP, "threads": options.threads, "isa": options.isa}
        return [
            {
                "benchmark": "engines",
                "settings": {"engine": name, **settings, "pairs": count, "form": form},
                **lengths,
                **figures(name, rates),
                **agreement(found[name]["scores"], base),
                "seconds": [round(each, 3) for each in found[name]["seconds"]],
                "peak_mib": found[name]["peak_mib"],
                "about": peers[name].about,
                **circumstances(peers[name].versions()),
            }
            for name in found
        ]
    finally:
        for peer in peers.values():
            peer.close()


def taken_in_turn(peers: dict[str, Peer], pairs: list[Any], warmth: list[Any]) -> dict[str, Row]:
    """{engine: {"seconds" of each pass, "scores", "peak_mib"}}; one that fails drops out and is said so."""
    found: dict[str, Row] = {}
    for turn in range(PASSES + 1):
        for name in list(peers):
            try:
                if turn == 0:
                    peers[name].about = peers[name].tune(warmth)["about"]
                answer = peers[name].score(pairs if turn else warmth)
            except UnavailableError as error:
                print(f"  dropped: {ENGINES[name].label}: {error}", flush=True)
                peers.pop(name).close()
                found.pop(name, None)
                continue
            if turn:
                kept = found.setdefault(name, {"seconds": [], "scores": answer["scores"]})
                kept["seconds"].append(answer["seconds"])
                kept["peak_mib"] = answer["peak_mib"]
    return found


def figures(name: str, rates: dict[str, float]) -> Row:
    """Pairs a second, over the baseline's and over the best other engine's."""
    others = {other: rate for other, rate in rates.items() if not is_ours(other) and other != name}
    best = max(others, key=lambda other: others[other], default=None)
    rate = rates[name]
    return {
        "pairs_a_second": round(rate, 2),
        "times_default": round(rate / rates[BASELINE], 3) if BASELINE in rates else None,
        "times_best_other": round(rate / others[best], 3) if best else None,
        "best_other": best,
    }


def printed(rows: list[Row]) -> str:
    head = ["engine", "pairs/s", "x default", "x best", "Spearman", "max diff", "peak MiB", "how"]
    body = [
        [
            ENGINES[row["settings"]["engine"]].label,
            f"{row['pairs_a_second']:.1f}",
            shown(row["times_default"]),
            shown(row["times_best_other"]),
            shown(row["spearman"], ".4f"),
            shown(row["max_difference"], ".2g"),
            shown(row["peak_mib"], ".0f"),
            how(row["about"]),
        ]
        for row in sorted(rows, key=lambda row: -row["pairs_a_second"])
    ]
    return table(head, body)


def how(about: dict[str, Any]) -> str:
    """What an engine chose, in a few words."""
    if "way" in about:
        batch = about.get("token_budget")
        return f"{about['way']}, {f'{batch} tokens' if batch else '{pairs_a_batch} pairs'.format(**about)}"
    return about.get("engine", "") + (f" {about['precision']}" if "precision" in about else "")


def draw() -> None:
    """benchmarks/results/engines.svg: a panel per shape, the fastest engine on top."""
    rows = for_plot("engines")
    shapes = [shape for shape in SHAPES if any(row["settings"]["shape"] == shape for row in rows)]
    figure, axes = axes_grid(len(shapes), height=4.6, width=4.4)
    for axis, shape in zip(axes, shapes, strict=True):
        chosen_rows = sorted(
            (row for row in rows if row["settings"]["shape"] == shape),
            key=lambda row: row["pairs_a_second"],
        )
        names = [row["settings"]["engine"] for row in chosen_rows]
        rates = [row["pairs_a_second"] for row in chosen_rows]
        bars = axis.barh(
            [ENGINES[name].label for name in names], rates, color=[colour(name) for name in names]
        )
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates], padding=3)
        axis.set_title(shape)
        axis.set_xlabel("pairs a second")
        axis.margins(x=0.15)
    figure.suptitle(caption(rows[-1]))
    save(figure, "engines")


def main() -> int:
    """Measures, or only draws; exit code 1 where nothing could be measured."""
    parser = parser_of(__doc__ or "", tuple(ENGINES), SHAPES)
    parser.add_argument("--pairs", type=int, help=f"pairs (default: {DEFAULT_PAIRS}; fewer for {PAIRS})")
    options = parser.parse_args()
    if options.plot:
        draw()
        return 0
    shapes = chosen(options.shapes, SHAPES[:1] if options.quick else SHAPES, SHAPES)
    return run(__file__, options, shapes, measured, printed)


if __name__ == "__main__":
    sys.exit(main())
