"""Packed attention for training: outputs and gradients of each sequence alone, with and without a window."""

from __future__ import annotations

import itertools

import pytest
import torch

from runoff.engine.packed_attention import attend_packed, has_packed_attention

LENGTHS = (150, 1, 37, 90)


def alone(parts: list[torch.Tensor], window: int | None, scale: float) -> torch.Tensor:
    """softmax(scale q k^T) v of one sequence, [t, A, D], in the plainest way."""
    query, key, value = (part.transpose(0, 1) for part in parts)
    logits = scale * query @ key.transpose(1, 2)
    if window is not None:
        steps = torch.arange(logits.shape[-1])
        logits = logits.masked_fill((steps[:, None] - steps).abs() > window, float("-inf"))
    return (logits.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 8, 64])
def test_outputs_and_gradients_are_those_of_each_sequence_alone(window: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    count, scale = sum(LENGTHS), 0.21
    parts = [torch.randn(count, 2, 16, generator=generator, requires_grad=True) for _ in range(3)]
    slope = torch.randn(count, 2, 16, generator=generator)
    ends = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0).to(torch.int32)
    found = attend_packed(parts, ends, max(LENGTHS), window, scale)
    pieces = [[part[begin:end] for part in parts] for begin, end in itertools.pairwise(ends)]
    expected = torch.cat([alone(piece, window, scale) for piece in pieces])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found, parts, slope), torch.autograd.grad(expected, parts, slope), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_a_cpu_has_none_of_its_own() -> None:
    assert has_packed_attention("cpu") is False
