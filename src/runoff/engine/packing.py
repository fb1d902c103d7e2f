"""Weights -> the order in which the native kernels want them: heads padded, halves interleaved, scales folded in.

The kernels' own layout (panels of 16 outputs, integers and their scales) is the business of `runoff._native`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runoff.checkpoint.config import EncoderConfig
from runoff.checkpoint.quantized import PANEL
from runoff.contracts import FloatArray

Order = npt.NDArray[np.int64]
"""Places in the original order; -1 stands for a zero that fills a panel."""

_LOG2_E = 1.4426950408889634


def padded(size: int, multiple: int = PANEL) -> int:
    """`size` rounded up to a multiple."""
    return -(-size // multiple) * multiple


def rotary_half(encoder: EncoderConfig) -> int:
    """Elements of half a head as the kernels keep it; 0 for a model without rotary positions."""
    return padded(encoder.head_size // 2, 8) if encoder.family == "modernbert" else 0


def head_order(encoder: EncoderConfig) -> Order:
    """A head's elements as the kernels keep them.

    A rotation pairs element j with j + D/2. Panels of 8 elements of the first half and the same 8 of the second
    let it happen inside a panel; scores do not change, since queries and keys are reordered alike.
    """
    size = encoder.head_size
    if encoder.family != "modernbert":
        return _filled(np.arange(size), padded(size))
    half = size // 2
    first = _filled(np.arange(half), rotary_half(encoder)).reshape(-1, 8)
    second = np.where(first < 0, -1, first + half)
    return np.concatenate([first, second], axis=1).reshape(-1)


def mixed_order(encoder: EncoderConfig) -> Order:
    """The columns of `attn_out`: every head in `head_order`."""
    order = head_order(encoder)
    starts = np.arange(encoder.head_count)[:, None] * encoder.head_size
    return np.where(order < 0, -1, starts + order).reshape(-1)


def qkv_order(encoder: EncoderConfig) -> Order:
    """The rows of `qkv`: queries, keys, values, each in `mixed_order`."""
    order = mixed_order(encoder)
    starts = np.arange(3)[:, None] * encoder.hidden_size
    return np.where(order < 0, -1, starts + order).reshape(-1)


def inner_order(encoder: EncoderConfig) -> Order:
    """The columns of `mlp_out`."""
    return _filled(np.arange(encoder.intermediate_size), padded(encoder.intermediate_size))


def mlp_in_order(encoder: EncoderConfig) -> Order:
    """The rows of `mlp_in`; of a gated MLP, 16 values and their 16 gates in turn."""
    values = inner_order(encoder)
    if encoder.family != "modernbert":
        return values
    gates = np.where(values < 0, -1, values + encoder.intermediate_size)
    return np.concatenate([values.reshape(-1, PANEL), gates.reshape(-1, PANEL)], axis=1).reshape(-1)


def matrix_shape(encoder: EncoderConfig, part: str) -> tuple[int, int]:
    """(outputs, inputs) of a layer's matrix ("qkv") in these orders."""
    hidden, mixed, inner = encoder.hidden_size, len(mixed_order(encoder)), len(inner_order(encoder))
    return {
        "qkv": (3 * mixed, hidden),
        "attn_out": (hidden, mixed),
        "mlp_in": (len(mlp_in_order(encoder)), hidden),
        "mlp_out": (hidden, inner),
    }[part]


def taken(array: FloatArray, order: Order, axis: int = 0) -> FloatArray:
    """`array` in the given order along an axis, zeros where it says -1."""
    if np.array_equal(order, np.arange(array.shape[axis])):
        return array
    result = np.take(array, np.maximum(order, 0), axis=axis)
    if (order < 0).any():
        result[(slice(None),) * axis + (order < 0,)] = 0
    return result


def query_factor(encoder: EncoderConfig) -> np.float32:
    """What queries are multiplied with, so that 2 to the power of a score is its weight before normalisation."""
    return np.float32(encoder.head_size**-0.5 * _LOG2_E)


def scaled_queries(qkv: FloatArray, encoder: EncoderConfig) -> FloatArray:
    """`qkv` (rows in `qkv_order`, weight or bias) with its queries multiplied by `query_factor`."""
    result = qkv.copy()
    result[: len(result) // 3] *= query_factor(encoder)
    return result


def _filled(order: Order, size: int) -> Order:
    return np.concatenate([order, np.full(size - len(order), -1)]).astype(np.int64)
