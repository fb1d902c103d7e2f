"""Attention of packed sequences with gradients, for training: PyTorch's own on a GPU, blocks of sequences elsewhere.
Imported only where torch is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from runoff.engine.torch_attention import has_flash, varlen
from runoff.engine.torch_blocks import Blocked
from runoff.engine.torch_kernels import Eager
from runoff.engine.torch_sequences import Sequences


def has_packed_attention(device: str) -> bool:
    """Whether PyTorch here has variable-length attention with windows and gradients for this device."""
    return device != "cpu" and has_flash(torch.device(device), torch.bfloat16, 64)


def attend_packed(
    parts: Sequence[torch.Tensor], ends: torch.Tensor, longest: int, window: int | None, scale: float
) -> torch.Tensor:
    """softmax(scale q k^T) v of each sequence, [T, A, D]. `parts` are q, k and v, [T, A, D] each; `ends` [B + 1]."""
    query = parts[0]
    key, value = (part.to(query.dtype) for part in parts[1:])  # under autocast they may differ
    size = query.shape[-1]
    if has_flash(query.device, query.dtype, size):
        return varlen(query, key, value, (ends, ends), (longest, longest), window, scale)
    # The blocks scale by the head's size.
    qkv = torch.stack([query * (scale * size**0.5), key, value], dim=1)
    sequences = Sequences(ends, ends[:-1].long(), ends, None, longest, ends.cpu().numpy().astype(np.int32))
    return Blocked(Eager(query.dtype)).all(qkv, sequences, None, window)
