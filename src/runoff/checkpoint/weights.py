"""safetensors <-> canonical names: the weights an engine asks for, checked, by one set of names.

Canonical names: `embed.token`, `embed.position`, `embed.type`, `embed.norm`; for layer i `i.qkv`,
`i.attn_out`, `i.attn_norm`, `i.mlp_in`, `i.mlp_out`, `i.mlp_norm`; `final_norm`; head steps keep the
name in their config. Each stands for `.weight` (matrices are [out, in]) and, where the model has one, `.bias`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.checkpoint.config import Dense, EncoderConfig, LayerNorm, ModelConfig, Normalize, StaticConfig
from runoff.contracts import CheckpointError, FloatArray

Array = npt.NDArray[Any]

# bf16 has no numpy type: it is kept as the upper 16 bits of an fp32 and widened where it is used.
_FLOAT_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_STORED_TYPES = {**_FLOAT_TYPES, "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}

# What a checkpoint may carry beside the weights we use: training buffers, unused poolers, pretraining heads;
# and, where the head comes from sentence-transformers modules instead, a classification head.
_IGNORED = re.compile(r"(^|\.)(position_ids|token_type_ids)$|(^|\.)pooler\.|^cls\.|^lm_head\.|^decoder\.")
_IGNORED_HEAD = re.compile(r"^(head|classifier)\.")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored array, memory-mapped, with its safetensors type ("BF16" data are raw uint16)."""

    data: Array
    stored_type: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def float32(self) -> FloatArray:
        """The values as fp32; no copy where they are stored so."""
        if self.stored_type == "BF16":
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.ascontiguousarray(self.data, dtype=np.float32)

    def rows(self, ids: npt.NDArray[np.integer]) -> FloatArray:
        """Rows `ids` of a table as fp32: only what is looked up is read and widened."""
        return Tensor(self.data[ids], self.stored_type).float32()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its stored name, memory-mapped, never pickled.

    Raises `CheckpointError` for a file that is missing, truncated, or holds a type we do not compute with.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"weights file {path} is missing; download the checkpoint again")
    try:
        # The library checks the header: sizes, types, offsets without holes or overlaps, file length.
        with safe_open(str(path), framework="np") as file:
            entries = [(name, file.get_slice(name)) for name in file.offset_keys()]
            shapes = [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in entries]
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"weights file {path} is not a whole safetensors file ({error}); it may be truncated or corrupt: "
            "delete it and download the checkpoint again"
        ) from error
    with path.open("rb") as raw:
        offset = 8 + int.from_bytes(raw.read(8), "little")
    buffer = np.memmap(path, dtype=np.uint8, mode="r")
    tensors: dict[str, Tensor] = {}
    for name, stored_type, shape in shapes:
        if stored_type not in _STORED_TYPES:
            raise CheckpointError(
                f"{path}: tensor {name} is stored as {stored_type}; expected one of {sorted(_STORED_TYPES)}"
            )
        dtype = np.dtype(_STORED_TYPES[stored_type])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        part = buffer[offset : offset + size]
        # safetensors aligns only the first tensor; numpy wants aligned data for fast loops.
        data = part.view(dtype) if offset % dtype.itemsize == 0 else np.frombuffer(part.tobytes(), dtype)
        tensors[name] = Tensor(data.reshape(shape), stored_type)
        offset += size
    return tensors


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A layer's matrix as the native kernels read it: panels of "f32", "i16" or "i8" and the outputs' scales.

    `outputs` and `inputs` count the zeros that fill heads and panels; "f32" has no scales.
    """

    kind: str
    outputs: int
    inputs: int
    panels: npt.NDArray[np.uint8]
    scales: FloatArray | None = None
    bias: FloatArray | None = None


class Weights:
    """Canonical name -> fp32 array, read when asked for, each checked against the shape the config implies.

    `packed` has the matrices ("0.qkv") that a quantized checkpoint stores in the kernels' form instead.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], packed: Mapping[str, PackedMatrix] | None = None
    ) -> None:
        self._tensors = dict(tensors)
        self.packed = dict(packed or {})

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> FloatArray:
        return self._tensors[name].float32()

    def get(self, name: str) -> FloatArray | None:
        """The array, or None where the model has none of that name (a bias)."""
        return self[name] if name in self._tensors else None

    def table(self, name: str) -> Tensor:
        """A table to look rows up in, left as it is stored."""
        return self._tensors[name]


def canonical_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of `model` by its canonical name, and its shape."""
    encoder = model.encoder
    if isinstance(encoder, StaticConfig):
        shapes: dict[str, tuple[int, ...]] = {"embed.token.weight": (encoder.vocab_size, encoder.dimension)}
    else:
        shapes = _encoder_shapes(encoder)
    return {**shapes, **_head_sources(model, {}, {})[1]}


def canonical_weights(
    model: ModelConfig, root: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Tensor]], where: str
) -> Weights:
    """Weights of `model` under canonical names, complete and of the right shapes.

    `root` holds the stored tensors of the encoder (and of a classic head), `modules` those of each
    sentence-transformers module by its folder. Raises `CheckpointError` naming what is missing, of another
    shape, or not accounted for: a weight nobody asked for means that the model is not the one we take it for.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    problems: list[str] = []
    if isinstance(model.encoder, StaticConfig):
        sources = _static_sources(root)
    else:
        sources = _encoder_sources(model.encoder, root)
    head_sources, _ = _head_sources(model, root, modules)
    for name, shape in canonical_shapes(model).items():
        stored_in, stored_names = head_sources.get(name) or (root, sources.get(name, (name,)))
        parts = [stored_in[part] for part in stored_names if part in stored_in]
        used.update(stored_names)
        if len(parts) != len(stored_names):
            problems.append(f"missing {' + '.join(part for part in stored_names if part not in stored_in)}")
            continue
        tensor = parts[0] if len(parts) == 1 else _stacked(parts)
        if tensor.stored_type not in _FLOAT_TYPES:
            problems.append(
                f"{stored_names[0]} is stored as {tensor.stored_type}, expected {sorted(_FLOAT_TYPES)}"
            )
        if tensor.shape != shape:
            problems.append(f"{stored_names[0]} has shape {list(tensor.shape)}, expected {list(shape)}")
        found[name] = tensor
    problems += _unexpected(model, root, modules, used)
    if problems:
        more = f" (and {len(problems) - 6} more)" if len(problems) > 6 else ""
        raise CheckpointError(
            f"the weights of {where} do not fit its config.json: {'; '.join(problems[:6])}{more}. "
            "Scoring with them would give meaningless numbers; get the checkpoint again from its source"
        )
    return Weights(found)


def _unexpected(
    model: ModelConfig,
    root: Mapping[str, Tensor],
    modules: Mapping[str, Mapping[str, Tensor]],
    used: set[str],
) -> list[str]:
    """Stored weights that no part of `model` reads, other than those known to be harmless."""
    has_root_head = any(isinstance(step, Dense) and step.name not in modules for step in model.head)
    unused = [name for name in root if name not in used and not _IGNORED.search(name)]
    if not has_root_head:
        unused = [name for name in unused if not _IGNORED_HEAD.search(name)]
    for folder, tensors in modules.items():
        expected = {
            stored
            for step in model.head
            if not isinstance(step, Normalize) and step.name == folder
            for stored in _module_names(step)
        }
        unused += [f"{folder}/{name}" for name in tensors if name not in expected]
    return [f"unexpected {name}" for name in unused]


def _module_names(step: Dense | LayerNorm) -> dict[str, str]:
    """Stored name in a sentence-transformers module folder -> the part of the canonical name."""
    if isinstance(step, LayerNorm):
        return {"norm.weight": "weight", "norm.bias": "bias"}
    names = {"linear.weight": "weight"}
    if step.has_bias:
        names["linear.bias"] = "bias"
    if step.needs_projection:
        names["residual.weight"] = "residual"
    return names


def _stacked(parts: list[Tensor]) -> Tensor:
    if len({part.stored_type for part in parts}) == 1:
        return Tensor(np.concatenate([part.data for part in parts]), parts[0].stored_type)
    return Tensor(np.concatenate([part.float32() for part in parts]), "F32")


def _encoder_shapes(encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    is_bert = encoder.family == "bert"
    shapes: dict[str, tuple[int, ...]] = {"embed.token.weight": (encoder.vocab_size, hidden)}
    if is_bert:
        shapes["embed.position.weight"] = (encoder.position_rows, hidden)
        shapes["embed.type.weight"] = (encoder.type_vocab_size, hidden)

    def add(name: str, shape: tuple[int, ...], has_bias: bool) -> None:
        shapes[f"{name}.weight"] = shape
        if has_bias:
            shapes[f"{name}.bias"] = shape[:1]

    add("embed.norm", (hidden,), encoder.has_norm_bias)
    for i in range(encoder.layer_count):
        add(f"{i}.qkv", (3 * hidden, hidden), encoder.has_attention_bias)
        add(f"{i}.attn_out", (hidden, hidden), encoder.has_attention_bias)
        if is_bert or i > 0:  # ModernBERT's layer 0 has no attention norm: the embedding norm precedes it
            add(f"{i}.attn_norm", (hidden,), encoder.has_norm_bias)
        add(f"{i}.mlp_in", (inner if is_bert else 2 * inner, hidden), encoder.has_mlp_bias)
        add(f"{i}.mlp_out", (hidden, inner), encoder.has_mlp_bias)
        add(f"{i}.mlp_norm", (hidden,), encoder.has_norm_bias)
    if not is_bert:
        add("final_norm", (hidden,), encoder.has_norm_bias)
    return shapes


_BERT_NAMES = {
    "embed.token": ["embeddings.word_embeddings"],
    "embed.position": ["embeddings.position_embeddings"],
    "embed.type": ["embeddings.token_type_embeddings"],
    "embed.norm": ["embeddings.LayerNorm"],
    "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "attn_out": ["attention.output.dense"],
    "attn_norm": ["attention.output.LayerNorm"],
    "mlp_in": ["intermediate.dense"],
    "mlp_out": ["output.dense"],
    "mlp_norm": ["output.LayerNorm"],
}
_MODERNBERT_NAMES = {
    "embed.token": ["embeddings.tok_embeddings"],
    "embed.norm": ["embeddings.norm"],
    "final_norm": ["final_norm"],
    "qkv": ["attn.Wqkv"],
    "attn_out": ["attn.Wo"],
    "attn_norm": ["attn_norm"],
    "mlp_in": ["mlp.Wi"],
    "mlp_out": ["mlp.Wo"],
    "mlp_norm": ["mlp_norm"],
}


def _encoder_sources(encoder: EncoderConfig, root: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Canonical name -> the stored names it is made of (BERT's query, key and value are stacked)."""
    is_bert = encoder.family == "bert"
    names = _BERT_NAMES if is_bert else _MODERNBERT_NAMES
    layer_prefix = "encoder.layer" if is_bert else "layers"
    first = f"{names['embed.token'][0]}.weight"
    # "bert.", "roberta.", "model." before every name, or nothing, depending on which class saved the model
    prefix = next((name.removesuffix(first) for name in root if name.endswith(first)), "")
    sources: dict[str, tuple[str, ...]] = {}
    for canonical in _encoder_shapes(encoder):
        stem, kind = canonical.rsplit(".", 1)
        layer, _, part = stem.partition(".")
        if layer.isdigit():
            stored = [f"{prefix}{layer_prefix}.{layer}.{name}.{kind}" for name in names[part]]
        else:
            stored = [f"{prefix}{name}.{kind}" for name in names[stem]]
        sources[canonical] = tuple(_legacy_name(name, root) for name in stored)
    return sources


def _legacy_name(name: str, root: Mapping[str, Tensor]) -> str:
    """TensorFlow-born checkpoints call a LayerNorm's weight gamma and its bias beta."""
    if name not in root:
        old = re.sub(
            r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)
        )
        return old if old in root else name
    return name


def _static_sources(root: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    # sentence-transformers' EmbeddingBag and model2vec's table
    return {"embed.token.weight": ("embedding.weight" if "embedding.weight" in root else "embeddings",)}


def _head_sources(
    model: ModelConfig, root: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, tuple[Mapping[str, Tensor], tuple[str, ...]]], dict[str, tuple[int, ...]]]:
    """Where each head weight is stored, and its shape. A step named after a module folder reads that folder."""
    sources: dict[str, tuple[Mapping[str, Tensor], tuple[str, ...]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for step in model.head:
        if isinstance(step, Normalize):
            continue
        if isinstance(step, Dense):
            matrix = (step.out_features, step.in_features)
            parts = {"weight": matrix, "bias": (step.out_features,), "residual": matrix}
        else:
            parts = {"weight": (step.size,), "bias": (step.size,)}
        for stored, part in _module_names(step).items():
            if part == "bias" and not step.has_bias:
                continue
            in_module = step.name in modules
            sources[f"{step.name}.{part}"] = (
                (modules[step.name], (stored,)) if in_module else (root, (f"{step.name}.{part}",))
            )
            shapes[f"{step.name}.{part}"] = parts[part]
    return sources, shapes
