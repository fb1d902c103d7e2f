"""Attention through `scaled_dot_product_attention`, over blocks of sequences of like length: any device, any format.
Imported only where torch is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from runoff.engine.torch_kernels import Kernels, Rotary
from runoff.engine.torch_sequences import Block, Sequences

# A block of sequences is as wide as its longest; the next one starts where a sequence is this much shorter.
_LEAST_SHARE = 0.8
_BLOCK_TOKENS = 16_384  # bounds the [b, A, t, t] scores that a device without fused attention writes out
_BAND_FROM = 4  # windows: of a longer sequence, a band of three is cheaper than all keys


@dataclass(frozen=True, slots=True)
class Blocked:
    """PyTorch's attention over blocks of sequences of like length, each padded to its longest."""

    kernels: Kernels
    name: str = "sdpa"
    needs_tiles: bool = False
    needs_longest: bool = False
    can_replay: bool = False

    def all(
        self, qkv: torch.Tensor, sequences: Sequences, rotary: Rotary | None, window: int | None
    ) -> torch.Tensor:
        if rotary is not None:
            self.kernels.rotate(qkv.flatten(1, 2), rotary, sequences.positions, 2 * qkv.shape[2])
        out = torch.empty(len(qkv), *qkv.shape[2:], dtype=qkv.dtype, device=qkv.device)
        for block in _blocks(sequences, qkv.device):
            query, key, value = (part.transpose(1, 2) for part in qkv[block.rows].unbind(2))
            width = block.rows.shape[1]
            if window is not None and width > _BAND_FROM * max(window, 16):
                mixed = _banded(query, key, value, window, block.is_token)
            else:
                mask = _mask(width, window, block, qkv.device)
                mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            mixed, rows = mixed.transpose(1, 2).flatten(0, 1), block.rows.flatten()
            if block.places is None:
                out[rows] = mixed
            else:
                out[rows[block.places]] = mixed[block.places]
        return out

    def first(
        self,
        query: torch.Tensor,
        kv: torch.Tensor,
        sequences: Sequences,
        rotary: Rotary | None,
        window: int | None,
    ) -> torch.Tensor:
        if rotary is not None:
            self.kernels.rotate(kv.flatten(1, 2), rotary, sequences.positions, kv.shape[2])
        out = torch.empty_like(query)
        for block in _blocks(sequences, query.device):
            width = block.rows.shape[1] if window is None else min(block.rows.shape[1], window + 1)
            key, value = (part.transpose(1, 2) for part in kv[block.rows[:, :width]].unbind(2))
            mask = None if block.is_token is None else block.is_token[:, None, None, :width]
            asked = query[block.sequences][:, :, None]
            out[block.sequences] = F.scaled_dot_product_attention(asked, key, value, attn_mask=mask)[:, :, 0]
        return out


def _blocks(sequences: Sequences, device: torch.device) -> list[Block]:
    """The blocks of a batch: made for its first layer, kept for the others."""
    if not sequences.blocks:
        sequences.blocks.extend(_blocks_of(sequences.host, device))
    return sequences.blocks


def _blocks_of(offsets: npt.NDArray[np.int32], device: torch.device) -> list[Block]:
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    blocks, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        most = max(1, _BLOCK_TOKENS // longest)
        chosen = order[start : start + most]
        chosen = chosen[lengths[chosen] >= _LEAST_SHARE * longest]
        steps = np.arange(longest)
        is_token = steps < lengths[chosen][:, None]
        rows = np.where(is_token, offsets[chosen][:, None] + steps, offsets[chosen][:, None])
        parts = [chosen, rows] if is_token.all() else [chosen, rows, is_token, np.flatnonzero(is_token)]
        tensors = [_sent(part, device) for part in parts]
        blocks.append(Block(*tensors, *[None] * (4 - len(tensors))))
        start += len(chosen)
    return blocks


def _sent(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """The array on the device; on NVIDIA's from pinned memory, which is not waited for."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _mask(width: int, window: int | None, block: Block, device: torch.device) -> torch.Tensor | None:
    """[b, 1, t, t] or what broadcasts to it: which keys a query sees; None where it is all."""
    mask = None if block.is_token is None else block.is_token[:, None, None, :]
    if window is not None and width > window + 1:
        steps = torch.arange(width, device=device)
        near = (steps[:, None] - steps).abs() <= window
        mask = near if mask is None else mask & near
    return mask


def _banded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, is_token: torch.Tensor | None
) -> torch.Tensor:
    """Local attention [b, A, t, D] whose cost grows with t alone: blocks of queries, each over three of keys."""
    b, heads, width, size = query.shape
    step = max(window, 16)
    count = -(-width // step)
    spare = count * step - width
    exists = torch.ones(b, width, dtype=torch.bool, device=query.device) if is_token is None else is_token
    exists = F.pad(exists, (step, spare + step)).unfold(1, 3 * step, step)  # [b, count, 3 step]

    def neighbours(x: torch.Tensor) -> torch.Tensor:  # [b, A, t, D] -> [b count, A, 3 step, D]
        parts = F.pad(x, (0, 0, step, spare + step)).unfold(2, 3 * step, step)
        return parts.permute(0, 2, 1, 4, 3).reshape(b * count, heads, 3 * step, size)

    asked = F.pad(query, (0, 0, 0, spare)).view(b, heads, count, step, size)
    asked = asked.transpose(1, 2).reshape(b * count, heads, step, size)
    rows, columns = (torch.arange(n, device=query.device) for n in (step, 3 * step))
    distance = rows[:, None] + step - columns
    # A query behind the last token sees itself: the softmax of nothing is no number.
    mask = ((distance.abs() <= window) & exists.reshape(b * count, 1, 1, 3 * step)) | (distance == 0)
    mixed = F.scaled_dot_product_attention(asked, neighbours(key), neighbours(value), attn_mask=mask)
    mixed = mixed.view(b, count, heads, step, size).transpose(1, 2)
    return mixed.reshape(b, heads, count * step, size)[:, :, :width]
