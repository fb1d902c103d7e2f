"""Stand-ins for teaching on a cluster: a Ray cluster of three machines in one, and teachers for its workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import runoff
from runoff.contracts import CheckpointNotFoundError, FloatArray, Pair

MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20}
WORKER_PATH = os.pathsep.join([str(Path(runoff.__file__).parents[1]), str(Path(__file__).parent)])
"""PYTHONPATH of the workers, so that they find Runoff and these stand-ins."""


@contextmanager
def started_cluster(machines: int = 2) -> Iterator[Any]:
    """A real Ray cluster: a head that takes no work, and machines of one CPU each that do; all are processes here."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = WORKER_PATH
    head = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(machines):
            cluster.add_node(**MACHINE)
        yield cluster
    finally:
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def length_scores(pairs: Sequence[Pair]) -> FloatArray:
    return np.array([len(query) + len(document) / 7 for query, document in pairs], np.float32)


class LengthTeacher:
    """Scores by the lengths of the texts, as slowly as asked; a line in the log says which process scored how many."""

    name = "lengths"

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        self._log, self._seconds = log, seconds

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {len(pairs)}\n")
        time.sleep(self._seconds)
        return length_scores(pairs)


@dataclass(frozen=True)
class Lengths:
    """Builds a `LengthTeacher`."""

    log: Path
    seconds: float = 0.0

    def __call__(self) -> tuple[LengthTeacher, Mapping[str, Any]]:
        return LengthTeacher(self.log, self.seconds), {"precision": "fp32"}

    def processes(self) -> list[int]:
        """The process of each batch that was scored, in order."""
        return [int(line.split()[0]) for line in self.log.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Faulty:
    """Builds a teacher that does at one document what it is told: "nan", "crash" (the process), "raise"; or none, for
    "absent"; or, for "unlike", one whose precision no other worker has."""

    fault: str
    document: str = ""

    def __call__(self) -> tuple[Any, Mapping[str, Any]]:
        if self.fault == "absent":
            raise CheckpointNotFoundError("no model of that name here")
        return self, {"precision": str(os.getpid()) if self.fault == "unlike" else "fp32"}

    @property
    def name(self) -> str:
        return "lengths"

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        found = length_scores(pairs)
        for row, (_, document) in enumerate(pairs):
            if document != self.document:
                continue
            if self.fault == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "raise":
                raise RuntimeError("no more memory on this card")
            found[row] = np.nan
        return found
