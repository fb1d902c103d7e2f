"""A local copy of NanoBEIR made by hand: some of its sets in the layout of the hub's dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

CORPUS = {"d1": "apples are red", "d2": "pears are green", "d3": "boats float", "d4": "red boats"}
QUERIES = {"q1": "red apples", "q2": "boats", "q3": "pears"}
# BM25 finds one of q2's two answers, and none of q3's.
QRELS = [("q1", "d1"), ("q2", "d3"), ("q2", "d4"), ("q3", "d2")]
BM25 = {"q1": ["d4", "d1"], "q2": ["d2", "d3"], "q3": ["d1", "d4"]}


def nanobeir_folder(folder: Path, splits: Sequence[str] = ("NanoMSMARCO", "NanoNQ")) -> Path:
    """Configurations corpus, queries, qrels and bm25, a split for each set."""
    parts = {
        "corpus": [{"_id": id, "text": text} for id, text in CORPUS.items()],
        "queries": [{"_id": id, "text": text} for id, text in QUERIES.items()],
        "qrels": [{"query-id": query, "corpus-id": document} for query, document in QRELS],
        "bm25": [{"query-id": query, "corpus-ids": found} for query, found in BM25.items()],
    }
    lines = ["---", "configs:"]
    for name, records in parts.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in splits:
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            lines += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder
