"""Encoders as a textbook has them: float64, one sequence at a time, every score computed. Plain numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.checkpoint.config import EncoderConfig
from runoff.checkpoint.weights import Tensor, Weights

Matrix = npt.NDArray[np.float64]


def random_weights(encoder: EncoderConfig, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Every canonical tensor that `encoder` needs: rows of about unit length, norms around 1."""
    generator = np.random.default_rng(seed)
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    is_bert = encoder.family == "bert"
    sizes = {"embed.token": (encoder.vocab_size, hidden)}
    if is_bert:
        sizes |= {
            "embed.position": (encoder.position_rows, hidden),
            "embed.type": (encoder.type_vocab_size, hidden),
        }
    for i in range(encoder.layer_count):
        sizes |= {f"{i}.qkv": (3 * hidden, hidden), f"{i}.attn_out": (hidden, hidden)}
        sizes |= {f"{i}.mlp_in": (inner if is_bert else 2 * inner, hidden), f"{i}.mlp_out": (hidden, inner)}
    layers = range(encoder.layer_count)
    norms = ["embed.norm", *(f"{i}.{part}_norm" for i in layers for part in ("attn", "mlp"))]
    weights = {
        f"{name}.weight": generator.normal(size=size) / (1 if "embed" in name else math.sqrt(size[1]))
        for name, size in sizes.items()
    }
    weights |= {
        f"{name}.bias": generator.normal(size=size[0]) / 5
        for name, size in sizes.items()
        if "embed" not in name
    }
    for name in norms if is_bert else [*norms, "final_norm"]:
        weights[f"{name}.weight"] = generator.normal(1, 0.2, size=hidden)
        weights[f"{name}.bias"] = generator.normal(0, 0.2, size=hidden)
    if not is_bert:  # ModernBERT's first layer takes the normed embeddings as they are
        del weights["0.attn_norm.weight"], weights["0.attn_norm.bias"]
    return {name: values.astype(np.float32) for name, values in weights.items()}


def as_weights(arrays: Mapping[str, npt.NDArray[np.float32]]) -> Weights:
    """The arrays as an engine takes them."""
    return Weights({name: Tensor(array, "F32") for name, array in arrays.items()})


def dense_hidden(
    encoder: EncoderConfig, weights: Mapping[str, Any], ids: npt.NDArray[Any], type_ids: npt.NDArray[Any]
) -> Matrix:
    """The encoder's last hidden states [t, H] of one sequence."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    hidden: Matrix = w["embed.token.weight"][ids]
    if encoder.family == "modernbert":
        return _dense_modernbert(encoder, w, hidden)
    hidden = hidden + w["embed.position.weight"][encoder.first_position + np.arange(len(ids))]
    hidden = _norm(w, "embed.norm", hidden + w["embed.type.weight"][type_ids], encoder.norm_eps)
    for i in range(encoder.layer_count):
        hidden = _norm(
            w, f"{i}.attn_norm", hidden + _attention(encoder, w, i, hidden, None, None), encoder.norm_eps
        )
        inner = _linear(w, f"{i}.mlp_out", _gelu(_linear(w, f"{i}.mlp_in", hidden)))
        hidden = _norm(w, f"{i}.mlp_norm", hidden + inner, encoder.norm_eps)
    return hidden


def _dense_modernbert(encoder: EncoderConfig, w: Mapping[str, Matrix], hidden: Matrix) -> Matrix:
    hidden = _norm(w, "embed.norm", hidden, encoder.norm_eps)
    for i, is_local in enumerate(encoder.is_local_layer):
        normed = hidden if i == 0 else _norm(w, f"{i}.attn_norm", hidden, encoder.norm_eps)
        window = encoder.local_window if is_local else None
        theta = encoder.local_rope_theta if is_local else encoder.global_rope_theta
        hidden = hidden + _attention(encoder, w, i, normed, window, theta)
        inner = _linear(w, f"{i}.mlp_in", _norm(w, f"{i}.mlp_norm", hidden, encoder.norm_eps))
        value, gate = np.split(inner, 2, axis=1)
        hidden = hidden + _linear(w, f"{i}.mlp_out", _gelu(value) * gate)
    return _norm(w, "final_norm", hidden, encoder.norm_eps)


def _attention(
    encoder: EncoderConfig,
    w: Mapping[str, Matrix],
    layer: int,
    hidden: Matrix,
    window: int | None,
    theta: float | None,
) -> Matrix:
    qkv = np.split(_linear(w, f"{layer}.qkv", hidden), 3, axis=1)
    mixed = []
    for head in range(encoder.head_count):
        columns = slice(head * encoder.head_size, (head + 1) * encoder.head_size)
        query, key, value = (part[:, columns] for part in qkv)
        if theta is not None:
            query, key = turned(query, theta), turned(key, theta)
        mixed.append(dense_attention(query / math.sqrt(encoder.head_size), key, value, window))
    return _linear(w, f"{layer}.attn_out", np.concatenate(mixed, axis=1))


def dense_attention(query: Matrix, key: Matrix, value: Matrix, window: int | None) -> Matrix:
    """softmax(q k^T) v of one head, all [t, D], with every pair of tokens further apart than `window` masked."""
    scores = query @ key.T
    if window is not None:
        places = np.arange(len(key))
        scores = np.where(np.abs(places[: len(query), None] - places) > window, -np.inf, scores)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)) @ value


def turned(vectors: Matrix, theta: float) -> Matrix:
    """Rotary positions 0, 1, ... as a product of complex numbers: (first half) + i (second half)."""
    half = vectors.shape[1] // 2
    angles = np.arange(len(vectors))[:, None] * theta ** (-2 * np.arange(half) / vectors.shape[1])
    complex_vectors = (vectors[:, :half] + 1j * vectors[:, half:]) * np.exp(1j * angles)
    return np.concatenate([complex_vectors.real, complex_vectors.imag], axis=1)


def _linear(w: Mapping[str, Matrix], name: str, x: Matrix) -> Matrix:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: Mapping[str, Matrix], name: str, x: Matrix, eps: float) -> Matrix:
    spread = np.sqrt(x.var(axis=1, keepdims=True) + eps)
    return (x - x.mean(axis=1, keepdims=True)) / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def _gelu(x: Matrix) -> Matrix:
    return x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))) / 2
