"""How many floating-point operations a pair costs, and what a GPU could do of them in a second.

Matrix products only, a multiplication and an addition each; lookups, norms and activations are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.checkpoint.files import CONFIG, MODULES, read_json

Lengths = npt.NDArray[np.int64]

# DeBERTa's relative positions fall into 2 x 256 buckets (position_buckets), to which each token is compared twice.
_RELATIVE_POSITIONS = 512
_GATED = ("modernbert", "qwen2")


@dataclass(frozen=True, slots=True)
class Flops:
    """Of all pairs together. `model`: every token through every layer, attention as far as each layer sees.
    `needed`: the same with the one token that is pooled alone in the last layer."""

    model: float
    needed: float


def flops_of(folder: Path, lengths: Lengths) -> Flops | None:
    """What sequences of these tokens [N] cost by the config.json in `folder`; None for a family unknown here."""
    config = read_json(folder / CONFIG)
    if config.get("model_type") not in _VISIBLE:
        return None
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    keys = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    keys_width = hidden // int(config["num_attention_heads"]) * keys
    matrices = 3 if config["model_type"] in _GATED else 2
    mlp = matrices * hidden * int(config["intermediate_size"])
    token = 2.0 * (2 * hidden * hidden + 2 * hidden * keys_width + mlp)
    windows = _windows(config, layers)
    attention = [4.0 * hidden * float(_visible(config, lengths, window).sum()) for window in windows]
    head = 2.0 * (hidden * hidden + hidden) * len(lengths)
    tokens = float(lengths.sum())
    model = layers * token * tokens + sum(attention) + head
    if not _pools_one(folder, config):
        return Flops(model, model)
    # Of the last layer: keys and values of all tokens, the rest of one.
    last = 4.0 * hidden * keys_width * tokens
    last += (token - 4.0 * hidden * keys_width) * len(lengths)
    last += 4.0 * hidden * float(_seen_by_one(config, lengths, windows[-1]).sum())
    return Flops(model, model - token * tokens - attention[-1] + last)


def _windows(config: Mapping[str, Any], layers: int) -> list[int | None]:
    """Tokens that each layer sees to each side; None: all."""
    if config["model_type"] != "modernbert":
        return [None] * layers
    every = int(config.get("global_attn_every_n_layers", 3))
    kinds = config.get("layer_types") or ["sliding" if i % every else "full" for i in range(layers)]
    return [
        int(config.get("local_attention", 128)) // 2 if kind.startswith("sliding") else None for kind in kinds
    ]


def _visible(config: Mapping[str, Any], lengths: Lengths, window: int | None) -> Lengths:
    """Pairs of a token and one that it sees, in each sequence."""
    return _VISIBLE[config["model_type"]](lengths, window)


def _both_ways(lengths: Lengths, window: int | None) -> Lengths:
    if window is None:
        return lengths**2
    # A token sees itself and up to `window` on each side; the first and last `window` of a sequence see fewer.
    windowed = lengths * (2 * window + 1) - window * (window + 1)
    return np.where(lengths <= window, lengths**2, windowed)


def _backwards(lengths: Lengths, _window: int | None) -> Lengths:
    return lengths * (lengths + 1) // 2


def _disentangled(lengths: Lengths, _window: int | None) -> Lengths:
    """Content to content and the values, 4 operations a pair; content to position and back, 2 each."""
    return lengths**2 + lengths * _RELATIVE_POSITIONS


_VISIBLE = {
    "bert": _both_ways,
    "roberta": _both_ways,
    "xlm-roberta": _both_ways,
    "camembert": _both_ways,
    "modernbert": _both_ways,
    "deberta-v2": _disentangled,
    "qwen2": _backwards,
}


def _seen_by_one(config: Mapping[str, Any], lengths: Lengths, window: int | None) -> Lengths:
    """Tokens that the pooled one sees: the first one, or a causal model's last."""
    if config["model_type"] == "deberta-v2":
        return lengths + _RELATIVE_POSITIONS
    return lengths if window is None else np.minimum(lengths, window + 1)


def _pools_one(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether one token of a sequence is all that its score needs of the last layer."""
    if (folder / MODULES).is_file():
        modules = read_json(folder / MODULES, kind=list)
        pooling = next((each for each in modules if str(each.get("type", "")).endswith("Pooling")), None)
        if pooling is not None:
            stored = read_json(folder / pooling["path"] / CONFIG)
            return bool(stored.get("pooling_mode") == "cls" or stored.get("pooling_mode_cls_token"))
    return bool(config.get("classifier_pooling", "cls") == "cls" or config["model_type"] != "modernbert")


# --- what a GPU could do ---------------------------------------------------------------------------------

# Dense peaks in TFLOP/s, without sparsity, by NVIDIA's data sheets: H100 and H200 Tensor Core GPU (half of the
# figures "with sparsity"), A100, L4, L40S, A10; the Ada and GA102 white papers for GeForce (fp32 accumulation).
# By words of the device's name, the first that fits: (bf16 and fp16, fp32 without TF32, int8 and fp8 where there is).
_PEAKS: tuple[tuple[str, tuple[float, float, float | None]], ...] = (
    ("H100 PCIe", (756.0, 51.0, 1513.0)),
    ("H100 NVL", (835.0, 60.0, 1671.0)),
    ("H100", (989.4, 66.9, 1978.9)),
    ("H200", (989.4, 66.9, 1978.9)),
    ("A100", (311.9, 19.5, 623.7)),
    ("L40S", (362.0, 91.6, 733.0)),
    ("L4", (121.0, 30.3, 242.0)),
    ("A10", (125.0, 31.2, 250.0)),
    ("RTX 4090", (165.2, 82.6, 330.3)),
    ("RTX 3090", (71.0, 35.6, 142.0)),
)


def peak_tflops(device_name: str, precision: str) -> float | None:
    """The most TFLOP/s of a GPU in a precision; None for one that is not in the table, and for a CPU."""
    for name, (half, single, eighth) in _PEAKS:
        if all(word in device_name for word in name.split()):
            return {"fp32": single, "int8": eighth, "fp8": eighth}.get(precision, half)
    return None
