"""The model card, its figures taken from what training and evaluation wrote."""

import json
from pathlib import Path

from files import write_atomically
from prepare import CANDIDATES

TEMPLATE = Path(__file__).with_name("card.md")


def card(args) -> None:
    """Writes README.md into the model folder."""
    rows = [json.loads(line) for line in args.results.read_text(encoding="utf-8").splitlines()]
    log = [
        json.loads(line) for line in (args.run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    final = next(line for line in reversed(log) if line.get("final"))
    held_out = final["held_out"]
    judged = [row for row in rows if "collection" in row]
    text = TEMPLATE.read_text(encoding="utf-8").format(
        table=figures(judged),
        sha256=judged[0]["weights_sha256"],
        pooling=json.loads((args.model / "1_Pooling" / "config.json").read_text())["pooling_mode"],
        queries=final["queries"],
        seen=min(final["pairs"] // CANDIDATES, final["queries"]),
        candidates=CANDIDATES,
        pairs=final["pairs"],
        minutes=final["seconds"] / 60,
        precision=final["precision"],
        machine=judged[0]["machine"],
        held_out=final["held_out_queries"],
        first=held_out["positive_first"],
        mrr=held_out["mrr"],
        spearman=held_out["spearman"],
    )
    write_atomically(args.model / "README.md", text.encode())


def figures(judged: list[dict]) -> str:
    """The table of NDCG@10, one line a collection."""
    table = {}
    for row in judged:
        table.setdefault(row["collection"], {})[row["system"]] = row
    fused = "z(bm25)+1*z(nano)"
    lines = [
        "## How good it is\n",
        "NDCG@10 of BM25's top 100 (bm25s, English stemmer and stop words), reranked, and with the z-scores of both",
        "added. In brackets the 95 % interval of the difference from BM25, by paired bootstrap over queries.\n",
        "| collection | queries | BM25 | runoff-nano alone | BM25 + runoff-nano |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, systems in table.items():
        shown = [f"{systems['bm25']['ndcg_at_10']:.4f}"]
        for system in ("nano", fused):
            low, high = systems[system]["minus_bm25_95"]
            shown.append(f"{systems[system]['ndcg_at_10']:.4f} [{low:+.3f}, {high:+.3f}]")
        row = systems["bm25"]
        asked = (
            str(row["queries"])
            if row["queries"] == row["queries_judged"]
            else f"{row['queries']} of {row['queries_judged']}"
        )
        lines.append(f"| {name} | {asked} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
