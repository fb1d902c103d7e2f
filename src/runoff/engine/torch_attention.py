"""Attention over packed sequences on a GPU (or, for tests and old cards, anywhere): four bodies, one meaning.

    varlen             PyTorch's own variable-length attention (FlashAttention 2 inside): cards from Ampere on
    triton             a kernel of ours, which turns queries and keys by their positions as it reads them
    flash_attention_2  the packages `flash-attn` or `kernels`, where one is installed
    sdpa               blocks of sequences of like length through `scaled_dot_product_attention`: any device

All take qkv [T, 3, A, D] and give [T, A, D]; `first` takes the queries of the first tokens alone. With a window, token
i sees tokens i - window .. i + window. Imported only where torch is wanted.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from runoff.contracts import InputError, MissingExtraError
from runoff.engine.torch_blocks import Blocked
from runoff.engine.torch_kernels import Kernels, Rotary
from runoff.engine.torch_sequences import TILE, Sequences


class Attention(Protocol):
    """`can_replay`: works on fixed shapes, whatever lengths are in them, so that a CUDA graph may hold it."""

    @property
    def name(self) -> str: ...
    @property
    def needs_tiles(self) -> bool: ...
    @property
    def needs_longest(self) -> bool: ...
    @property
    def can_replay(self) -> bool: ...

    def all(
        self, qkv: torch.Tensor, sequences: Sequences, rotary: Rotary | None, window: int | None
    ) -> torch.Tensor:
        """What every token sees, [T, A, D]; `qkv` may be changed."""
        ...

    def first(
        self,
        query: torch.Tensor,
        kv: torch.Tensor,
        sequences: Sequences,
        rotary: Rotary | None,
        window: int | None,
    ) -> torch.Tensor:
        """What the first token of each sequence sees, [B, A, D], of `query` [B, A, D] and `kv` [T, 2, A, D]."""
        ...


@dataclass(frozen=True, slots=True)
class Tiled:
    """Our Triton kernels."""

    name: str = "triton"
    needs_tiles: bool = True
    needs_longest: bool = False
    can_replay: bool = True

    def all(
        self, qkv: torch.Tensor, sequences: Sequences, rotary: Rotary | None, window: int | None
    ) -> torch.Tensor:
        from runoff.engine.triton_kernels import LOG2_E, attend_tiles

        assert sequences.tiles is not None, "the batch was staged without tiles"
        heads, size = qkv.shape[2:]
        out = torch.empty(len(qkv), heads, size, dtype=qkv.dtype, device=qkv.device)
        cosines, sines = rotary or (qkv, qkv)
        attend_tiles[(len(sequences.tiles), heads)](
            qkv, out, sequences.offsets, sequences.tiles, cosines, sines, size**-0.5 * LOG2_E,
            HEADS=heads, SIZE=size, WINDOW=-1 if window is None else window, TURNS=rotary is not None,
            BLOCK_M=TILE, BLOCK_N=64 if size <= 64 else 32, num_warps=4, num_stages=2,
        )  # fmt: skip
        return out

    def first(
        self,
        query: torch.Tensor,
        kv: torch.Tensor,
        sequences: Sequences,
        rotary: Rotary | None,
        window: int | None,
    ) -> torch.Tensor:
        from runoff.engine.triton_kernels import LOG2_E, attend_first

        heads, size = query.shape[1:]
        out = torch.empty_like(query)
        cosines, sines = rotary or (kv, kv)
        attend_first[(len(query), heads)](
            query, kv, out, sequences.offsets, cosines, sines, size**-0.5 * LOG2_E,
            HEADS=heads, SIZE=size, WINDOW=-1 if window is None else window, TURNS=rotary is not None,
            BLOCK_N=64, num_warps=4,
        )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class Flash:
    """FlashAttention 2, as PyTorch or another package has it; `call` is `varlen` or `_packaged`'s."""

    kernels: Kernels
    call: Any
    name: str
    needs_tiles: bool = False
    needs_longest: bool = True
    can_replay: bool = True

    def all(
        self, qkv: torch.Tensor, sequences: Sequences, rotary: Rotary | None, window: int | None
    ) -> torch.Tensor:
        if rotary is not None:
            self.kernels.rotate(qkv.flatten(1, 2), rotary, sequences.positions, 2 * qkv.shape[2])
        query, key, value = qkv.unbind(1)
        ends, longest = sequences.offsets, sequences.longest
        result: torch.Tensor = self.call(query, key, value, (ends, ends), (longest, longest), window)
        return result

    def first(
        self,
        query: torch.Tensor,
        kv: torch.Tensor,
        sequences: Sequences,
        rotary: Rotary | None,
        window: int | None,
    ) -> torch.Tensor:
        if rotary is not None:
            self.kernels.rotate(kv.flatten(1, 2), rotary, sequences.positions, kv.shape[2])
        if window is not None and sequences.longest > window + 1:
            # FlashAttention's windows end at the last query's key, which is the wrong end for a first token.
            return _first_in_window(query, kv, sequences, window)
        ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        key, value = kv.unbind(1)
        ends = (ones, sequences.offsets)
        result: torch.Tensor = self.call(query, key, value, ends, (1, sequences.longest), None)
        return result


def _first_in_window(
    query: torch.Tensor, kv: torch.Tensor, sequences: Sequences, window: int
) -> torch.Tensor:
    """The first tokens' attention over their own windows: the first window + 1 tokens of each sequence, gathered."""
    steps = torch.arange(window + 1, device=kv.device)
    lengths = sequences.offsets.diff()
    rows = (sequences.offsets[:-1, None] + steps).clamp_max(len(kv) - 1)
    key, value = (part.transpose(1, 2) for part in kv[rows].unbind(2))
    mask = (steps < lengths[:, None])[:, None, None, :]
    return F.scaled_dot_product_attention(query[:, :, None], key, value, attn_mask=mask)[:, :, 0]


def varlen(
    query: Any, key: Any, value: Any, ends: Any, longest: Any, window: int | None, scale: float | None = None
) -> Any:
    """`torch.nn.attention.varlen.varlen_attn` where it knows windows (since PyTorch 2.11), else the operator under it;
    also without gradients, where the former would fill a tensor of random states for each layer."""
    sides = (-1, -1) if window is None else (window, window)
    if torch.is_grad_enabled() and (attend := _public_varlen()):
        return attend(query, key, value, *ends, *longest, window_size=sides, scale=scale)
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *ends, *longest, 0.0, False, False, scale=scale,
        window_size_left=sides[0], window_size_right=sides[1],
    )[0]  # fmt: skip


@functools.cache
def _public_varlen() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _packaged() -> Any:
    """`flash_attn_varlen_func` of flash-attn, or else of the hub's kernel; `MissingExtraError` without both."""
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func as attend
    elif importlib.util.find_spec("kernels") is not None:
        from kernels import get_kernel

        attend = get_kernel("kernels-community/flash-attn2").flash_attn_varlen_func
    else:
        raise MissingExtraError(
            "attn_implementation='flash_attention_2' needs the package kernels or flash-attn, and neither is "
            "installed: pip install kernels, or leave it to 'auto'"
        )

    def call(query: Any, key: Any, value: Any, ends: Any, longest: Any, window: int | None) -> Any:
        sides = (-1, -1) if window is None else (window, window)
        return attend(query, key, value, *ends, *longest, window_size=sides)

    return call


NAMES = ("auto", "varlen", "triton", "flash_attention_2", "sdpa")


def attention_for(
    name: str, kernels: Kernels, device: torch.device, dtype: torch.dtype, head_size: int
) -> Attention:
    """The body of that name; "auto" is the first in the order above that this device, format and head can have.

    `dtype` is what queries are in. Raises `InputError` for a name that is none or cannot run here,
    `MissingExtraError` for a package that is not installed.
    """
    if name not in NAMES:
        raise InputError(f"attn_implementation must be one of {', '.join(NAMES)}; got {name!r}")
    if name == "sdpa" or (name == "auto" and not has_flash(device, dtype, head_size)):
        return Blocked(kernels)
    if name == "triton":
        _check_tiled(device, head_size)
        return Tiled()
    if not has_flash(device, dtype, head_size):
        raise InputError(
            f"attn_implementation={name!r} is FlashAttention 2: bf16 or fp16, heads of 8, 16, .. 256 numbers, NVIDIA "
            f"cards from Ampere on; this is {dtype}, heads of {head_size}, {device}: choose 'sdpa'"
        )
    if name == "flash_attention_2":
        return Flash(kernels, _packaged(), name)
    return Flash(kernels, varlen, "varlen")


def has_flash(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether FlashAttention 2 runs there: 16 bits, heads in steps of 8 up to 256, NVIDIA cards from Ampere on."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    if device.type != "cuda" or not is_half or head_size % 8 or head_size > 256:
        return False
    is_built = bool(torch.backends.cuda.is_flash_attention_available())
    return is_built and torch.cuda.get_device_capability(device) >= (8, 0)


def _check_tiled(device: torch.device, head_size: int) -> None:
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError("attn_implementation='triton' needs the package triton: pip install triton")
    if device.type not in ("cuda", "xpu") and not _is_interpreted():
        raise InputError(f"attn_implementation='triton' runs on a GPU, not on {device}: choose 'sdpa'")
    if head_size not in (32, 64, 128):
        raise InputError(
            f"attn_implementation='triton' is for heads of 32, 64 or 128 numbers; this model's have {head_size}: "
            "choose 'varlen' or 'sdpa'"
        )


def _is_interpreted() -> bool:
    """Whether Triton interprets its kernels, on a CPU (TRITON_INTERPRET=1)."""
    import triton

    return bool(triton.knobs.runtime.interpret)
