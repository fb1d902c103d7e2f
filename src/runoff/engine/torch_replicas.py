"""One model on several GPUs: a replica on each, and every batch to the one with the least to do. Imported only where
torch is wanted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from runoff.contracts import Batch, FloatArray, InputError
from runoff.engine.torch_engine import Begun, TorchEngine

ALL = "cuda:*"
"""Names every NVIDIA GPU that is visible."""


def devices(name: str) -> list[str]:
    """The devices that a name stands for. Raises `InputError` where one is named twice, or `ALL` finds none."""
    if name == ALL:
        count = torch.cuda.device_count()
        if not count:
            raise InputError(f"device={ALL!r} means every NVIDIA GPU, and torch sees none here: choose 'cpu'")
        return [f"cuda:{number}" for number in range(count)]
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1 and len(set(names)) < len(names) and set(names) != {"cpu"}:
        raise InputError(f"device={name!r} names a device twice; give each once")
    return names


class Replicas:
    """Engines of the same model on several devices, each fed by a thread of its own: launching is Python's work."""

    name = "torch"

    def __init__(self, engines: Sequence[TorchEngine]) -> None:
        self._engines = list(engines)
        self.precision = engines[0].precision
        self.attention = engines[0].attention
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="runoff-replica") for _ in engines]
        self._waiting = [0] * len(engines)  # tokens that were given to each and not yet taken back
        self._lock = threading.Lock()

    @property
    def token_budget(self) -> int:
        return min(engine.token_budget for engine in self._engines)

    @property
    def in_flight(self) -> int:
        """Batches to have under way: for each device as many as for one."""
        return sum(engine.in_flight for engine in self._engines)

    def forward(self, batch: Batch) -> FloatArray:
        return self.start(batch).result()

    def start(self, batch: Batch) -> Begun:
        """Hands the batch to the device that has the fewest tokens waiting."""
        with self._lock:
            chosen = min(range(len(self._engines)), key=lambda i: self._waiting[i])
            self._waiting[chosen] += batch.token_count
        return _Handed(
            self, chosen, batch.token_count, self._threads[chosen].submit(self._run, chosen, batch)
        )

    def _run(self, chosen: int, batch: Batch) -> Begun:
        return self._engines[chosen].start(batch)

    def _took(self, chosen: int, tokens: int) -> None:
        with self._lock:
            self._waiting[chosen] -= tokens


@dataclass(frozen=True, slots=True)
class _Handed:
    replicas: Replicas
    chosen: int
    tokens: int
    begun: Future[Begun]

    def result(self) -> FloatArray:
        try:
            return self.begun.result().result()
        finally:
            self.replicas._took(self.chosen, self.tokens)
