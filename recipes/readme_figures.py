"""Writes README's figures from benchmarks/results: the part between its two `figures` comments.

`--check` changes nothing and fails where that part is not what the results say.
"""

from __future__ import annotations

import argparse
import os
import sys

from race_figures import ROOT, Row, engines, full_rows, growths, lengths, machine_of, one_query, rows, table

README = ROOT / "README.md"
BEGIN, END = "<!-- figures: python recipes/readme_figures.py -->", "<!-- /figures -->"

STAGES = ("retrieve", "rerank", "total")


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
    # The CPU engine's; those of the GPU engine are in docs/gpu.md.
    found = [row for row in rows("precision") if "engine" not in row["settings"]]
    lines = {tuple(row["settings"].values()): row for row in found}
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
        growths(),
        roofline(),
        precision(),
        parity(),
        nano(),
        fidelity(),
        ingest(),
        latency(),
    ]
    parts += [install_size()]
    return f"{BEGIN}\n" + "\n\n".join(part for part in parts if part) + f"\n\n{END}"


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
