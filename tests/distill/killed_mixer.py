"""Run as a process, to be killed: python killed_mixer.py MIXTURE OUT. Slow at every batch of rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runoff.data.mixture import find_mixture
from runoff.distill.mix import mix

if __name__ == "__main__":
    report = mix(
        find_mixture(sys.argv[1]),
        Path(sys.argv[2]),
        shard_rows=20,
        batch_rows=10,
        advance=lambda _count: time.sleep(0.02),
    )
    print(report.pairs, report.held_out)
