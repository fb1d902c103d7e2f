"""Writes docs/gpu.md's tables: what lower precision costs (benchmarks/results/precision.jsonl), and by arithmetic what
limits each size on an H100.

`--check` changes nothing and fails where the page is not what the results and the shapes say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from runoff.bench.pairs import CAP, drawn_lengths  # noqa: E402
from runoff.bench.shapes import ETTIN, named_shape  # noqa: E402

PAGE = ROOT / "docs" / "gpu.md"
PAIRS = 4096
PRODUCTS, MEMORY = 500e12, 3e12
"""FLOP/s that cuBLAS reaches in 16 bits at these widths, of 989 in the data sheet; bytes/s of a copy, of 3,350."""
# Bytes a token and layer, each array once: rows in 16 bits, the residual stream in 32. Products read and write
# H + 3H, H + H, H + 2I and I + H; attention 3H + H; the activation 2I + I; two norms, each the stream and an update in,
# the stream and rows out (4H + 2H + 4H + 2H).
HIDDEN_BYTES, INNER_BYTES = 2 * (4 + 4 + 2 + 1 + 1) + 2 * 12, 2 * (2 + 3 + 1)

Row = dict[str, Any]


def precision() -> str:
    """Formats of the GPU engine against its fp32, on runoff-nano."""
    path = ROOT / "benchmarks" / "results" / "precision.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["settings"].get("engine") == "torch"]
    names = [row["settings"]["precision"] for row in rows if row["settings"]["collection"] == "all"]
    sets = sorted({row["settings"]["collection"] for row in rows} - {"all"})
    lines = [
        "| | Spearman | noise | largest difference | "
        + " | ".join(f"{name} NDCG@10" for name in sets)
        + " |",
        "|---|---:|---:|---:|" + "---:|" * len(sets),
    ]
    by_place = {(row["settings"]["precision"], row["settings"]["collection"]): row for row in rows}
    for name in names:
        together = by_place[name, "all"]
        each = [f"{by_place[name, one]['minus_fp32']:+.4f}" for one in sets]
        lines.append(
            f"| {name} | {together['spearman']:.5f} | {together['noise']:.2%} | {together['largest_difference']:.3g} | "
            + " | ".join(each)
            + " |"
        )
    queries = by_place[names[0], sets[0]]["queries"]
    pairs = by_place[names[0], "all"]["pairs"]
    lines += [
        "",
        f"runoff-nano, {pairs:,} pairs, {queries} queries a collection: enough for the scores, few for NDCG@10, of "
        "which the difference from fp32's is shown. Noise is the spread of the differences over that of the scores.",
    ]
    return "\n".join(lines)


def limits() -> str:
    """Microseconds a pair by products and by memory, and pairs a second if nothing else took time."""
    lengths = np.minimum(drawn_lengths(PAIRS), CAP).astype(float)
    columns = [costs(name, lengths) for name in ETTIN]
    body = [
        ("GFLOP a pair", [f"{flop / 1e9:.2f}" for flop, _ in columns]),
        ("products, µs", [f"{1e6 * flop / PRODUCTS:.1f}" for flop, _ in columns]),
        ("memory, µs", [f"{1e6 * moved / MEMORY:.1f}" for _, moved in columns]),
        (
            "so at most, pairs/s",
            [f"{1 / (flop / PRODUCTS + moved / MEMORY):,.0f}" for flop, moved in columns],
        ),
    ]
    head = "| | " + " | ".join(ETTIN) + " |\n|---|" + "---:|" * len(ETTIN)
    return "\n".join([head, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in body)])


def costs(name: str, lengths: np.ndarray) -> tuple[float, float]:
    """(floating-point operations, bytes) of a mean pair. The last layer counts whole, as the others."""
    shape = named_shape(name)
    assert shape is not None, "Ettin's shapes are in the table"
    token = 2.0 * (4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate)
    seen = [lengths if layer % 3 == 0 else np.minimum(lengths, 129) for layer in range(shape.layers)]
    attention = sum(4.0 * shape.hidden * float((lengths * each).mean()) for each in seen)
    moved = HIDDEN_BYTES * shape.hidden + INNER_BYTES * shape.intermediate
    return float(lengths.mean()) * shape.layers * token + attention, moved * shape.layers * float(
        lengths.mean()
    )


def page(old: str) -> str:
    for name, text in (("precision", precision()), ("limits", limits())):
        begin, end = f"<!-- {name}: python recipes/gpu_figures.py -->", f"<!-- /{name} -->"
        head, found, rest = old.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            sys.exit(f"{PAGE}: expected the comments {begin} and {end}, in this order")
        old = f"{head}{begin}\n{text}\n{end}{tail}"
    return old


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where the page is another")
    options = parser.parse_args()
    old = PAGE.read_text("utf-8")
    new = page(old)
    if options.check:
        print(f"{PAGE.name}: {'as it should be' if new == old else 'run python recipes/gpu_figures.py'}")
        return int(new != old)
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
