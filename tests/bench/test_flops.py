"""Operations of a pair, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runoff.bench.flops import flops_of, peak_tflops

BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32}
MODERN = {**BERT, "model_type": "modernbert", "local_attention": 4, "classifier_pooling": "mean"}
MODERN["layer_types"] = ["full_attention", "sliding_attention"]


def folder_with(tmp_path: Path, config: dict[str, object]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_bert_s_products_are_counted_as_by_hand(tmp_path: Path) -> None:
    found = flops_of(folder_with(tmp_path, BERT), np.array([10, 3]))
    assert found is not None
    # A token of a layer: query, key, value and output 8x8, the MLP 8x32 twice; attention 8 wide, twice.
    token = 2 * (4 * 64 + 2 * 8 * 32)
    attention = 2 * 2 * 8 * (10 * 10 + 3 * 3)
    head = 2 * (64 + 8) * 2
    assert found.model == 2 * (token * 13 + attention) + head


def test_needed_is_one_token_in_the_last_layer(tmp_path: Path) -> None:
    found = flops_of(folder_with(tmp_path, BERT), np.array([10]))
    assert found is not None
    token = 2 * (4 * 64 + 2 * 8 * 32)
    first = token * 10 + 4 * 8 * 100
    last = 2 * 2 * 64 * 10 + 2 * (2 * 64 + 2 * 8 * 32) + 4 * 8 * 10
    assert found.needed == first + last + 2 * (64 + 8)


def test_a_window_is_counted_token_by_token(tmp_path: Path) -> None:
    lengths = np.array([1, 2, 3, 7, 50])
    found = flops_of(folder_with(tmp_path, MODERN), lengths)
    assert found is not None
    seen = sum(sum(abs(i - j) <= 2 for i in range(n) for j in range(n)) + n * n for n in lengths.tolist())
    token = 2 * (4 * 64 + 3 * 8 * 32)  # the gated MLP has three matrices
    expected = 2 * token * int(lengths.sum()) + 4 * 8 * seen + 2 * (64 + 8) * len(lengths)
    assert found.model == expected


def test_a_mean_needs_every_token_of_the_last_layer(tmp_path: Path) -> None:
    found = flops_of(folder_with(tmp_path, MODERN), np.array([9]))
    assert found is not None
    assert found.needed == found.model


def test_a_causal_model_sees_backwards_with_fewer_keys(tmp_path: Path) -> None:
    config = {**BERT, "model_type": "qwen2", "num_key_value_heads": 1}
    found = flops_of(folder_with(tmp_path, config), np.array([5]))
    assert found is not None
    token = 2 * (2 * 64 + 2 * 8 * 4 + 3 * 8 * 32)
    assert found.model == 2 * (token * 5 + 4 * 8 * 15) + 2 * (64 + 8)


def test_an_unknown_family_is_not_counted(tmp_path: Path) -> None:
    assert flops_of(folder_with(tmp_path, {**BERT, "model_type": "mamba"}), np.array([5])) is None


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "fp16", 311.9),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA GeForce RTX 3090", "bf16", 71.0),
        ("NVIDIA L40S", "int8", 733.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("a CPU", "bf16", None),
    ],
)
def test_a_peak_is_that_of_the_card_and_precision(name: str, precision: str, peak: float | None) -> None:
    assert peak_tflops(name, precision) == peak
