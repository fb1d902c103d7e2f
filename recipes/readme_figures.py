"""Writes README's figures from benchmarks/results: the part between its two `figures` comments.

`--check` changes nothing and fails where that part is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: python recipes/readme_figures.py -->", "<!-- /figures -->"

Row = dict[str, Any]

STAGES = ("retrieve", "rerank", "total")
TOKENS = 160  # of a document in benchmarks/latency.py


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
    full = [row for row in rows(name) if row["settings"]["form"] == "full"]
    full = [row for row in full if row["machine"] == full[-1]["machine"]]
    return full if isa is None else [row for row in full if not row["settings"]["isa"]]


def parity() -> str:
    full = [row for row in rows("parity") if row["settings"]["form"] == "full"]
    body = [
        [
            row["checkpoint"],
            f"{row['inputs']:,}",
            f"{row['tokens'][0]} to {row['tokens'][1]:,}",
            f"{row['max_difference']:.1e}",
            "same" if row["same_order"] else "differs",
        ]
        for row in full
    ]
    head = ["checkpoint", "texts or pairs", "tokens", "largest difference", "order"]
    return (
        "### How exact\n\nAgainst sentence-transformers "
        f"{full[0]['versions']['sentence-transformers']} in fp32: random weights in the true shapes (scores spread "
        "over about 20 units), and the real all-MiniLM-L6-v2. `python benchmarks/parity.py`\n\n"
        + table(head, body)
    )


def nano() -> str:
    sets: dict[str, dict[str, Row]] = {}
    for row in rows("runoff_nano"):
        kind = "first" if row["model"] is None else "alone" if row["weight"] is None else "both"
        sets.setdefault(row["collection"], {})[kind] = row
    body = []
    for collection, systems in sets.items():
        line = [collection, f"{systems['first']['ndcg_at_10']:.3f}"]
        for kind in ("alone", "both"):
            low, high = systems[kind]["minus_first_95"]
            line.append(f"{systems[kind]['ndcg_at_10']:.3f} ({low:+.3f} to {high:+.3f})")
        body.append([*line, str(systems["first"]["queries"])])
    head = [
        "NDCG@10 of BM25's top 100",
        "BM25",
        "runoff-nano (minus BM25, 95 %)",
        "both, z-scores added",
        "queries",
    ]
    return (
        "### runoff-nano\n\n`runoff judge COLLECTION... --model runoff-nano`, on collections it never saw\n\n"
        + table(head, body)
    )


def fidelity() -> str:
    """A student of half the layers beside its teacher."""
    sets: dict[str, dict[str, Row]] = {}
    for row in rows("half"):
        if row["weight"] is None:
            kind = "bm25" if row["model"] is None else "student" if "half" in row["model"] else "teacher"
            sets.setdefault(row["collection"], {})[kind] = row
    body = []
    for collection, systems in sets.items():
        scores = [systems[kind]["ndcg_at_10"] for kind in ("bm25", "teacher", "student")]
        spearman = next(iter(systems["student"]["spearman"].values()))
        shares = [f"{scores[2] / scores[1]:.3f}", f"{spearman:.3f}", str(systems["bm25"]["queries"])]
        body.append([collection, *(f"{score:.3f}" for score in scores), *shares])
    head = ["NDCG@10 of BM25's top 100", "BM25", "teacher, 6 layers", "student, 3 layers"]
    return (
        "### How much a student keeps\n\n`python recipes/half.py`: a student of half the layers, distilled from "
        "runoff-nano's logits; Spearman within a query, on collections that neither saw\n\n"
        + table([*head, "share", "Spearman", "queries"], body)
    )


def install_size() -> str:
    body = [
        [
            "core" if row["set"] == "core" else f"core + `{row['set']}`",
            f"{row['megabytes']:,.0f} MB",
            str(row["distributions"]),
        ]
        for row in rows("install_size")
    ]
    seconds = max(row["import_cpu_seconds"] for row in rows("install_size"))
    return (
        "### What an install weighs\n\n"
        f"`python benchmarks/install_size.py`; `import runoff` takes {seconds * 1e3:.0f} ms of CPU and loads no "
        "torch\n\n" + table(["installed", "on disk", "distributions"], body)
    )


def ingest() -> str:
    full = sorted(
        (row for row in rows("ingest") if row["documents"] >= 50_000), key=lambda row: int(row["documents"])
    )
    body = [
        [
            f"{row['documents']:,}",
            f"{row['documents_a_second']:,}",
            f"{row['peak_mib']:,} MiB",
            f"{row['index_bytes'] / 1e6:,.0f} MB",
            f"{row['bm25_median_ms']:.0f} / {row['bm25_p95_ms']:.0f} ms",
        ]
        for row in full
    ]
    head = ["documents", "indexed a second", "peak memory", "on disk", "BM25 top 100, median / p95"]
    return (
        f"### Indexing\n\nWith the reranker's token ids stored, on {machine_of(full[0])}: "
        "`python benchmarks/ingest.py`\n\n" + table(head, body)
    )


def latency() -> str:
    row = rows("search_latency")[-1]
    typed = row["typed_ms"]
    body = [
        [way, *(f"{stages[stage]['median']:.0f} / {stages[stage]['p95']:.0f}" for stage in STAGES)]
        for way, stages in row["stages_ms"].items()
    ]
    return (
        f"### How long a search takes\n\nOver {row['settings']['documents']:,} Wikipedia leads, "
        f"{row['settings']['depth']} candidates reranked by runoff-nano, on {machine_of(row)}: "
        "`python benchmarks/search_latency.py`\n\n"
        + table(["milliseconds, median / p95", *STAGES], body)
        + "\n\nFrom typing `runoff search` to the end of its process: "
        f"{typed['wall']['median'] / 1e3:.2f} s at the median ({typed['wall']['p95'] / 1e3:.2f} s at p95), of which "
        f"{typed['rerank']['median'] / 1e3:.2f} s are the reranker's and {typed['retrieve']['median']:.0f} ms BM25's."
    )


def engines() -> str:
    """Pairs a second of every engine on every shape, a table for each machine, the newest first."""
    full = [
        row for row in rows("engines") if row["settings"]["form"] == "full" and not row["settings"]["isa"]
    ]
    machines: dict[str, list[Row]] = {}
    for row in reversed(full):
        machines.setdefault(json.dumps(row["machine"], sort_keys=True), []).insert(0, row)
    return "### Fast on a CPU: all engines\n\n" + "\n\n".join(map(engines_of, machines.values()))


def engines_of(full: list[Row]) -> str:
    """The table of one machine."""
    order = ["17m", "32m", "68m", "150m", "MiniLM-L6"]
    shapes = [shape for shape in order if any(row["settings"]["shape"] == shape for row in full)]
    names = list(dict.fromkeys(row["settings"]["engine"] for row in full))
    found = {(row["settings"]["engine"], row["settings"]["shape"]): row for row in full}
    body = []
    for name in sorted(names, key=lambda name: (not name.startswith("runoff"), name)):
        line = [name]
        for shape in shapes:
            row = found.get((name, shape))
            line.append(f"{row['pairs_a_second']:.1f} ({row['times_default']:.1f}x)" if row else "")
        body.append(line)
    first = full[0]
    pairs = {shape: row["settings"]["pairs"] for (_, shape), row in found.items()}
    counts = ", ".join(f"{pairs[shape]} of {shape}" for shape in shapes)
    sets = ", ".join(first["machine"].get("instruction_sets", []))
    return (
        "Pairs a second, tokenisation included, and times sentence-transformers' "
        f"default: pairs ({counts}) with the length mix of natural-questions "
        f"(mean {first['mean_tokens']:.0f} tokens, median {first['median_tokens']:.0f}, at most "
        f"{first['settings']['max_length']}), random weights, median of three passes taken in turn, on "
        f"{machine_of(first)} ({sets}): `python benchmarks/engines.py`\n\n" + table(["engine", *shapes], body)
    )


def one_query() -> str:
    """How long one query waits, what a process weighs, and how soon it answers."""
    waits = {
        (row["settings"]["shape"], row["settings"]["engine"]): row["documents"]
        for row in full_rows("latency")
    }
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
        f"{machine_of(full_rows('latency')[0])}: `python benchmarks/latency.py`\n\n"
        + table(["shape, engine", *(f"{n} document" + ("s" if n != "1" else "") for n in counts)], body)
        + "\n\nSeconds from starting Python to the first score (and without Python's own start), and resident memory "
        f"in MiB when loaded and at its highest over {starts[0]['settings']['pairs']} pairs: "
        "`python benchmarks/footprint.py`\n\n"
        + table(["shape, engine", "first score", "without start", "loaded", "highest"], weights)
    )


def lengths() -> str:
    found = [row for row in full_rows("lengths") if row["settings"]["engine"].startswith("runoff")]
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
        "eighth of it (8 is linear): `python benchmarks/lengths.py`\n\n"
        + table(["shape, engine", *(f"{tokens:,} tokens" for tokens in shown), "growth"], body)
    )


def roofline() -> str:
    found = full_rows("roofline", isa=None)
    names = list(dict.fromkeys(name for row in found for name in row["stages"]))
    body = []
    for row in found:
        cells = [row["stages"].get(name) for name in names]
        body.append(
            [
                f"{row['settings']['shape']}, {row['settings']['precision']}",
                *(
                    ""
                    if cell is None
                    else f"{cell['share']:.0%}" + (f" ({cell['of_peak']:.0%})" if cell["of_peak"] else "")
                    for cell in cells
                ),
            ]
        )
    peaks = {name: value for row in found for name, value in row["peak_gmacs"].items()}
    return (
        "### How near to the processor's limit\n\nShare of a layer's time and, in brackets, rate over the measured "
        "peak of that kind of number ("
        + ", ".join(f"{name} {value:.0f}" for name, value in peaks.items())
        + f" billion multiplications a second and thread by {found[0]['settings']['isa']}): "
        "`python benchmarks/roofline.py`\n\n" + table(["shape, precision", *names], body)
    )


def precision() -> str:
    lines = {tuple(row["settings"].values()): row for row in rows("precision")}
    body = []
    for (model, collection, name), row in lines.items():
        if collection == "all" or name == "fp32":
            continue
        exact = lines[(model, collection, "fp32")]["ndcg_at_10"]
        figures = [
            f"{exact:.4f}",
            f"{row['minus_fp32']:+.4f} ± {row['standard_error']:.4f}",
            str(row["queries"]),
        ]
        body.append([f"{model}, {collection}, {name}", *figures])
    overall = [
        f"{model} in {name}: Spearman {row['spearman']:.5f}, largest difference {row['largest_difference']:.3f}, noise "
        f"{row['noise']:.2%} of the spread, over {row['pairs']:,} pairs"
        for (model, collection, name), row in lines.items()
        if collection == "all"
    ]
    return (
        "### What lower precision costs\n\n`python benchmarks/precision.py --judged FOLDER`; reranking BM25's "
        "top 100, and embedding whole collections; ± is one standard error of the change\n\n"
        + table(["model, collection, precision", "NDCG@10 in fp32", "change", "queries"], body)
        + "\n\nAgainst fp32, over all pairs scored: "
        + "; ".join(overall)
        + "."
    )


def figures() -> str:
    """The generated part, comments included."""
    parts = [
        "## Figures\n\nAll measured by commands of this repository; each line of "
        "[benchmarks/results](benchmarks/results) has its machine, versions and command."
    ]
    parts += [
        engines(),
        one_query(),
        lengths(),
        roofline(),
        precision(),
        parity(),
        nano(),
        fidelity(),
        ingest(),
        latency(),
    ]
    parts += [install_size()]
    return f"{BEGIN}\n" + "\n\n".join(parts) + f"\n\n{END}"


def with_figures(readme: str) -> str:
    """README's text with that part made anew."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md: expected the comments {BEGIN} and {END}, in this order")
    return head + figures() + tail


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="say whether README is up to date")
    check_only = parser.parse_args().check
    old = README.read_text(encoding="utf-8")
    new = with_figures(old)
    if old == new:
        return 0
    if check_only:
        print(
            "README.md: its figures are not those of benchmarks/results; run python recipes/readme_figures.py"
        )
        return 1
    draft = README.with_name(".README.md.draft")
    draft.write_text(new, encoding="utf-8")
    os.replace(draft, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
