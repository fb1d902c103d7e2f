"""Batches on their way to a device: one array of whole numbers, copied once, and how it is read there. Imported only
where torch is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runoff.checkpoint.config import EncoderConfig
from runoff.contracts import Batch, InputError
from runoff.engine.reference import position_rows
from runoff.engine.torch_attention import Attention
from runoff.engine.torch_model import Staged
from runoff.engine.torch_sequences import TILE, Sequences, tiles_of

# FlashAttention takes 128 queries at a time, so fewer in the longest sequence are one shape.
_LEAST_TOKENS, _LEAST_SEQUENCES, _LEAST_LONGEST = 128, 8, 128

_ALIGNED = 4
"""Numbers that each part of a staged batch begins at a multiple of: 16 bytes, since Triton compiles a kernel anew for
pointers that are aligned to them and for those that are not."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a staged batch is: tokens, sequences, tiles of the Triton kernel, most tokens of a sequence.

    `tiles` and `longest` are 0 where the attention asks for none.
    """

    tokens: int
    sequences: int
    tiles: int
    longest: int

    def parts(self, has_segments: bool) -> list[int]:
        """Numbers of ids, positions, segments (if any), offsets and tiles, each filled up to be aligned."""
        tokens = [self.tokens] * (3 if has_segments else 2)
        return [-(-size // _ALIGNED) * _ALIGNED for size in (*tokens, self.sequences + 1, 2 * self.tiles)]

    def numbers(self, has_segments: bool) -> int:
        return sum(self.parts(has_segments))


def shape_of(batch: Batch, attention: Attention) -> Shape:
    """The shape of a batch as it is."""
    lengths = np.diff(batch.offsets)
    tiles = int((-(-lengths // TILE)).sum()) if attention.needs_tiles else 0
    return Shape(batch.token_count, len(batch), tiles, int(lengths.max()) if attention.needs_longest else 0)


def bucket_of(shape: Shape) -> Shape:
    """The next larger shape that a graph is recorded for: eighths of a power of two for tokens (at most an eighth is
    filling, 6 % in the mean), powers of two for the rest."""
    tokens = _eighths(max(shape.tokens, _LEAST_TOKENS))
    sequences = _power(max(shape.sequences, _LEAST_SEQUENCES))
    tiles = tokens // TILE + sequences if shape.tiles else 0
    return Shape(tokens, sequences, tiles, _power(max(shape.longest, _LEAST_LONGEST)) if shape.longest else 0)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _eighths(number: int) -> int:
    step = max(1, _power(number) // 16)
    return -(-number // step) * step


def check_ids(encoder: EncoderConfig, batch: Batch) -> None:
    """Raises `InputError` for ids beyond the model's tables: after such a lookup a process can use its GPU no more."""
    for what, ids, rows in (
        ("token", batch.ids, encoder.vocab_size),
        ("segment", batch.type_ids, encoder.type_vocab_size),
    ):
        if rows and len(ids) and (int(ids.max()) >= rows or int(ids.min()) < 0):
            raise InputError(
                f"{what} ids lie between {ids.min()} and {ids.max()}, but the model has {rows} rows for them: "
                "they were made by another model's tokenizer"
            )
    longest = int(np.diff(batch.offsets).max(initial=0))
    if encoder.max_positions is not None and longest > encoder.max_positions:
        raise InputError(
            f"a sequence of {longest} tokens is longer than the model's {encoder.max_positions} positions; cut it"
        )


def written(batch: Batch, shape: Shape, encoder: EncoderConfig, out: npt.NDArray[np.int32]) -> None:
    """Writes the batch to `out` [shape.numbers(...)], filled up to the shape by tokens and sequences of none."""
    is_bert = encoder.family == "bert"
    parts = [
        (batch.ids, 0),
        (position_rows(encoder, batch) if is_bert else batch.positions, 0),
        *([(batch.type_ids, 0)] if is_bert else []),
        (batch.offsets, batch.token_count),
        (tiles_of(batch.offsets).ravel() if shape.tiles else np.zeros(0, np.int32), -1),
    ]
    place = 0
    for (values, filling), size in zip(parts, shape.parts(is_bert), strict=True):
        out[place : place + len(values)] = values
        out[place + len(values) : place + size] = filling
        place += size


def read(numbers: torch.Tensor, shape: Shape, has_segments: bool, host: npt.NDArray[np.int32]) -> Staged:
    """The batch that `written` has laid out, as views of `numbers` on the device; `host` are its own offsets."""
    parts = numbers.split(shape.parts(has_segments))
    ids, positions, *segments = (part[: shape.tokens] for part in parts[:-2])
    offsets = parts[-2][: shape.sequences + 1]
    # A sequence of filling begins behind the last token, where there may be no row.
    first = offsets[:-1].clamp_max(shape.tokens - 1).long()
    tiles = parts[-1][: 2 * shape.tiles].view(-1, 2) if shape.tiles else None
    sequences = Sequences(offsets, first, positions, tiles, shape.longest, host)
    return Staged(ids, positions, segments[0] if segments else None, sequences)
