"""What the server and its workers send each other: frames of a JSON head and raw arrays. No pickles.

8 bytes   lengths of head and payload, two little-endian 32-bit numbers
head      JSON: "kind", "number", and what belongs to the kind
payload   a packed batch: ids [T], segment ids [T], lengths [B], int32; or its scores [B], float32
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

import numpy as np

from runoff.contracts import Batch, FloatArray
from runoff.text.batching import packed

LENGTHS = struct.Struct("<II")


class Frame(NamedTuple):
    """One message."""

    head: dict[str, Any]
    payload: bytes = b""


def encoded(head: dict[str, Any], *payload: bytes) -> bytes:
    """The frame as it travels."""
    text = json.dumps(head).encode()
    return b"".join((LENGTHS.pack(len(text), sum(map(len, payload))), text, *payload))


def batch_frame(number: int, batch: Batch) -> bytes:
    """A batch to be scored; positions and rows stay here."""
    lengths = np.diff(batch.offsets).astype(np.int32)
    arrays = [np.ascontiguousarray(each, np.int32).tobytes() for each in (batch.ids, batch.type_ids, lengths)]
    head = {"kind": "batch", "number": number, "tokens": batch.token_count, "sequences": len(batch)}
    return encoded(head, *arrays)


def batch_of(frame: Frame) -> Batch:
    """The batch that `batch_frame` sent."""
    tokens, count = frame.head["tokens"], frame.head["sequences"]
    numbers = np.frombuffer(frame.payload, np.int32)
    ids, type_ids, lengths = np.split(numbers, [tokens, 2 * tokens])
    return packed(ids, type_ids, lengths.astype(np.int64), np.arange(count))


def scores_of(frame: Frame) -> FloatArray:
    """Raw scores [B] that a worker sent."""
    scores: FloatArray = np.frombuffer(frame.payload, np.float32)
    return scores
