"""Run as a process, to be killed: python killed_teacher.py CANDIDATES OUT LOG.

Scores every pair by its length, slowly, and writes a line to LOG for each pair that is scored.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runoff.contracts import FloatArray, Pair
from runoff.distill.teacher import teach


class SlowLengths:
    name = "slow-lengths"

    def __init__(self, log: Path) -> None:
        self._log = log.open("a", encoding="utf-8")

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        for query, document in pairs:
            self._log.write(f"{query}\t{document}\n")
        self._log.flush()
        time.sleep(0.01)
        return np.array([len(query) + len(document) / 7 for query, document in pairs], np.float32)


if __name__ == "__main__":
    candidates, out, log = map(Path, sys.argv[1:])
    report = teach(candidates, SlowLengths(log), out, shard_pairs=7)
    print(report.pairs, report.scored)
