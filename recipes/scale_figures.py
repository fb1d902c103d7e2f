"""Writes docs/scale.md's table from benchmarks/results/training.jsonl and the published speeds of the H100.

`--check` changes nothing and fails where the table is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- figures: python recipes/scale_figures.py -->", "<!-- /figures -->"

ROWS = 143_000_000
# Pairs a second that each size scores on one H100 (bf16, unpadded), and its published teacher: the release article.
FORWARD = {"17m": 7517, "32m": 6602, "68m": 4913, "150m": 3237, "400m": 1738, "1b": 928}
TEACHER = 387
# A step costs three forwards: one, and twice as much backwards (Kaplan et al., arXiv 2001.08361, section 2.1).
FORWARDS_A_STEP = 3

Row = dict[str, Any]


def results() -> list[Row]:
    path = ROOT / "benchmarks" / "results" / "training.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def hours(rate: float) -> str:
    needed = ROWS / rate / 3600
    return f"{needed:,.0f} h" if needed < 1000 else f"{needed / 24:,.0f} days"


def published() -> str:
    lines = [
        "| size | one H100 | eight H100 |",
        "|---|---:|---:|",
    ]
    for size, rate in FORWARD.items():
        lines.append(f"| {size} | {hours(rate / FORWARDS_A_STEP)} | {hours(8 * rate / FORWARDS_A_STEP)} |")
    lines.append(f"| teacher's scores (mxbai-rerank-large-v2) | {hours(TEACHER)} | {hours(8 * TEACHER)} |")
    return "\n".join(lines)


def measured() -> str:
    lines = [
        "| what | machine | pairs/s | tokens/s | times sentence-transformers | 143M rows |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in results():
        settings = row["settings"]
        if settings.get("engine") != "runoff":
            continue
        machine = row["machine"].get("gpu") or f"{row['machine']['cpu']}, {row['machine']['cores']} cores"
        lines.append(
            f"| {settings['what']} {settings['shape']}, {settings['precision']} | {machine} | "
            f"{row['pairs_per_second']:,.1f} | {row['tokens_per_second']:,} | {row['times_reference']:.2f} | "
            f"{hours(row['pairs_per_second'])} |"
        )
    return "\n".join(lines)


def memory() -> str:
    found = [row for row in results() if row["settings"]["what"] == "memory"]
    return "\n".join(
        f"- {row['settings']['rows']:,} rows: {row['peak_mib']:,} MiB, read and mapped in {row['seconds']:.0f} s."
        for row in found
    )


def page(old: str) -> str:
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE}: expected the comments {BEGIN} and {END}, in this order")
    parts = [
        "## On GPUs: an estimate\n\nNot measured: from the published forward speeds of one H100, three forwards a "
        "step, perfect scaling to eight.\n\n" + published(),
        "## Measured\n\n`python benchmarks/training.py`; pairs with the lengths of natural questions (mean 148 "
        "tokens).\n\n" + measured(),
        "## Memory\n\n`python benchmarks/training.py --memory 1000000`; the most over three steps "
        "of 17m:\n\n" + memory(),
    ]
    return f"{head}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date")
    check_only = parser.parse_args().check
    old = PAGE.read_text("utf-8")
    new = page(old)
    if old != new and check_only:
        print(
            "docs/scale.md: its figures are not those of benchmarks/results; run python recipes/scale_figures.py"
        )
        return 1
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
