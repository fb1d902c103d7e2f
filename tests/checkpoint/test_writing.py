"""safetensors files that others read, and bf16 rounded as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from runoff.checkpoint.weights import Tensor, read_safetensors
from runoff.checkpoint.writing import as_bf16, write_safetensors
from runoff.contracts import CheckpointError

# Ties to even on both sides, the largest that stays finite, zeros, a number below bf16's normal ones.
EDGES = [
    0x3F808000,
    0x3F818000,
    0x3F808001,
    0x3F807FFF,
    0x7F7F7FFF,
    0x80000000,
    0x00000000,
    0x00018000,
    0xBF818000,
]


def test_bf16_is_rounded_as_torch_rounds_it(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1).normal(scale=10.0, size=5000).astype(np.float32)
    values = np.concatenate([np.array(EDGES, np.uint32).view(np.float32), drawn]).reshape(-1, 1)
    tensors = {"a": as_bf16(Tensor(values, "F32"), "a"), "n": Tensor(np.arange(3, dtype=np.uint8), "U8")}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    found = load_file(tmp_path / "x.safetensors")
    assert found["a"].dtype == torch.bfloat16
    assert found["a"].view(torch.int16).equal(torch.from_numpy(values).bfloat16().view(torch.int16))
    assert found["n"].tolist() == [0, 1, 2]
    again = read_safetensors(tmp_path / "x.safetensors")["a"].float32()
    np.testing.assert_array_equal(again, found["a"].float().numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3.4e38)])
def test_what_is_not_finite_in_bf16_is_refused(value: float) -> None:
    with pytest.raises(CheckpointError, match="the weights w hold values that are not finite"):
        as_bf16(Tensor(np.array([1.0, value], np.float32), "F32"), "w")
