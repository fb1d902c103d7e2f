"""CUDA graphs of a forward, one for each bucket of sizes: a small model's hundred kernels are launched as one.

Imported only where torch is wanted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from runoff.engine.torch_staging import Shape

MOST_GRAPHS = 64
"""Recorded graphs that are kept, the least used forgotten first. They share one pool of memory, so that all of them
take little more than the largest."""

Run = Callable[[torch.Tensor, Shape], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Recorded:
    numbers: torch.Tensor
    outputs: torch.Tensor
    replay: Callable[[], Any]


class Graphs:
    """`run` of staged numbers, replayed from a graph from the second time that a shape comes.

    The first time runs plainly, which also compiles kernels and lets the libraries choose theirs: neither can be
    recorded. On a device without graphs a replay is `run` again over the same memory, which is what tests compare.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._seen: set[Shape] = set()
        self._recorded: OrderedDict[Shape, _Recorded] = OrderedDict()
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._recorded)

    def forget(self) -> None:
        """Drops all graphs: what they read has moved, or their memory is needed."""
        self._recorded.clear()
        self._seen.clear()
        self._pool = None

    def __call__(self, numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Outputs of `numbers`, which lie on the device; they hold until the next call."""
        if shape not in self._recorded:
            if shape not in self._seen:
                self._seen.add(shape)
                return self._run(numbers, shape)
            self._recorded[shape] = self._record(numbers, shape)
            if len(self._recorded) > MOST_GRAPHS:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(shape)
        found = self._recorded[shape]
        found.numbers.copy_(numbers)
        found.replay()
        return found.outputs

    def _record(self, numbers: torch.Tensor, shape: Shape) -> _Recorded:
        static = numbers.clone()
        if self._device.type != "cuda":
            outputs = self._run(static, shape)
            return _Recorded(static, outputs, lambda: outputs.copy_(self._run(static, shape)))
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads (another engine, pinned memory of a data loader) may go on using CUDA meanwhile.
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=torch.cuda.current_stream(self._device),
            capture_error_mode="thread_local",
        ):
            outputs = self._run(static, shape)
        return _Recorded(static, outputs, graph.replay)
