"""Where the sequences of a packed batch lie on a device, as the attentions see them. Imported only where torch is
wanted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

TILE = 64
"""Queries of one program of the Triton kernel. 64 by 64 keeps two pipeline stages in 56 KiB of shared memory and 126
registers on sm_90, without spilling (compiled, not timed)."""


@dataclass(frozen=True, slots=True)
class Block:
    """b sequences of like length: which, their tokens' rows [b, t], and which of those are theirs (None: all).

    `places` are theirs among the b * t, made on the CPU: asking the device for them would wait for it in each layer.
    """

    sequences: torch.Tensor
    rows: torch.Tensor
    is_token: torch.Tensor | None
    places: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where a batch's sequences lie: `offsets` [B + 1], `first` [B] and `positions` [T] on the device.

    `tiles` [n, 2] is the work of the Triton kernel, `longest` the most tokens of a sequence or more. `host` are the
    offsets as the CPU knows them, and `blocks` what `Blocked` has made of them in the first layer.
    """

    offsets: torch.Tensor
    first: torch.Tensor
    positions: torch.Tensor
    tiles: torch.Tensor | None
    longest: int
    host: npt.NDArray[np.int32]
    blocks: list[Block] = field(default_factory=list)


def tiles_of(offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """[n, 2]: the sequence and first query of each tile of the Triton kernel, sequences in their order."""
    counts = -(-np.diff(offsets) // TILE)
    owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.arange(counts.sum(), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts).astype(
        np.int32
    )
    return np.stack([owners, starts * TILE], axis=1).astype(np.int32)
