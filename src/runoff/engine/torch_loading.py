"""Weights -> the torch engine as it was chosen: on one device or several, in fp16 for as long as its range suffices.
Imported only where torch is wanted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from runoff.checkpoint.config import ModelConfig
from runoff.checkpoint.weights import Weights
from runoff.contracts import Batch, FloatArray
from runoff.engine.choose import Choice
from runoff.engine.torch_engine import Begun, Settings, TorchEngine
from runoff.engine.torch_replicas import Replicas, devices

logger = logging.getLogger(__name__)

Running = TorchEngine | Replicas


def load_torch(
    model: ModelConfig, weights: Weights, choice: Choice, attention: str, sample: Batch
) -> tuple[Running | Guarded, Choice]:
    """The engine, and what became of the choice. `sample` is what fp16 on trial has to survive.

    Raises `InputError` for a device, a precision or an attention that cannot be had here.
    """

    def engine(precision: str) -> Running:
        settings = Settings(choice.device, precision, attention, replays=replays_wanted())
        engines = [
            TorchEngine(model, weights, replace(settings, device=name)) for name in devices(choice.device)
        ]
        return engines[0] if len(engines) == 1 else Replicas(engines)

    running = engine(choice.precision)
    what = f"attention: {running.attention}"
    if not choice.is_on_trial:
        return running, replace(choice, reason=f"{choice.reason}; {what}")
    if np.isfinite(running.forward(sample)).all():
        guarded = Guarded(running, lambda: engine("bf16"))
        return guarded, replace(choice, reason=f"{choice.reason}; {what}", is_on_trial=False)
    del running
    reason = f"{choice.reason.partition(';')[0]}; bf16, since this model leaves the range of fp16; {what}"
    return engine("bf16"), replace(choice, precision="bf16", reason=reason, is_on_trial=False)


def replays_wanted() -> bool:
    """Whether forwards may be replayed from CUDA graphs: unless RUNOFF_CUDA_GRAPHS=0."""
    return os.environ.get("RUNOFF_CUDA_GRAPHS", "1") != "0"


class Guarded:
    """fp16 until an output is no finite number; bf16, which has the range of fp32, from that batch on.

    fp16 has three more bits than bf16 and ends at 65,504; the residual stream, where a model's largest numbers are, is
    in fp32 either way.
    """

    name = "torch"

    def __init__(self, engine: Running, wider: Callable[[], Running]) -> None:
        self._engine, self._wider = engine, wider
        self._is_wide = False
        self._lock = threading.Lock()

    @property
    def precision(self) -> str:
        return self._engine.precision

    @property
    def attention(self) -> str:
        return self._engine.attention

    @property
    def token_budget(self) -> int:
        return self._engine.token_budget

    @property
    def in_flight(self) -> int:
        return self._engine.in_flight

    def forward(self, batch: Batch) -> FloatArray:
        return self.start(batch).result()

    def start(self, batch: Batch) -> Begun:
        return _Watched(self, batch, self._engine.start(batch))

    def widened(self) -> Running:
        """The bf16 engine, made when it is first needed."""
        with self._lock:
            if not self._is_wide:
                logger.warning("a score left the range of fp16: this model runs in bf16 from now on")
                self._engine, self._is_wide = self._wider(), True
            return self._engine


@dataclass(frozen=True, slots=True)
class _Watched:
    guarded: Guarded
    batch: Batch
    begun: Begun

    def result(self) -> FloatArray:
        outputs = self.begun.result()
        return outputs if np.isfinite(outputs).all() else self.guarded.widened().forward(self.batch)
