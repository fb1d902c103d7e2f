"""How long one query waits: its 1, 20 or 100 documents of about 160 tokens, tokenised and scored.

Every request has a query and documents of its own. Each engine is a process of its own with the same threads;
for each number of documents they take turns of ten requests, A B C A B C, and all but the one whose turn it is
are stopped; the first request of a turn is for warmth and not counted. ONNX Runtime chooses for each number of
documents whether its threads share a batch or take one each. Milliseconds are medians (p50) and 95th percentiles
(p95), timed inside the process.

An engine that cannot run here is left out, and the output says why. Lines go to benchmarks/results/latency.jsonl
after each shape, in the place of those with the same settings and machine; the plot is
benchmarks/results/latency.svg.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from peer_engines import ENGINES, UnavailableError
from peer_pairs import CAP, MINILM, SHAPES, checkpoint, made_request
from peer_process import Peer, environment_with
from peer_record import (
    Row,
    axes_grid,
    caption,
    chosen,
    circumstances,
    colour,
    for_plot,
    parser_of,
    run,
    save,
    started,
    table,
)

ENGINES_HERE = ("runoff-int8", "runoff-bf16", "runoff-fp32", "runoff-auto", "st-fp32", "ort-int8")
SHAPES_HERE = ("17m", "32m", MINILM)
DOCUMENTS, TOKENS = (1, 20, 100), 160
TURNS, QUICK_TURNS = 3, 1
REQUESTS_A_TURN, QUICK_REQUESTS = 10, 3


def measured(shape: str, options: argparse.Namespace) -> list[Row]:
    """The lines of one shape, one per engine."""
    folder = checkpoint(shape, environment_with(("sentence-transformers", "torch"), options.peers).python)
    names = chosen(options.engines, ENGINES_HERE, ENGINES)
    print(f"{shape}:", flush=True)
    peers = started(names, folder, options, CAP)
    settings = {"shape": shape, "threads": options.threads, "isa": options.isa, "tokens": TOKENS}
    settings |= {"form": "quick" if options.quick else "full"}
    found: dict[str, dict[str, Row]] = {name: {} for name in peers}
    try:
        for documents in DOCUMENTS:
            milliseconds = in_turn(peers, folder, documents, options.quick)
            for name, values in milliseconds.items():
                found[name][str(documents)] = spread(values) | {"how": peers[name].about.get("way")}
        return [
            {
                "benchmark": "latency",
                "settings": {"engine": name, **settings},
                "documents": found[name],
                "about": peer.about,
                **circumstances(peer.versions()),
            }
            for name, peer in peers.items()
        ]
    finally:
        for peer in peers.values():
            peer.close()


def in_turn(peers: dict[str, Peer], folder: object, documents: int, quick: bool) -> dict[str, list[float]]:
    """{engine: milliseconds of each request}; an engine that fails leaves `peers`, and that is said."""
    turns, requests = (QUICK_TURNS, QUICK_REQUESTS) if quick else (TURNS, REQUESTS_A_TURN)
    example = made_request(folder, documents, TOKENS, seed=0)
    milliseconds: dict[str, list[float]] = {}
    for turn in range(turns):
        first = 1 + turn * (requests + 1)
        asked = [made_request(folder, documents, TOKENS, seed) for seed in range(first, first + requests + 1)]
        for name in list(peers):
            try:
                if turn == 0:
                    peers[name].about = peers[name].tune(example)["about"]
                    peers[name].score(example)
                seconds = peers[name].score_each(asked)["seconds"]
            except UnavailableError as error:
                print(f"  dropped: {ENGINES[name].label}: {error}", flush=True)
                peers.pop(name).close()
                milliseconds.pop(name, None)
                continue
            milliseconds.setdefault(name, []).extend(1000 * each for each in seconds[1:])
    return milliseconds


def spread(values: list[float]) -> Row:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2), "requests": len(values)}


def printed(rows: list[Row]) -> str:
    head = ["ms, p50 / p95", *(f"{documents} documents" for documents in DOCUMENTS)]
    body = [
        [
            ENGINES[row["settings"]["engine"]].label,
            *("{p50_ms:.1f} / {p95_ms:.1f}".format(**each) for each in row["documents"].values()),
        ]
        for row in rows
    ]
    return table(head, body)


def draw() -> None:
    """benchmarks/results/latency.svg: a panel per shape, a group of bars per number of documents."""
    rows = for_plot("latency")
    shapes = [shape for shape in SHAPES_HERE if any(row["settings"]["shape"] == shape for row in rows)]
    figure, axes = axes_grid(len(shapes), height=3.6)
    for axis, shape in zip(axes, shapes, strict=True):
        here = [row for row in rows if row["settings"]["shape"] == shape]
        width = 0.8 / len(here)
        for place, row in enumerate(here):
            engine = row["settings"]["engine"]
            medians = [each["p50_ms"] for each in row["documents"].values()]
            tails = [max(each["p95_ms"] - each["p50_ms"], 0.0) for each in row["documents"].values()]
            where = np.arange(len(medians)) + (place - (len(here) - 1) / 2) * width
            shade = 1.0 - 0.18 * (place % 4)
            axis.bar(
                where, medians, width, yerr=[[0.0] * len(tails), tails], label=ENGINES[engine].label,
                color=colour(engine), alpha=shade, error_kw={"lw": 0.8},
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xticks(range(len(DOCUMENTS)), [str(each) for each in DOCUMENTS])
        axis.set_xlabel("documents of a query")
        axis.set_title(shape)
    axes[0].set_ylabel("milliseconds, p50 and p95")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.suptitle(caption(rows[-1]))
    save(figure, "latency")


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
