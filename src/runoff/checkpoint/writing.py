"""Tensors -> safetensors files, fp32 -> bf16, and a model's files -> a copy."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runoff.checkpoint.modular import small_files, weight_files
from runoff.checkpoint.weights import Tensor
from runoff.contracts import CheckpointError

_ALIGNMENT = 64
_OF_THE_CARD = (".md", ".svg", ".png")


def copy_model(source: Path, out: Path) -> None:
    """Fills `out` with the model in `source`: its weights, its small files, its card with pictures, and no others."""
    card = [path.name for path in source.iterdir() if path.suffix in _OF_THE_CARD]
    weights = weight_files(source)
    folders = {Path(name).parent for name in weights}
    indexes = [
        path.relative_to(source).as_posix()
        for folder in folders
        for path in (source / folder).glob("*.index.json")
    ]
    for name in dict.fromkeys((*small_files(source), *card, *indexes, *weights)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes the tensors in their order, one behind the other, and waits until the disk has them.

    A tensor that must be aligned to more bytes comes before one that needs fewer.
    """
    with path.open("wb") as file:
        file.write(_header(tensors, metadata))
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.data).data)
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors header, filled up with spaces so that the data begin at a multiple of 64."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + math.prod(tensor.shape) * tensor.data.itemsize
        shape = list(tensor.shape)
        entries[name] = {"dtype": tensor.stored_type, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def as_bf16(tensor: Tensor, name: str) -> Tensor:
    """An fp32 tensor rounded to the nearest bf16, ties to even, as torch does; `CheckpointError` for a value that is
    not finite, or would not be."""
    bits = np.ascontiguousarray(tensor.data, np.float32).view(np.uint32)
    # An exponent of all ones is an infinity or no number.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    if ((bits & 0x7F800000) == 0x7F800000).any() or ((rounded & 0x7F80) == 0x7F80).any():
        raise CheckpointError(f"the weights {name} hold values that are not finite, or would not be in bf16")
    return Tensor(rounded.astype(np.uint16), "BF16")
