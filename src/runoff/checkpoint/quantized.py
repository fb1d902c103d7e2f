"""The format that `runoff quantize` writes: layer matrices packed for the native kernels, loaded by memory map.

A folder holds the model's small files, `runoff.safetensors` in the place of all its weights, and
`runoff_quantization.json`, which says what is in there; the safetensors' metadata repeat it, so that files of two
checkpoints cannot be mixed. In the data come panels first (a matrix "0.qkv" is `0.qkv.panels`, `.scales`, `.bias`),
then every other weight by its canonical name, the token table last; each begins where its numbers are aligned.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runoff.checkpoint.config import ModelConfig, StaticConfig
from runoff.checkpoint.files import read_json
from runoff.checkpoint.weights import PackedMatrix, Tensor, Weights, canonical_shapes, read_safetensors
from runoff.checkpoint.writing import write_safetensors
from runoff.contracts import CheckpointError, FloatArray

FORMAT_VERSION = 1
PACKED_WEIGHTS = "runoff.safetensors"
QUANTIZATION = "runoff_quantization.json"

MATRICES = ("qkv", "attn_out", "mlp_in", "mlp_out")
"""The weight matrices of a layer."""

KINDS = {"f32": 1, "i16": 2, "i8": 4}
"""What a matrix's products are computed in, and how many inputs of an output lie in four bytes."""

PANEL = 16
"""Outputs whose weights lie side by side."""

PRECISIONS = ("int8", "bf16")
_TABLE = "embed.token.weight"
_ADVICE = "it is damaged, or was put together from several: run runoff quantize again"


@dataclass(frozen=True, slots=True)
class Quantization:
    """What `runoff_quantization.json` says: the precision as a whole, the (kind, outputs, inputs) of each matrix, the
    checksum of all data but the token table, and everything there as it stands."""

    precision: str
    matrices: Mapping[str, tuple[str, int, int]]
    checksum: int
    about: Mapping[str, Any]


def matrix_names(model: ModelConfig) -> list[str]:
    """The layer matrices of `model`: "0.qkv", "0.attn_out", ..."""
    if isinstance(model.encoder, StaticConfig):
        return []
    return [f"{layer}.{part}" for layer in range(model.encoder.layer_count) for part in MATRICES]


def narrowed_table(weights: Weights) -> Tensor:
    """The token table as it is stored: BF16, or as it came where that has 16 bits already."""
    table = weights.table(_TABLE)
    if table.stored_type in ("BF16", "F16"):
        return table
    bits = table.float32().view(np.uint32)
    # To the nearest, a tie to the even one: what PyTorch does.
    return Tensor(
        ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
            np.uint16
        ),
        "BF16",
    )


def unpacked_tensors(model: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Every weight that is no layer matrix, as it is stored: the token table narrow, all others F32."""
    names = [name for name in _unpacked_shapes(model) if name != _TABLE]
    return {name: Tensor(weights[name], "F32") for name in names} | {_TABLE: narrowed_table(weights)}


def _unpacked_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    matrices = set(matrix_names(model))
    shapes = canonical_shapes(model).items()
    return {name: shape for name, shape in shapes if name.rpartition(".")[0] not in matrices}


# --- read ----------------------------------------------------------------------------------------------


def read_quantization(folder: Path, model: ModelConfig, role: str) -> Quantization | None:
    """What was quantized in `folder`; None where nothing was.

    Raises `CheckpointError` for a format of another version, or one that does not fit `model` or `role`.
    """
    file = folder / QUANTIZATION
    if not file.is_file():
        if (folder / PACKED_WEIGHTS).is_file():
            raise CheckpointError(
                f"{folder} holds {PACKED_WEIGHTS} and no {QUANTIZATION}: it is incomplete; copy all of its files"
            )
        return None
    about = read_json(file)
    version = about.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has the format version {version!r:.40}, this Runoff reads {FORMAT_VERSION}; install a newer "
            "Runoff, or run runoff quantize again"
        )
    if about.get("role") != role:
        loads = "CrossEncoder" if about.get("role") == "reranker" else "Embedder"
        raise CheckpointError(
            f"{folder} was quantized as {about.get('role')!r:.40}, expected {role!r}; load it with runoff.{loads}"
        )
    precision, checksum = about.get("precision"), about.get("crc32")
    if precision not in PRECISIONS or type(checksum) is not int:
        raise CheckpointError(
            f"{file}: expected a precision of {', '.join(PRECISIONS)} and a whole number as crc32, got "
            f"{precision!r:.40} and {checksum!r:.40}; {_ADVICE}"
        )
    return Quantization(precision, _matrices_of(about, model, file), checksum, about)


def _matrices_of(about: Mapping[str, Any], model: ModelConfig, file: Path) -> dict[str, tuple[str, int, int]]:
    given, expected = about.get("matrices"), matrix_names(model)
    if not expected or not isinstance(given, dict) or set(given) != set(expected):
        raise CheckpointError(f"{file} does not list the {len(expected)} matrices of the model; {_ADVICE}")
    found: dict[str, tuple[str, int, int]] = {}
    for name, entry in given.items():
        fields = entry if isinstance(entry, dict) else {}
        kind, outputs, inputs = (fields.get(key) for key in ("kind", "outputs", "inputs"))
        sizes_fit = all(type(size) is int and 0 < size < 2**31 for size in (outputs, inputs))
        if kind not in tuple(KINDS) or not sizes_fit:
            raise CheckpointError(
                f"{file}: {name} must have a kind of {', '.join(KINDS)}, outputs and inputs, got {entry!r:.80}; "
                f"{_ADVICE}"
            )
        found[name] = (str(kind), int(str(outputs)), int(str(inputs)))
    return found


def load_quantized(folder: Path, model: ModelConfig, quantization: Quantization) -> Weights:
    """The weights of a quantized checkpoint, memory-mapped; names, shapes, metadata and checksum are checked."""
    path = folder / PACKED_WEIGHTS
    tensors = read_safetensors(path)
    _check_metadata(path, quantization)
    expected = _expected(model, quantization)
    found = {name: (tensor.stored_type, tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name][0]} {list(found[name][1])}, expected {' or '.join(types)} {list(shape)}"
        for name, (types, shape) in expected.items()
        if name in found and (found[name][0] not in types or found[name][1] != shape)
    ]
    if problems:
        more = f" (and {len(problems) - 6} more)" if len(problems) > 6 else ""
        raise CheckpointError(f"{path} does not fit its model: {'; '.join(problems[:6])}{more}. {_ADVICE}")
    if _checksum(tensors) != quantization.checksum:
        raise CheckpointError(f"{path} fails its checksum: {_ADVICE}, or copy the file again")
    packed = {}
    for name, (kind, outputs, inputs) in quantization.matrices.items():
        panels = tensors.pop(f"{name}.panels").data
        scales, bias = (tensors.pop(f"{name}.{part}", None) for part in ("scales", "bias"))
        packed[name] = PackedMatrix(
            kind,
            outputs,
            inputs,
            panels,
            None if scales is None else scales.float32(),
            None if bias is None else bias.float32(),
        )
    return Weights(tensors, packed)


def _expected(
    model: ModelConfig, quantization: Quantization
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """The types and the shape of every tensor in the file."""
    expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    shapes = canonical_shapes(model)
    for name, (kind, outputs, inputs) in quantization.matrices.items():
        padded = -(-outputs // PANEL) * PANEL
        expected[f"{name}.panels"] = (("U8",), (padded * -(-inputs // KINDS[kind]) * 4,))
        if kind != "f32":
            expected[f"{name}.scales"] = (("F32",), (padded,))
        if f"{name}.bias" in shapes:
            expected[f"{name}.bias"] = (("F32",), (outputs,))
    for name, shape in _unpacked_shapes(model).items():
        expected[name] = (("BF16", "F16") if name == _TABLE else ("F32",), shape)
    return expected


def _check_metadata(path: Path, quantization: Quantization) -> None:
    # The header was checked by the safetensors library.
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    said = (header.get("__metadata__") or {}).get("runoff_quantization")
    try:
        is_same = json.loads(said or "null") == quantization.about
    except (ValueError, RecursionError):
        is_same = False
    if not is_same:
        raise CheckpointError(
            f"{path} and {QUANTIZATION} beside it say different things of the checkpoint: {_ADVICE}"
        )


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all data but the token table: that is large, and a forward reads a few rows of it."""
    checksum = 0
    for name, tensor in tensors.items():
        if name != _TABLE:
            checksum = zlib.crc32(np.ascontiguousarray(tensor.data).data, checksum)
    return checksum


# --- write ---------------------------------------------------------------------------------------------


def write_quantized(folder: Path, weights: Weights, about: Mapping[str, Any]) -> None:
    """Writes weights and description into `folder`, which nobody reads yet; waits until the disk has them.

    `about` is what the description holds beyond the format's own: role, precision, what was measured.
    """
    tensors = _in_order(weights)
    matrices = {
        name: {"kind": part.kind, "outputs": part.outputs, "inputs": part.inputs}
        for name, part in weights.packed.items()
    }
    whole = {
        "format_version": FORMAT_VERSION,
        **about,
        "matrices": matrices,
        "crc32": _checksum(tensors),
    }
    metadata = {"format": "runoff", "runoff_quantization": json.dumps(whole)}
    write_safetensors(folder / PACKED_WEIGHTS, tensors, metadata)
    with (folder / QUANTIZATION).open("w", encoding="utf-8", newline="\n") as text:
        text.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        text.flush()
        os.fsync(text.fileno())


def _in_order(weights: Weights) -> dict[str, Tensor]:
    """Tensors by the size of what they must be aligned to, largest first: no tensor needs a gap before it."""
    panels = {f"{name}.panels": Tensor(part.panels, "U8") for name, part in weights.packed.items()}

    def floats(part: str, arrays: Mapping[str, FloatArray | None]) -> dict[str, Tensor]:
        return {f"{name}.{part}": Tensor(array, "F32") for name, array in arrays.items() if array is not None}

    scales = floats("scales", {name: part.scales for name, part in weights.packed.items()})
    biases = floats("bias", {name: part.bias for name, part in weights.packed.items()})
    others = {name: weights.table(name) for name in weights if name != _TABLE}
    return {**panels, **scales, **biases, **others, _TABLE: weights.table(_TABLE)}
