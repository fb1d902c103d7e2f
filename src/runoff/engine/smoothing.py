"""Outlier smoothing before int8: channels that dwarf the others hand their size to the weights (SmoothQuant).

A matrix W reads x. For factors s > 0, W diag(s) applied to x / s is the same product, and x / s is exact where what
comes before is linear in each channel: a norm's weight and bias, the value rows of `qkv`, the gates of a gated MLP.
(Xiao et al., arXiv 2211.10438.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runoff.checkpoint.config import EncoderConfig, ModelConfig
from runoff.checkpoint.quantized import MATRICES
from runoff.checkpoint.weights import Tensor, Weights
from runoff.contracts import FloatArray, PackedEngine
from runoff.engine.reference import ReferenceEngine

PARTS = ("attn_out", "mlp_out", "qkv", "mlp_in")
"""Matrices whose inputs are smoothed, in this order: the first two change rows of the others."""

# Beyond this a channel's rounding moves to the weights.
_LARGEST_FACTOR = 32.0

Peaks = dict[str, FloatArray]
"""Of each matrix ("0.qkv") the largest magnitude of each of its inputs."""


def input_peaks(model: ModelConfig, weights: Weights, run: Callable[[PackedEngine], object]) -> Peaks:
    """The peaks of every layer matrix's input, while `run` scores the calibration texts."""
    peaks: Peaks = {}

    def observe(name: str, x: FloatArray) -> None:
        if name.rpartition(".")[2] in MATRICES:
            found = np.abs(x).max(axis=0)
            peaks[name] = np.maximum(peaks[name], found) if name in peaks else found

    run(ReferenceEngine(model, weights, observe))
    return peaks


def parts_to_smooth(encoder: EncoderConfig) -> tuple[str, ...]:
    """The parts that a family lets smooth. BERT's norms feed the residual stream too, and its MLP has no gate."""
    return PARTS if encoder.family == "modernbert" else ("attn_out",)


def smoothed(encoder: EncoderConfig, weights: Weights, peaks: Peaks, part: str) -> Weights:
    """`weights` with the inputs of one part smoothed in every layer; the model's outputs stay what they were."""
    changed: dict[str, FloatArray] = {}

    def scale(name: str, factors: FloatArray, rows: slice = slice(None)) -> None:
        if name in weights:
            array = changed[name] = weights[name].copy()
            array[rows] *= factors if array.ndim == 1 or part_of(name) == part else factors[:, None]

    for layer in range(encoder.layer_count):
        if part == "qkv" and layer == 0:  # its norm is the embeddings' own, which feeds the residual stream
            continue
        name = f"{layer}.{part}"
        factors = _factors(peaks[name], weights[f"{name}.weight"])
        scale(f"{name}.weight", factors)
        before, rows = _before(encoder, layer, part)
        for kind in ("weight", "bias"):
            scale(f"{before}.{kind}", 1.0 / factors, rows)
    tensors = {name: weights.table(name) for name in weights}
    return Weights(tensors | {name: Tensor(array, "F32") for name, array in changed.items()})


def part_of(name: str) -> str:
    """ "qkv" of "0.qkv.weight"."""
    return name.split(".")[-2]


def _before(encoder: EncoderConfig, layer: int, part: str) -> tuple[str, slice]:
    """What computes a part's input, and which of its rows."""
    if part == "attn_out":
        return f"{layer}.qkv", slice(2 * encoder.hidden_size, None)
    if part == "mlp_out":
        return f"{layer}.mlp_in", slice(encoder.intermediate_size, None)
    return f"{layer}.{'attn_norm' if part == 'qkv' else 'mlp_norm'}", slice(None)


def _factors(peak: FloatArray, weight: FloatArray) -> FloatArray:
    """What each column of `weight` [O, I] is multiplied with: the roots of both peaks' quotient, 1 on average."""
    columns = np.abs(weight).max(axis=0)
    ratio = np.sqrt(_floored(peak) / _floored(columns))
    ratio /= np.exp(np.log(ratio).mean())
    factors: FloatArray = np.clip(ratio, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR).astype(np.float32)
    return factors


def _floored(peaks: FloatArray) -> FloatArray:
    largest = float(peaks.max())
    floored: FloatArray = np.maximum(peaks, largest * np.float32(1e-4) if largest > 0 else np.float32(1.0))
    return floored
