"""A judged set made by hand, in the layout of BEIR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CORPUS = [
    {"_id": "boiler", "title": "Boiler", "text": "The boiler is serviced every October."},
    {"_id": "leak", "title": "", "text": "A boiler heats water; a boiler may leak."},
    {"_id": "roof", "title": "", "text": "The roof was mended after the storm."},
    {"_id": "window", "title": "", "text": "The storm broke a window."},
    {"_id": "garden", "title": "Garden", "text": "Roses want sun and a little rain."},
]
QUERIES = [
    {"_id": "q1", "text": "when is the boiler serviced"},
    {"_id": "q2", "text": "what did the storm break"},
    {"_id": "q3", "text": "what do roses want"},
    {"_id": "q4", "text": "who judged this"},
]
QRELS = "q1\tboiler\t2\nq1\tleak\t1\nq2\twindow\t1\nq2\troof\t0\nq3\tgarden\t1\nq4\troof\t0\n"


def judged_folder(
    folder: Path,
    corpus: list[dict[str, Any]] = CORPUS,
    queries: list[dict[str, Any]] = QUERIES,
    qrels: str = QRELS,
) -> Path:
    """q4 has no positive judgement."""
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return folder
