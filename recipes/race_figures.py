"""README's tables of `runoff race`: throughput, one query, and what length, documents and threads cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TOKENS = 160  # of a document in `runoff race --latency`

Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """The lines of one result file."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def table(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table; every column but the first is numbers."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def machine_of(row: Row) -> str:
    machine = row["machine"]
    return machine if isinstance(machine, str) else f"{machine['cpu']}, {machine['cores']} cores"


def full_rows(name: str, isa: str | None = "") -> list[Row]:
    """The full lines of the machine measured last, by the instruction set that it would choose (None: any)."""
    return full_of(rows(name), isa)


def full_of(found: list[Row], isa: str | None = "") -> list[Row]:
    """Of some lines those that `full_rows` would take."""
    full = [row for row in found if row["settings"]["form"] == "full"]
    full = [row for row in full if row["machine"] == full[-1]["machine"]]
    return full if isa is None else [row for row in full if not row["settings"]["isa"]]


def raced(kind: str, before: str) -> tuple[list[Row], str]:
    """The lines of `runoff race` on a CPU, or as long as there are none those that an earlier script left; and by what
    command they came about."""
    file = "race_cpu" + (f"_{kind}" if kind else "")
    option = {"latency": " --latency", "growth_length": " --growth length"}.get(kind, "")
    if (RESULTS / f"{file}.jsonl").is_file():
        return [named(row) for row in rows(file) if "left_out" not in row], f"`runoff race{option}`"
    return [named(row) for row in rows(before)], f"measured before there was `runoff race{option}`"


def named(row: Row) -> Row:
    """The line with its model under the name that the tables use."""
    settings = row["settings"]
    return {**row, "settings": {**settings, "shape": settings.get("model", settings.get("shape"))}}


def engines() -> str:
    """Pairs a second of every engine on every shape, a table for each machine, the newest first."""
    found, command = raced("", "engines")
    full = [row for row in found if row["settings"]["form"] == "full" and not row["settings"]["isa"]]
    machines: dict[str, list[Row]] = {}
    for row in reversed(full):
        machines.setdefault(json.dumps(row["machine"], sort_keys=True), []).insert(0, row)
    tables = [engines_of(lines, command) for lines in machines.values()]
    return "### Fast on a CPU: all engines\n\n" + "\n\n".join(tables)


def engines_of(full: list[Row], command: str) -> str:
    """The table of one machine."""
    order = ["17m", "32m", "68m", "150m", "400m", "1b", "MiniLM-L4", "MiniLM-L6", "MiniLM-L12"]
    shapes = [shape for shape in order if any(row["settings"]["shape"] == shape for row in full)]
    names = list(dict.fromkeys(row["settings"]["engine"] for row in full))
    found = {(row["settings"]["engine"], row["settings"]["shape"]): row for row in full}
    body = []
    for name in sorted(names, key=lambda name: (not name.startswith("runoff"), name)):
        line = [name]
        for shape in shapes:
            row, base = found.get((name, shape)), found.get(("st-fp32", shape))
            if row is None:
                line.append("")
                continue
            times = row.get("times_default") or (base and row["pairs_a_second"] / base["pairs_a_second"])
            line.append(f"{row['pairs_a_second']:.1f}" + (f" ({times:.1f}x)" if times else ""))
        body.append(line)
    first = full[0]
    pairs = {shape: row["settings"]["pairs"] for (_, shape), row in found.items()}
    counts = ", ".join(f"{pairs[shape]} of {shape}" for shape in shapes)
    sets = ", ".join(first["machine"].get("instruction_sets", []))
    return (
        "Pairs a second, tokenisation included, and times sentence-transformers in fp32"
        f": pairs ({counts}) with the length mix of natural-questions "
        f"(mean {first['mean_tokens']:.0f} tokens, median {first['median_tokens']:.0f}, at most "
        f"{first['settings']['max_length']}), random weights, median of three passes taken in turn, on "
        f"{machine_of(first)} ({sets}): {command}\n\n" + table(["engine", *shapes], body)
    )


def one_query() -> str:
    """How long one query waits, what a process weighs, and how soon it answers."""
    found, command = raced("latency", "latency")
    latest = full_of(found)
    waits = {(row["settings"]["shape"], row["settings"]["engine"]): row["documents"] for row in latest}
    counts = list(next(iter(waits.values())))
    body = [
        [f"{shape}, {name}", *(f"{line[n]['p50_ms']:.0f} / {line[n]['p95_ms']:.0f}" for n in counts)]
        for (shape, name), line in waits.items()
    ]
    starts = full_rows("footprint")
    weights = [
        [
            f"{row['settings']['shape']}, {row['settings']['engine']}",
            f"{row['seconds_to_first_score']:.2f}",
            f"{row['seconds_to_first_score'] - row['parts_seconds']['start']:.2f}",
            f"{row['loaded_mib']:.0f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in starts
    ]
    return (
        f"### One query, one process\n\nMilliseconds at p50 / p95 with 1, 20 or 100 documents of {TOKENS} tokens, on "
        f"{machine_of(latest[0])}: {command}\n\n"
        + table(["shape, engine", *(f"{n} document" + ("s" if n != "1" else "") for n in counts)], body)
        + "\n\nSeconds from starting Python to the first score (and without Python's own start), and resident memory "
        f"in MiB when loaded and at its highest over {starts[0]['settings']['pairs']} pairs: "
        "`python benchmarks/footprint.py`\n\n"
        + table(["shape, engine", "first score", "without start", "loaded", "highest"], weights)
    )


def lengths() -> str:
    lines, command = raced("growth_length", "lengths")
    found = [row for row in full_of(lines) if row["settings"]["engine"].startswith("runoff")]
    shown = [point["tokens"] for point in found[0]["points"]][::3]
    body = []
    for row in found:
        points = {point["tokens"]: point["single_ms"] for point in row["points"]}
        cells = [
            f"{points[tokens]:,.0f}" if points[tokens] >= 100 else f"{points[tokens]:.3g}" for tokens in shown
        ]
        body.append([f"{row['settings']['shape']}, {row['settings']['engine']}", *cells, f"{row['growth']}"])
    return (
        "### What length costs\n\nMilliseconds for one document; growth is the time of the longest over that of an "
        f"eighth of it (8 is linear): {command}\n\n"
        + table(["shape, engine", *(f"{tokens:,} tokens" for tokens in shown), "growth"], body)
    )


def growths() -> str:
    """What more documents cost and what more threads give; nothing where that was not measured."""
    parts = []
    for along, step, value, what in (
        (
            "documents",
            "documents",
            "ms",
            "Milliseconds of one query with so many documents of about 160 tokens",
        ),
        ("threads", "threads", "pairs_a_second", "Pairs a second with so many threads"),
    ):
        if not (RESULTS / f"race_cpu_growth_{along}.jsonl").is_file():
            continue
        found = full_of(rows(f"race_cpu_growth_{along}"))
        steps = list(dict.fromkeys(point[step] for row in found for point in row["points"]))
        body = []
        for row in found:
            values = {point[step]: point[value] for point in row["points"]}
            cells = [f"{values[each]:,.4g}" if each in values else "" for each in steps]
            body.append([f"{row['settings']['model']}, {row['settings']['engine']}", *cells])
        head = ["model, engine", *(f"{each:,}" for each in steps)]
        parts.append(
            f"{what}, on {machine_of(found[0])}: `runoff race --growth {along}`\n\n{table(head, body)}"
        )
    return "\n\n".join(["### What documents and threads cost", *parts]) if parts else ""
