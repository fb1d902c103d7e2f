"""What lies between the matrix products of a packed forward: plain PyTorch, and the same fused into Triton kernels.

Values go into products in the engine's format (bf16, fp16, fp32 or fp8); the residual stream stays in fp32, because
rounding it after every layer is what costs bf16 its accuracy (rank correlation .75 on random weights, and .99998
without). Imported only where torch is wanted.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)

FP8 = torch.float8_e4m3fn
FP8_GREATEST = 448.0
"""The greatest number of e4m3 (Micikevicius et al., arXiv 2209.05433, table 1)."""

Keeps = Literal["sum", "norm"]
"""What the residual stream becomes after a norm: what went into it (pre-norm models), or what came out (BERT)."""

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class Rows(NamedTuple):
    """What a product takes: values [T, H] in the engine's format, and in fp8 what each row was divided by, [T]."""

    values: torch.Tensor
    scales: torch.Tensor | None = None

    def at(self, rows: torch.Tensor) -> Rows:
        if self.scales is None:
            return Rows(self.values[rows])
        # By their bytes: not every backend gathers numbers of fp8.
        return Rows(self.values.view(torch.uint8)[rows].view(FP8), self.scales[rows])


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm's fp32 weight [H] and bias [H]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float


@dataclass(frozen=True, slots=True)
class Tables:
    """Embeddings: of tokens, and in BERT of positions and segments."""

    token: torch.Tensor
    position: torch.Tensor | None = None
    segment: torch.Tensor | None = None


class Rotary(NamedTuple):
    """cos and sin of position * theta^(-2j/D), fp32 [positions, D / 2] each."""

    cosines: torch.Tensor
    sines: torch.Tensor


class Lookups(Protocol):
    """What `embed` reads of a batch: ids, and positions and segments where tables for them are given, each [T]."""

    @property
    def ids(self) -> torch.Tensor: ...
    @property
    def positions(self) -> torch.Tensor: ...
    @property
    def segments(self) -> torch.Tensor | None: ...


class Kernels(Protocol):
    """`hidden` is the residual stream, fp32 [T, H]; it may be changed in place."""

    @property
    def name(self) -> str: ...

    def embed(self, tables: Tables, norm: Norm, batch: Lookups) -> tuple[torch.Tensor, Rows]:
        """The normed embeddings of each token, as the residual stream and as rows."""
        ...

    def add_norm(
        self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm, keeps: Keeps
    ) -> tuple[torch.Tensor, Rows]:
        """The residual stream after `update` [T, H], and its norm."""
        ...

    def activate(self, inner: torch.Tensor, activation: str, is_gated: bool) -> Rows:
        """[T, I] activated; of a gated [T, 2 I] the first half activated times the second."""
        ...

    def rows(self, values: torch.Tensor) -> Rows:
        """[T, H] as a product takes it."""
        ...

    def rotate(self, qk: torch.Tensor, rotary: Rotary, positions: torch.Tensor, parts: int) -> None:
        """Turns the first `parts` vectors of each row of `qk` [T, parts or more, D] by its position, in place."""
        ...


@dataclass(frozen=True, slots=True)
class Eager:
    """PyTorch's own operations, on any device."""

    dtype: torch.dtype
    name: str = "torch"

    def embed(self, tables: Tables, norm: Norm, batch: Lookups) -> tuple[torch.Tensor, Rows]:
        hidden = F.embedding(batch.ids, tables.token).float()
        if tables.position is not None and tables.segment is not None and batch.segments is not None:
            hidden += F.embedding(batch.positions, tables.position).float()
            hidden += F.embedding(batch.segments, tables.segment).float()
        hidden = self._norm(hidden, norm)
        return hidden, self.rows(hidden)

    def add_norm(
        self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm, keeps: Keeps
    ) -> tuple[torch.Tensor, Rows]:
        hidden = hidden + update
        normed = self._norm(hidden, norm)
        return (hidden if keeps == "sum" else normed), self.rows(normed)

    def activate(self, inner: torch.Tensor, activation: str, is_gated: bool) -> Rows:
        if not is_gated:
            return self.rows(ACTIVATIONS[activation](inner))
        value, gate = inner.chunk(2, dim=-1)
        return self.rows(ACTIVATIONS[activation](value) * gate)

    def rows(self, values: torch.Tensor) -> Rows:
        if self.dtype is not FP8:
            return Rows(values.to(self.dtype))
        scales = values.abs().amax(dim=-1).float().clamp_min(1e-12) / FP8_GREATEST
        return Rows((values.float() / scales[:, None]).to(FP8), scales)

    def rotate(self, qk: torch.Tensor, rotary: Rotary, positions: torch.Tensor, parts: int) -> None:
        cos, sin = (table[positions][:, None, :] for table in rotary)
        turned = qk[:, :parts]
        first, second = (half.float() for half in turned.chunk(2, dim=-1))
        turned.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))

    @staticmethod
    def _norm(hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        return F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, norm.eps)


@dataclass(frozen=True, slots=True)
class Fused:
    """The same in one pass over memory each, by Triton."""

    dtype: torch.dtype
    name: str = "triton"

    def embed(self, tables: Tables, norm: Norm, batch: Lookups) -> tuple[torch.Tensor, Rows]:
        count, size = len(batch.ids), tables.token.shape[1]
        hidden = torch.empty(count, size, dtype=torch.float32, device=tables.token.device)
        has_all = tables.position is not None
        lookups = {
            "ids": batch.ids,
            "table": tables.token,
            "positions": batch.positions,
            "position_table": tables.position if has_all else tables.token,
            "types": batch.segments if has_all else batch.ids,
            "type_table": tables.segment if has_all else tables.token,
        }
        return hidden, self._norm(hidden, hidden, norm, source=3 if has_all else 2, keeps=2, lookups=lookups)

    def add_norm(
        self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm, keeps: Keeps
    ) -> tuple[torch.Tensor, Rows]:
        return hidden, self._norm(hidden, update, norm, source=1, keeps=1 if keeps == "sum" else 2)

    def _norm(
        self,
        hidden: torch.Tensor,
        update: torch.Tensor,
        norm: Norm,
        *,
        source: int,
        keeps: int,
        lookups: dict[str, Any] | None = None,
    ) -> Rows:
        import triton

        from runoff.engine.triton_kernels import norm_rows

        count, size = hidden.shape
        rows, block, grouped = self._empty(count, size, hidden.device)
        names = ("ids", "table", "positions", "position_table", "types", "type_table")
        norm_rows[(triton.cdiv(count, grouped),)](
            hidden,
            update,
            **(lookups or dict.fromkeys(names, hidden)),
            weight=norm.weight,
            bias=norm.weight if norm.bias is None else norm.bias,
            out=rows.values,
            scales=norm.weight if rows.scales is None else rows.scales,
            count=count,
            eps=norm.eps,
            SIZE=size,
            BLOCK=block,
            ROWS=grouped,
            SOURCE=source,
            KEEPS=keeps,
            HAS_BIAS=norm.bias is not None,
            IS_FP8=rows.scales is not None,
            num_warps=_warps(block * grouped),
        )
        return rows

    def activate(self, inner: torch.Tensor, activation: str, is_gated: bool) -> Rows:
        import triton

        from runoff.engine import triton_kernels

        number = getattr(triton_kernels, activation.upper(), None)
        if number is None:  # tanh and sigmoid, which no encoder of ours has between its matrices
            return Eager(self.dtype).activate(inner, activation, is_gated)
        count, size = inner.shape[0], inner.shape[1] // (2 if is_gated else 1)
        rows, block, grouped = self._empty(count, size, inner.device)
        triton_kernels.activate_rows[(triton.cdiv(count, grouped),)](
            inner,
            rows.values,
            inner if rows.scales is None else rows.scales,
            count,
            SIZE=size,
            BLOCK=block,
            ROWS=grouped,
            ACTIVATION=number,
            IS_GATED=is_gated,
            IS_FP8=rows.scales is not None,
            num_warps=_warps(block * grouped),
        )
        return rows

    def rows(self, values: torch.Tensor) -> Rows:
        return (
            Rows(values.to(self.dtype)) if self.dtype is not FP8 else self.activate(values, "identity", False)
        )

    def rotate(self, qk: torch.Tensor, rotary: Rotary, positions: torch.Tensor, parts: int) -> None:
        import triton

        from runoff.engine.triton_kernels import rotate_rows

        half = rotary.cosines.shape[1]
        block = triton.next_power_of_2(parts * half)
        rotate_rows[(len(qk),)](
            qk,
            *rotary,
            positions,
            qk.stride(0),
            PARTS=parts,
            HALF=half,
            BLOCK=block,
            num_warps=_warps(block),
        )

    def _empty(self, count: int, size: int, device: torch.device) -> tuple[Rows, int, int]:
        """(rows to be written, a row filled to a power of two, rows of one program: about 2,048 numbers)."""
        import triton

        block = triton.next_power_of_2(size)
        scales = torch.empty(count, dtype=torch.float32, device=device) if self.dtype is FP8 else None
        values = torch.empty(count, size, dtype=self.dtype, device=device)
        return Rows(values, scales), block, max(1, 2048 // block)


def _warps(numbers: int) -> int:
    """Warps of a program over so many numbers: 16 a thread, and at most 16 warps."""
    return max(1, min(16, numbers // 512))


def kernels_for(name: str, device: torch.device, dtype: torch.dtype) -> Kernels:
    """Those of the name, "triton" or "torch"; "auto": Triton's where it is installed and runs on the device."""
    if name == "auto":
        has_triton = device.type in ("cuda", "xpu") and importlib.util.find_spec("triton") is not None
        name = "triton" if has_triton and runs_fused(device) else "torch"
    return Fused(dtype) if name == "triton" else Eager(dtype)


def runs_fused(device: torch.device) -> bool:
    """Whether Triton's kernels run there; warns where they do not. Triton needs a C compiler and Python's headers (it
    compiles a launcher in C), and no card older than Turing. What it raises where one is lacking has no common type.
    """
    try:
        with torch.get_device_module(device).device(device):  # Triton launches on the thread's own device
            Fused(torch.float32).activate(torch.zeros(1, 16, device=device), "relu", False)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        logger.warning("Triton's kernels do not run on %s, PyTorch's own take their place: %s", device, said)
        return False
    return True
