"""The native CPU engine: a model's weights in the kernels' order, and packed batches through them."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from runoff.checkpoint.config import Dense, EncoderConfig, LayerNorm, ModelConfig, Normalize
from runoff.checkpoint.quantized import MATRICES
from runoff.checkpoint.weights import PackedMatrix, Weights
from runoff.contracts import Batch, CheckpointError, FloatArray, InputError
from runoff.engine import packing
from runoff.engine.reference import position_rows

logger = logging.getLogger(__name__)


@functools.cache
def native_module() -> ModuleType | None:
    """`runoff._native`, or None where it was not built."""
    try:
        from runoff import _native
    except ImportError as error:
        if importlib.util.find_spec("runoff._native") is not None:
            logger.warning(
                "the native engine is installed but cannot be loaded (%s); numpy computes instead", error
            )
        return None
    module: ModuleType = _native
    return module


def _built() -> ModuleType:
    module = native_module()
    assert module is not None, "choose_engine asks first"
    return module


@dataclass(frozen=True, slots=True)
class Processor:
    """How the kernels run: by which instruction set, with how many threads."""

    isa: str
    threads: int


class NativeEngine:
    """Encoder, pooling and head of one model, in C++.

    `kinds` says for each matrix ("0.qkv") what its products are computed in, "f32", "i16" or "i8"; one that it
    does not name is computed as `precision` says, and one that is packed in `weights` as it was packed.
    """

    name = "native"
    # Tokens of one call: many units of work for each thread, and few enough that progress shows and Ctrl-C is quick.
    token_budget = 8192

    def __init__(
        self,
        model: ModelConfig,
        weights: Weights,
        processor: Processor,
        precision: str,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        assert isinstance(model.encoder, EncoderConfig), "a static table has no products"
        self.precision = precision
        self._encoder = model.encoder
        default = kind_of(precision, processor.isa)
        layers = [
            {
                "is_local": _is_local(model.encoder, layer),
                **{
                    part: matrix(
                        model.encoder,
                        weights,
                        f"{layer}.{part}",
                        (kinds or {}).get(f"{layer}.{part}", default),
                    )
                    for part in MATRICES
                },
            }
            for layer in range(model.encoder.layer_count)
        ]
        self._engine = _built().Engine(
            config=_config(model),
            tables=_tables(model, weights),
            layers=layers,
            head=_head(model, weights),
            isa=processor.isa,
            threads=processor.threads,
        )

    def start(self, batch: Batch) -> Any:
        """Begins a forward and returns at once; its `.result()`, to be taken once, waits for the outputs [B, L]."""
        encoder = self._encoder
        positions = position_rows(encoder, batch) if encoder.family == "bert" else None
        try:
            return self._engine.start(batch.ids, batch.type_ids, positions, batch.offsets)
        except IndexError as error:  # an id that the model's tables lack
            raise InputError(str(error)) from None

    def forward(self, batch: Batch) -> FloatArray:
        """Head outputs [B, L] of a reranker or vectors [B, D] of an embedder, before any activation."""
        outputs: FloatArray = self.start(batch).result()
        return outputs


def kernels(isa: str) -> dict[str, Any]:
    """What the kernels of an instruction set ("": this processor's best) can do; `InputError` for one it lacks."""
    module = _built()
    try:
        found: dict[str, Any] = module.describe(isa)
    except ValueError:
        raise InputError(
            f"RUNOFF_ISA={isa!r}: this processor has {', '.join(module.available_isas())}, and numpy; choose one of "
            "them, or unset it"
        ) from None
    return found


def kind_of(precision: str, isa: str) -> str:
    """What products are computed in.

    "bf16" promises an error below bfloat16's, not its format: fixed point with 16 bits is several times more exact
    (native/packing.h) and as fast; where neither is faster than fp32, fp32 it is.
    """
    if precision == "bf16":
        return "i16" if kernels(isa)["has_fast_i16"] else "f32"
    return {"fp32": "f32", "int8": "i8"}[precision]


def matrix(encoder: EncoderConfig, weights: Weights, name: str, kind: str) -> Any:
    """The matrix `name` ("0.qkv"), in the kernels' order, packed: now, or when its checkpoint was written."""
    if name in weights.packed:
        return _stored(encoder, name, weights.packed[name])
    weight, bias = arranged(encoder, weights, name)
    return _built().Matrix.pack(kind, np.ascontiguousarray(weight), bias)


def _stored(encoder: EncoderConfig, name: str, packed: PackedMatrix) -> Any:
    wanted = packing.matrix_shape(encoder, name.rpartition(".")[2])
    advice = "the checkpoint is damaged or of another model: run runoff quantize again"
    if (packed.outputs, packed.inputs) != wanted:
        raise CheckpointError(
            f"{name} is packed with {packed.outputs} outputs and {packed.inputs} inputs, expected "
            f"{wanted[0]} and {wanted[1]}; {advice}"
        )
    sizes = (packed.kind, *wanted, packed.panels, packed.scales, packed.bias)
    try:
        return _built().Matrix.stored(*sizes)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be used as it is packed: {error}; {advice}") from error


def packed_matrix(encoder: EncoderConfig, weights: Weights, name: str, kind: str) -> PackedMatrix:
    """The matrix `name`, packed, to be stored or tried; its arrays are the kernels' own."""
    weight, bias = arranged(encoder, weights, name)
    packed = _built().Matrix.pack(kind, np.ascontiguousarray(weight))
    scales = None if kind == "f32" else packed.scales
    return PackedMatrix(kind, packed.outputs, packed.inputs, packed.panels, scales, bias)


def arranged(encoder: EncoderConfig, weights: Weights, name: str) -> tuple[FloatArray, FloatArray | None]:
    """Weight [O, I] and bias [O] of a matrix, in the kernels' order and not yet packed."""
    part = name.rpartition(".")[2]
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    if part == "qkv":
        order = packing.qkv_order(encoder)
        weight = packing.scaled_queries(packing.taken(weight, order), encoder)
        bias = None if bias is None else packing.scaled_queries(packing.taken(bias, order), encoder)
    elif part == "attn_out":
        weight = packing.taken(weight, packing.mixed_order(encoder), axis=1)
    elif part == "mlp_in":
        order = packing.mlp_in_order(encoder)
        weight, bias = packing.taken(weight, order), None if bias is None else packing.taken(bias, order)
    else:
        weight = packing.taken(weight, packing.inner_order(encoder), axis=1)
    return weight, bias


def _is_local(encoder: EncoderConfig, layer: int) -> bool:
    return bool(encoder.is_local_layer) and encoder.is_local_layer[layer]


def _config(model: ModelConfig) -> dict[str, Any]:
    encoder = model.encoder
    assert isinstance(encoder, EncoderConfig)
    return {
        "is_prenorm": encoder.family == "modernbert",
        "vocabulary": encoder.vocab_size,
        "hidden": encoder.hidden_size,
        "heads": encoder.head_count,
        "head_size": len(packing.head_order(encoder)),
        "rotary_half": packing.rotary_half(encoder),
        "rotary_size": encoder.head_size,
        "inner": packing.padded(encoder.intermediate_size),
        "global_theta": encoder.global_rope_theta,
        "local_theta": encoder.local_rope_theta,
        "window": encoder.local_window,
        "eps": encoder.norm_eps,
        "activation": encoder.activation,
        "position_rows": encoder.position_rows,
        "type_rows": encoder.type_vocab_size,
        "pooling": list(model.pooling),
    }


def _tables(model: ModelConfig, weights: Weights) -> dict[str, Any]:
    """The arrays that are used as they are: embeddings and norms."""
    token = weights.table("embed.token.weight")
    is_narrow = token.stored_type in ("BF16", "F16", "F32") and token.data.flags.c_contiguous
    tables: dict[str, Any] = {
        "embed.token": token.data.view(np.uint16) if token.stored_type == "F16" else token.data,
        "embed.token.type": token.stored_type,
    }
    if not is_narrow:
        tables |= {"embed.token": token.float32(), "embed.token.type": "F32"}
    encoder = model.encoder
    assert isinstance(encoder, EncoderConfig)
    if encoder.family == "bert":
        tables["embed.position"] = weights["embed.position.weight"]
        tables["embed.type"] = weights["embed.type.weight"]
    norms = [step.name for step in model.head if isinstance(step, LayerNorm)]
    for name in weights:
        stem = name.rpartition(".")[0]
        if stem.endswith("norm") or stem in norms:
            tables[name] = weights[name]
    return tables


def _head(model: ModelConfig, weights: Weights) -> list[dict[str, Any]]:
    assert isinstance(model.encoder, EncoderConfig)
    size = model.encoder.hidden_size * len(model.pooling)
    steps = []
    for step in model.head:
        if isinstance(step, Normalize):
            steps.append({"form": "normalize", "size": size})
        else:
            steps.append(_step(step, weights))
            size = step.size if isinstance(step, LayerNorm) else step.out_features
    return steps


def _step(step: Dense | LayerNorm, weights: Weights) -> dict[str, Any]:
    """A step of the head; its products are always fp32: a head is a thousandth of the work."""
    if isinstance(step, LayerNorm):
        return {"form": "norm", "name": step.name, "eps": step.eps, "size": step.size}
    packed = {
        "form": "dense",
        "size": step.out_features,
        "activation": step.activation,
        "adds_input": step.has_residual,
        "weight": _built().Matrix.pack(
            "f32", weights[f"{step.name}.weight"], weights.get(f"{step.name}.bias")
        ),
    }
    if step.needs_projection:
        packed["residual"] = _built().Matrix.pack("f32", weights[f"{step.name}.residual"], None)
    return packed
