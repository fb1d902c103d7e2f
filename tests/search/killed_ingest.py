"""Run as a process, to be killed: python killed_ingest.py INDEX COUNT. Ingests d0, d1, ... in batches of 50."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runoff.search.index import Index, IngestOptions
from standin_search import SharedWords, numbered_documents

BATCH = 50


def main() -> None:
    path, count = sys.argv[1], int(sys.argv[2])
    index = Index.create(path, tokenizer=SharedWords(), exist_ok=True)
    print("ready", flush=True)
    report = index.add(numbered_documents(count), IngestOptions(batch_documents=BATCH))
    print(report, flush=True)


if __name__ == "__main__":
    main()
