"""Run as a process, to be killed: python killed_ingest.py INDEX COUNT [WORD] [STAGE CALL SECONDS].

Upserts d0, d1, ... in batches of 50, each text with WORD at its end. With a STAGE it kills itself SECONDS
after call number CALL of that function began, or at its end if it is quicker: SIGKILL, so nothing is tidied.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lance

from runoff.search.index import Index, IngestOptions
from runoff.search.settings import Settings
from runoff.search.table import Table
from standin_search import SharedWords, worded

BATCH = 50
OPTIMIZER = type(lance.LanceDataset.optimize.fget(None))  # type: ignore[attr-defined]
STAGES: dict[str, tuple[Any, str]] = {
    "save settings": (Settings, "saved_in"),
    "write": (lance, "write_dataset"),
    "append": (Table, "append"),
    "put": (Table, "put"),
    "join small files": (OPTIMIZER, "compact_files"),
    "build bm25": (Table, "build_bm25"),
    "update bm25": (OPTIMIZER, "optimize_indices"),
    "index ids": (Table, "_index_ids"),
    "clear away": (lance.LanceDataset, "cleanup_old_versions"),
    "replace tokens": (Table, "replace_column"),
}


def kill_within(stage: str, call: int, seconds: float) -> None:
    owner, name = STAGES[stage]
    real = getattr(owner, name)
    calls = 0

    def doomed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return real(*arguments, **options)

        def kill() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        if seconds == 0.0:
            kill()
        killer = threading.Thread(target=kill)
        killer.start()
        real(*arguments, **options)
        killer.join()
        raise AssertionError("killed above")

    setattr(owner, name, doomed)


def main() -> None:
    path, count, word = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if sys.argv[4:]:
        kill_within(sys.argv[4], int(sys.argv[5]), float(sys.argv[6]))
    index = Index.create(path, tokenizer=SharedWords(), exist_ok=True)
    print("ready", flush=True)
    report = index.upsert(worded(count, word), IngestOptions(batch_documents=BATCH))
    if sys.argv[4:5] == ["replace tokens"]:
        index.retokenize(SharedWords("other", "other-words"))
    print(report, flush=True)


if __name__ == "__main__":
    main()
