"""CUDA graphs of a forward, one for each bucket of sizes: a small model's hundred kernels are launched as one.

Imported only where torch is wanted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from runoff.engine.torch_staging import Shape

logger = logging.getLogger(__name__)

MOST_GRAPHS = 64
"""Recorded graphs that are kept, the least used forgotten first. They share one pool of memory, so that all of them
take little more than the largest."""

RUNS_BEFORE_ANOTHER_TRY = 64
"""Plain runs of a shape after it could not be recorded for lack of memory."""

RUNS_WHEN_FULL = 8
"""Plain runs of a shape before it takes the place of another: recording takes as long as several forwards, since it
waits for the device and empties PyTorch's caches of memory."""

Run = Callable[[torch.Tensor, Shape], torch.Tensor]

# PyTorch records one graph at a time in a process: recording begins by waiting for the device, which would spoil what
# another engine is recording there.
_RECORDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Recorded:
    numbers: torch.Tensor
    outputs: torch.Tensor
    replay: Callable[[], Any]


class Graphs:
    """`run` of staged numbers, replayed from a graph from the second time that a shape comes.

    The first time runs plainly, which also compiles kernels and lets the libraries choose theirs: neither can be
    recorded. Nor can the making of a thread's own cuBLAS handle, so a thread's first run is plain as well. A device
    that cannot record at all runs everything plainly from then on. On a device without graphs a replay is `run` again
    over the same memory, which is what tests compare.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._runs: Counter[Shape] = Counter()  # plain ones since the shape was last recorded
        self._threads: set[int] = set()
        self._recorded: OrderedDict[Shape, _Recorded] = OrderedDict()
        self._pool: Any = None
        self._can_record = True

    def __len__(self) -> int:
        return len(self._recorded)

    def forget(self) -> None:
        """Drops all graphs: what they read has moved, or their memory is needed."""
        self._recorded.clear()
        self._runs.clear()
        self._pool = None

    def __call__(self, numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Outputs of `numbers`, which lie on the device; they hold until the next call."""
        if shape not in self._recorded and not self._records(numbers, shape):
            return self._run(numbers, shape)
        self._recorded.move_to_end(shape)
        found = self._recorded[shape]
        found.numbers.copy_(numbers)
        found.replay()
        return found.outputs

    def _records(self, numbers: torch.Tensor, shape: Shape) -> bool:
        """Whether there is a graph of this shape now."""
        thread = threading.get_ident()
        enough = 1 if len(self._recorded) < MOST_GRAPHS else RUNS_WHEN_FULL
        if not self._can_record or self._runs[shape] < enough or thread not in self._threads:
            self._runs[shape] += 1
            self._threads.add(thread)
            return False
        try:
            self._recorded[shape] = self._record(numbers, shape)
        except torch.OutOfMemoryError:
            # A plain run needs less: graphs keep what they read and write. It is tried again much later.
            self.forget()
            self._runs[shape] = -RUNS_BEFORE_ANOTHER_TRY
            return False
        except RuntimeError as error:
            logger.warning(
                "forwards cannot be recorded as CUDA graphs here and are launched one by one: %s", error
            )
            self._can_record = False
            self.forget()
            return False
        del self._runs[shape]
        if len(self._recorded) > MOST_GRAPHS:
            self._recorded.popitem(last=False)
        return True

    def _record(self, numbers: torch.Tensor, shape: Shape) -> _Recorded:
        static = numbers.clone()
        if self._device.type != "cuda":
            outputs = self._run(static, shape)
            return _Recorded(static, outputs, lambda: outputs.copy_(self._run(static, shape)))
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads (another engine, pinned memory of a data loader) may go on using CUDA meanwhile.
        with (
            _RECORDING,
            torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(self._device),
                capture_error_mode="thread_local",
            ),
        ):
            outputs = self._run(static, shape)
        return _Recorded(static, outputs, graph.replay)
