"""The packed numpy forward: the meaning of correct. Every other engine is measured against this one.

All arithmetic is fp32. Tokens of many sequences lie end to end, [T, H]; only attention looks at one
sequence at a time. No padding exists, and `product` computes a row alike however many rows there are:
a sequence's result does not depend on its neighbours, but for rounding (1e-5 in a score).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from runoff.checkpoint.config import Dense, EncoderConfig, LayerNorm, ModelConfig, Normalize, StaticConfig
from runoff.checkpoint.weights import Weights
from runoff.contracts import Batch, FloatArray, IntArray
from runoff.engine.threads import allowed_cpus

# Rows that a matrix product takes at a time; BLAS computes whole blocks of rows in one and the same way.
_ROW_BLOCK = 16
# Queries of one attention block: bounds the [A, block, t] scores of an 8K sequence to a few hundred MB
# and keeps a local layer's cost proportional to t.
_QUERY_BLOCK = 256


class ReferenceEngine:
    """Encoder, pooling and head of one model, in numpy.

    `observe`, where it is given, sees every matrix's name ("0.qkv") and input [rows, inputs].
    """

    name = "reference"
    precision = "fp32"
    # Activations of this many tokens stay in the L2 cache of a current core for the small models;
    # 1,024 to 4,096 measured alike, 16,384 a fifth slower (LOG.md).
    token_budget = 2048

    def __init__(
        self,
        model: ModelConfig,
        weights: Weights,
        observe: Callable[[str, FloatArray], None] | None = None,
    ) -> None:
        self._model = model
        self._observe = observe
        self._table = weights.table("embed.token.weight")
        wanted = (name for name in weights if name != "embed.token.weight")
        self._weights = {name: weights[name] for name in wanted}

    def forward(self, batch: Batch) -> FloatArray:
        """Head outputs [B, L] of a reranker or vectors [B, D] of an embedder, before any activation."""
        encoder = self._model.encoder
        if isinstance(encoder, StaticConfig):
            hidden = self._table.rows(batch.ids)
        elif encoder.family == "bert":
            hidden = self._bert(encoder, batch)
        else:
            hidden = self._modernbert(encoder, batch)
        if self._needs_only_cls and not isinstance(encoder, StaticConfig):
            pooled = hidden  # the last layer has already left out everything but the first tokens
        else:
            pooled = np.concatenate(
                [_POOLS[mode](hidden, batch.offsets) for mode in self._model.pooling], axis=1
            )
        return self._head(pooled)

    @property
    def _needs_only_cls(self) -> bool:
        return self._model.pooling == ("cls",)

    # --- encoders ---------------------------------------------------------------------------------

    def _bert(self, encoder: EncoderConfig, batch: Batch) -> FloatArray:
        """BERT and RoBERTa: post-norm layers, learned positions."""
        w = self._weights
        hidden = self._table.rows(batch.ids)
        hidden += w["embed.position.weight"][position_rows(encoder, batch)]
        hidden += w["embed.type.weight"][batch.type_ids]
        hidden = self._norm("embed.norm", hidden, encoder.norm_eps)
        for i in range(encoder.layer_count):
            rows = self._rows_needed(encoder, i, batch)
            hidden, mixed = self._attention(encoder, i, hidden, batch, rows)
            mixed += hidden
            hidden = self._norm(f"{i}.attn_norm", mixed, encoder.norm_eps)
            inner = ACTIVATIONS[encoder.activation](self._linear(f"{i}.mlp_in", hidden))
            inner = self._linear(f"{i}.mlp_out", inner)
            inner += hidden
            hidden = self._norm(f"{i}.mlp_norm", inner, encoder.norm_eps)
        return hidden

    def _modernbert(self, encoder: EncoderConfig, batch: Batch) -> FloatArray:
        """ModernBERT: pre-norm layers, rotary positions, GeGLU, a window of tokens in local layers."""
        hidden = self._norm("embed.norm", self._table.rows(batch.ids), encoder.norm_eps)
        for i in range(encoder.layer_count):
            rows = self._rows_needed(encoder, i, batch)
            normed = hidden if i == 0 else self._norm(f"{i}.attn_norm", hidden, encoder.norm_eps)
            _, mixed = self._attention(encoder, i, normed, batch, rows)
            mixed += hidden if rows is None else hidden[rows]
            hidden = mixed
            inner = self._linear(f"{i}.mlp_in", self._norm(f"{i}.mlp_norm", hidden, encoder.norm_eps))
            value, gate = inner[:, : encoder.intermediate_size], inner[:, encoder.intermediate_size :]
            value = ACTIVATIONS[encoder.activation](value)
            value *= gate
            hidden = hidden + self._linear(f"{i}.mlp_out", value)
        return self._norm("final_norm", hidden, encoder.norm_eps)

    def _rows_needed(self, encoder: EncoderConfig, layer: int, batch: Batch) -> IntArray | None:
        """In the last layer, the first token of each sequence where nothing else is pooled; else all."""
        is_last = layer == encoder.layer_count - 1
        return batch.offsets[:-1] if is_last and self._needs_only_cls else None

    def _attention(
        self, encoder: EncoderConfig, layer: int, hidden: FloatArray, batch: Batch, rows: IntArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """(the rows of `hidden` that go on, their attention output): all rows, or `rows` alone."""
        heads, size = encoder.head_count, encoder.head_size
        qkv = self._linear(f"{layer}.qkv", hidden).reshape(-1, 3, heads, size)
        window = None
        if encoder.family == "modernbert":
            is_local = encoder.is_local_layer[layer]
            window = encoder.local_window if is_local else None
            theta = encoder.local_rope_theta if is_local else encoder.global_rope_theta
            rotate(qkv[:, :2], batch.positions, theta)
        qkv[:, 0] *= np.float32(size**-0.5)
        kept = hidden if rows is None else hidden[rows]
        mixed = np.empty((len(kept), heads, size), np.float32)

        def mix(i: int) -> None:
            start, end = int(batch.offsets[i]), int(batch.offsets[i + 1])
            query, key, value = (qkv[start:end, part].transpose(1, 0, 2) for part in range(3))
            if rows is None:
                attend(query, key, value, window, out=mixed[start:end].transpose(1, 0, 2))
            else:
                attend(query[:, :1], key, value, window, out=mixed[i : i + 1].transpose(1, 0, 2))

        _on_all_cores(mix, range(len(batch)))
        return kept, self._linear(f"{layer}.attn_out", mixed.reshape(len(kept), heads * size))

    # --- parts --------------------------------------------------------------------------------------

    def _linear(self, name: str, x: FloatArray) -> FloatArray:
        if self._observe is not None:
            self._observe(name, x)
        y = product(x, self._weights[f"{name}.weight"])
        bias = self._weights.get(f"{name}.bias")
        if bias is not None:
            y += bias
        return y

    def _norm(self, name: str, x: FloatArray, eps: float) -> FloatArray:
        return layer_norm(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"), eps)

    def _head(self, pooled: FloatArray) -> FloatArray:
        for step in self._model.head:
            if isinstance(step, Normalize):
                pooled = normalized(pooled)
            elif isinstance(step, LayerNorm):
                pooled = self._norm(step.name, pooled, step.eps)
            else:
                pooled = self._dense(step, pooled)
        return pooled

    def _dense(self, step: Dense, x: FloatArray) -> FloatArray:
        y = ACTIVATIONS[step.activation](self._linear(step.name, x))
        if step.needs_projection:
            y = y + product(x, self._weights[f"{step.name}.residual"])
        elif step.has_residual:
            y = y + x
        return y


def normalized(vectors: FloatArray) -> FloatArray:
    """`vectors` [N, D], each divided by its Euclidean length."""
    # torch.nn.functional.normalize divides by at least 1e-12
    result: FloatArray = vectors / np.maximum(
        np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12)
    )
    return result


def _on_all_cores(work: Callable[[int], None], items: range) -> None:
    """`work` on every item, spread over the cores: numpy lets go of the interpreter lock inside its loops.

    Matrix products thread themselves; this is for the rest, which was 40 % of a forward on two cores.
    """
    cores = len(allowed_cpus())
    if cores == 1 or len(items) == 1:
        for item in items:
            work(item)
        return
    # A few shares a core, so that a core which gets the long sequences does not hold up the others.
    shares = [items[i :: 4 * cores] for i in range(min(len(items), 4 * cores))]

    def work_on(share: range) -> None:
        for item in share:
            work(item)

    list(_workers().map(work_on, shares))


@functools.cache
def _workers() -> ThreadPoolExecutor:
    # Threads do not survive a fork: a child makes its own.
    os.register_at_fork(after_in_child=_workers.cache_clear)
    return ThreadPoolExecutor(len(allowed_cpus()), thread_name_prefix="runoff")


def product(x: FloatArray, weight: FloatArray) -> FloatArray:
    """`x` [T, H] times the transpose of `weight` [O, H]; a row's result hardly depends on T.

    BLAS has other kernels for the last few rows than for whole blocks, and they round differently (1e-5 in a score
    after some layers), so the last rows are filled up to a block. With OpenBLAS on AVX-512 rows are then equal bit
    for bit; on AVX2, which takes twelve rows at a time, within rounding (3e-6 in a row of results around 1).
    """
    whole = len(x) - len(x) % _ROW_BLOCK
    y = np.empty((len(x), len(weight)), np.float32)
    np.matmul(x[:whole], weight.T, out=y[:whole])
    if whole < len(x):
        last = np.zeros((_ROW_BLOCK, x.shape[1]), np.float32)
        last[: len(x) - whole] = x[whole:]
        y[whole:] = (last @ weight.T)[: len(x) - whole]
    return y


def position_rows(encoder: EncoderConfig, batch: Batch) -> IntArray:
    """Rows of the position table. RoBERTa counts from `first_position` and skips padding ids in the text."""
    if encoder.first_position == 0:
        return batch.positions
    is_token = batch.ids != encoder.pad_token_id
    if is_token.all():
        return batch.positions + np.int32(encoder.first_position)
    counted = np.cumsum(is_token)
    before = np.concatenate([[0], counted])[batch.offsets[:-1]]
    within = counted - np.repeat(before, np.diff(batch.offsets))
    rows: IntArray = (within * is_token + encoder.pad_token_id).astype(np.int32)
    return rows


def attend(
    query: FloatArray, key: FloatArray, value: FloatArray, window: int | None, out: FloatArray
) -> None:
    """softmax(q k^T) v of one sequence, written to `out` [A, rows, D]; `query` is already scaled.

    With a `window`, token i sees tokens i - window .. i + window, and only that band is computed.
    """
    rows, length = query.shape[1], key.shape[1]
    for start in range(0, rows, _QUERY_BLOCK):
        end = min(start + _QUERY_BLOCK, rows)
        first, last = (0, length) if window is None else (max(0, start - window), min(length, end + window))
        scores = query[:, start:end] @ key[:, first:last].transpose(0, 2, 1)
        if window is not None and last - first > window + 1:
            distance = np.arange(start, end)[:, None] - np.arange(first, last)
            scores[:, np.abs(distance) > window] = -np.inf
        softmax(scores)
        np.matmul(scores, value[:, first:last], out=out[:, start:end])


def softmax(scores: FloatArray) -> None:
    """Softmax over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)


def rotate(vectors: FloatArray, positions: IntArray, theta: float) -> None:
    """Rotary position embedding of `vectors` [T, ..., A, D], in place.

    Element j of the first half and of the second form a pair that is turned by position * theta^(-2j/D)
    (Su et al., arXiv 2104.09864, in the half-split layout of GPT-NeoX and ModernBERT).
    """
    half = vectors.shape[-1] // 2
    frequencies = 1.0 / theta ** (np.arange(half, dtype=np.float32) / np.float32(half))
    angles = positions[:, None].astype(np.float32) * frequencies.astype(np.float32)
    shape = (len(positions),) + (1,) * (vectors.ndim - 2) + (half,)
    cos, sin = np.cos(angles).reshape(shape), np.sin(angles).reshape(shape)
    first, second = vectors[..., :half].copy(), vectors[..., half:].copy()
    vectors[..., :half] = first * cos - second * sin
    vectors[..., half:] = second * cos + first * sin


def layer_norm(x: FloatArray, weight: FloatArray, bias: FloatArray | None, eps: float) -> FloatArray:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    centred: FloatArray = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("ij,ij->i", centred, centred)[:, None] / np.float32(x.shape[-1])
    centred *= 1.0 / np.sqrt(variance + np.float32(eps))
    centred *= weight
    if bias is not None:
        centred += bias
    return centred


# --- activations -----------------------------------------------------------------------------------


def erf(x: FloatArray) -> FloatArray:
    """The error function to 6e-7: Abramowitz and Stegun's formula 7.1.26 (1.5e-7), and fp32 rounding."""
    size = np.abs(x)
    t = 1.0 / (1.0 + np.float32(0.3275911) * size)
    poly = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly *= t
        poly += np.float32(coefficient)
    poly *= t
    np.square(size, out=size)
    np.negative(size, out=size)
    np.exp(size, out=size)
    poly *= size
    np.subtract(1.0, poly, out=poly)
    np.copysign(poly, x, out=poly)
    return poly


def gelu(x: FloatArray) -> FloatArray:
    """x * (1 + erf(x / sqrt 2)) / 2, in blocks that stay in cache."""
    out = np.empty(x.shape, np.float32)
    block = max(1, 32768 // x.shape[-1])

    def work(number: int) -> None:
        rows = slice(number * block, (number + 1) * block)
        phi = erf(x[rows] * np.float32(0.5**0.5))
        phi += 1.0
        phi *= x[rows]
        np.multiply(phi, np.float32(0.5), out=out[rows])

    _on_all_cores(work, range(-(-len(x) // block)))
    return out


def _gelu_tanh(x: FloatArray) -> FloatArray:
    inner = np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x))
    return (np.float32(0.5) * x * (1.0 + inner)).astype(np.float32, copy=False)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + e^-x) without overflow."""
    positive = 1.0 / (1.0 + np.exp(-np.abs(x)))
    result: FloatArray = np.where(x >= 0, positive, 1.0 - positive).astype(np.float32)
    return result


ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "gelu": gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "identity": lambda x: x,
}


# --- pooling ---------------------------------------------------------------------------------------


def _sums(values: FloatArray, offsets: IntArray) -> FloatArray:
    # reduceat gives the next element for an empty span, so those rows are cleared afterwards.
    lengths = np.diff(offsets)
    if not lengths.all():
        padded = np.concatenate([values, np.zeros((1, values.shape[1]), np.float32)])
        sums = np.add.reduceat(padded, offsets[:-1], axis=0)
        sums[lengths == 0] = 0
        return sums
    return np.add.reduceat(values, offsets[:-1], axis=0)


def _weighted_mean(hidden: FloatArray, offsets: IntArray) -> FloatArray:
    lengths = np.diff(offsets)
    weights = (np.arange(len(hidden)) - np.repeat(offsets[:-1], lengths) + 1).astype(np.float32)[:, None]
    sums = np.maximum(_sums(weights, offsets), np.float32(1e-9))
    return (_sums(hidden * weights, offsets) / sums).astype(np.float32, copy=False)


def _mean(hidden: FloatArray, offsets: IntArray, power: float = 1.0) -> FloatArray:
    counts = np.maximum(np.diff(offsets)[:, None], 1) ** power
    return (_sums(hidden, offsets) / counts).astype(np.float32)


_POOLS: dict[str, Callable[[FloatArray, IntArray], FloatArray]] = {
    "cls": lambda hidden, offsets: hidden[offsets[:-1]],
    "lasttoken": lambda hidden, offsets: hidden[offsets[1:] - 1],
    "max": lambda hidden, offsets: np.maximum.reduceat(hidden, offsets[:-1], axis=0),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda hidden, offsets: _mean(hidden, offsets, power=0.5),
    "weightedmean": _weighted_mean,
}
