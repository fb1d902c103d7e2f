"""The packed forward on a GPU (or any device that PyTorch has): batches go there and outputs come back unawaited.

A forward is begun by `start`, which copies the batch from pinned memory, launches the work (as one CUDA graph where
the size is one that came before) and returns; tokenising and packing of the next batch go on meanwhile. Imported only
where torch is wanted.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from runoff.checkpoint.config import EncoderConfig, ModelConfig
from runoff.checkpoint.weights import Weights
from runoff.contracts import Batch, FloatArray, InputError
from runoff.engine.torch_attention import attention_for
from runoff.engine.torch_graphs import Graphs
from runoff.engine.torch_kernels import FP8, kernels_for
from runoff.engine.torch_model import Format, TorchModel
from runoff.engine.torch_staging import Shape, bucket_of, check_ids, read, shape_of, written

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": FP8}

# A batch's activations take at most about so many bytes: 65,536 tokens of the 17m shape, 16,384 of the 1b one. More
# tokens hardly make a GPU faster, and the weights and this stay below what the published figures took.
_ACTIVATION_BYTES = 2**30
_LEAST_BUDGET, _MOST_BUDGET, _CPU_BUDGET = 8_192, 65_536, 4_096

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class Settings:
    """`attention` is one of `torch_attention.NAMES`; `kernels` "auto", "triton" or "torch"; `replays`: CUDA graphs;
    `fuses_mlp`: the MLP's first product with its activation in one Triton kernel, off until a card has timed it."""

    device: str
    precision: str
    attention: str = "auto"
    kernels: str = "auto"
    replays: bool = True
    fuses_mlp: bool = False


class Begun(Protocol):
    """A forward under way."""

    def result(self) -> FloatArray:
        """Its outputs [B, L], waited for; `MemoryError` where the device had too little."""
        ...


class TorchEngine:
    """Encoder, pooling and head of one model on one device.

    `token_budget` is halved whenever a batch did not fit into the device's memory. Raises `InputError` for a device or
    a precision that cannot be had here.
    """

    name = "torch"
    in_flight = 4
    """Batches to have under way: one that runs, one copied beside it, and two that Python has made ready."""

    def __init__(self, model: ModelConfig, weights: Weights, settings: Settings) -> None:
        encoder = model.encoder
        assert isinstance(encoder, EncoderConfig), "a static table is summed in numpy"
        self._encoder = encoder
        self.precision = settings.precision
        device = checked_device(settings.device)
        form = Format(device, _DTYPES[settings.precision], settings.fuses_mlp)
        _check_precision(form, encoder)
        kernels = kernels_for(settings.kernels, device, form.dtype)
        self._attention = attention_for(
            settings.attention, kernels, device, form.product_dtype, encoder.head_size
        )
        self._device, self._is_cuda = device, device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._copies = torch.cuda.Stream(device) if self._is_cuda else None
        # Weights belong to the stream that reads them: made in its order, and their memory is not another stream's
        # before what still runs there has ended.
        with self._on_stream():
            self._model = TorchModel(model, weights, form, kernels, self._attention)
        self.kernels = kernels.name
        self.token_budget = token_budget(encoder) if device.type != "cpu" else _CPU_BUDGET
        self._fits: int | None = None  # tokens; known once a batch did not fit
        is_replayed = self._attention.can_replay and settings.replays
        self._graphs = Graphs(self._run_filled, device) if is_replayed else None
        self._lock = threading.Lock()

    @property
    def attention(self) -> str:
        return self._attention.name

    @property
    def graph_count(self) -> int:
        """CUDA graphs recorded so far."""
        return 0 if self._graphs is None else len(self._graphs)

    def forward(self, batch: Batch) -> FloatArray:
        """Head outputs [B, L] of a reranker or vectors [B, D] of an embedder, before any activation."""
        return self.start(batch).result()

    def start(self, batch: Batch) -> Begun:
        """Begins a forward and returns at once; what it gives waits for the outputs.

        Raises `InputError` for ids that the model's tables lack. A lack of memory is raised by `result`.
        """
        check_ids(self._encoder, batch)
        if self._fits is not None and batch.token_count > self._fits and len(batch) > 1:
            return _Refused(f"{batch.token_count} tokens; {self._fits} fit")
        with self._lock, torch.inference_mode():
            try:
                with self._on_stream():
                    return self._begin(batch)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not _is_memory(error):
                    raise
                said = str(error).partition("\n")[0]
            # Outside the handler: there the traceback would still hold the failed forward's tensors.
            self._make_room(batch)
        return _Refused(said)

    def _on_stream(self) -> AbstractContextManager[Any]:
        """The engine's own stream, and with it its device, until the end of the block."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _begin(self, batch: Batch) -> Begun:
        longest = int(np.diff(batch.offsets).max(initial=1))
        if self._model.reach(longest) and self._graphs is not None:
            self._graphs.forget()
        shape = shape_of(batch, self._attention)
        if self._graphs is not None and shape.tokens <= _MOST_BUDGET:
            shape = bucket_of(shape)
            outputs = self._graphs(self._sent(batch, shape), shape)
        else:
            outputs = self._run(self._sent(batch, shape), shape, batch.offsets)
        outputs = outputs[: len(batch)]
        if not self._is_cuda:
            return _Finished(outputs.cpu().numpy().copy())
        target = torch.empty(outputs.shape, dtype=torch.float32, pin_memory=True)
        target.copy_(outputs, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return _Copying(target, done)

    def _sent(self, batch: Batch, shape: Shape) -> torch.Tensor:
        """The batch on the device. The copy has a stream of its own, so that it runs beside the batch before."""
        size = shape.numbers(self._encoder.family == "bert")
        numbers = torch.empty(size, dtype=torch.int32, pin_memory=self._is_cuda)
        written(batch, shape, self._encoder, numbers.numpy())
        if self._copies is None or self._stream is None:
            return numbers.to(self._device)
        with torch.cuda.stream(self._copies):
            sent = numbers.to(self._device, non_blocking=True)
        self._stream.wait_stream(self._copies)
        sent.record_stream(self._stream)
        return sent

    def _run(self, numbers: torch.Tensor, shape: Shape, host: npt.NDArray[np.int32]) -> torch.Tensor:
        return self._model(read(numbers, shape, self._encoder.family == "bert", host))

    def _run_filled(self, numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
        return self._run(numbers, shape, np.zeros(1, np.int32))

    def _make_room(self, batch: Batch) -> None:
        self._fits = max(1, batch.token_count // 2)
        self.token_budget = min(self.token_budget, self._fits)
        if self._graphs is not None:
            self._graphs.forget()
        if self._is_cuda:
            torch.cuda.empty_cache()
        logger.info("%d tokens did not fit into the memory of %s; batches have at most %d from now on",
                    batch.token_count, self._device, self._fits)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Finished:
    outputs: FloatArray

    def result(self) -> FloatArray:
        return self.outputs


@dataclass(frozen=True, slots=True)
class _Copying:
    target: torch.Tensor
    done: Any

    def result(self) -> FloatArray:
        self.done.synchronize()
        outputs: FloatArray = self.target.numpy().copy()
        return outputs


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str

    def result(self) -> FloatArray:
        raise MemoryError(f"a batch does not fit into the device's memory: {self.reason}")


def _is_memory(error: Exception) -> bool:
    """Whether PyTorch says that memory ran out; on a CPU and on Apple's GPUs that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


def token_budget(encoder: EncoderConfig) -> int:
    """Tokens of a batch on a GPU: what keeps a layer's activations within `_ACTIVATION_BYTES`."""
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    gate = 2 if encoder.family == "modernbert" else 1
    # qkv, mixed, an update and rows in 16 bits; the MLP's inner layer before and after its activation; the residual
    # stream in fp32, twice.
    a_token = 2 * (3 * hidden + 3 * hidden + (gate + 1) * inner) + 2 * 4 * hidden
    return max(
        _LEAST_BUDGET, min(_MOST_BUDGET, _ACTIVATION_BYTES // a_token // _LEAST_BUDGET * _LEAST_BUDGET)
    )


def checked_device(name: str) -> torch.device:
    """The device with its number, whatever device a thread has chosen; `InputError` where torch cannot use it."""
    try:
        device = torch.empty(1, device=torch.device(name)).device
    except (AssertionError, RuntimeError) as error:  # torch built without CUDA asserts
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"expected a device that torch {torch.__version__} can use here, got {name!r}: {said}. "
            "Choose 'cpu', or install the torch that is built for it"
        ) from error
    return device


def _check_precision(form: Format, encoder: EncoderConfig) -> None:
    """Raises `InputError` for fp8 on a card, or in a model, that cannot have it."""
    if form.dtype is not FP8:
        return
    if form.fuses_mlp:
        raise InputError(
            "fuses_mlp=True: the fused product has no fp8; choose 'bf16' or 'fp16', or leave it out"
        )
    if form.device.type == "mps":
        raise InputError("precision='fp8' is for NVIDIA cards; on Apple's GPUs choose 'fp16' or 'fp32'")
    if form.device.type == "cuda" and torch.cuda.get_device_capability(form.device) < (8, 9):
        name = torch.cuda.get_device_name(form.device)
        raise InputError(
            f"precision='fp8' needs a card of compute capability 8.9 or more, not {name}; choose 'bf16'"
        )
    if encoder.hidden_size % 16 or encoder.intermediate_size % 16:
        raise InputError(
            f"precision='fp8' multiplies in steps of 16, but this model has {encoder.hidden_size} hidden and "
            f"{encoder.intermediate_size} inner numbers; choose 'bf16'"
        )
