"""Run as a process, to be killed: python killed_spread.py CANDIDATES OUT LOG ADDRESS.

Scores every pair by its length, slowly, in the workers of the Ray cluster at ADDRESS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runoff.distill.spread import teach_spread
from runoff.distill.worker import Workers
from standin_cluster import Lengths

if __name__ == "__main__":
    candidates, out, log = map(Path, sys.argv[1:4])
    report = teach_spread(
        candidates,
        Lengths(log, seconds=0.05),
        out,
        workers=Workers(sys.argv[4], batch_pairs=7),
        shard_pairs=14,
    )
    print(report.pairs, report.scored)
