"""A checkpoint with random weights in a model's true shape, for a speed that does not depend on what they are.

Written by numpy alone. Weights are seeded and spread so that scores differ from pair to pair by about
`SCORE_SPREAD`: what a precision costs then shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runoff.bench.prose import sample_text
from runoff.bench.random_tokenizers import write_tokenizer
from runoff.bench.shapes import Shape, config_of
from runoff.checkpoint.weights import Tensor, read_safetensors
from runoff.checkpoint.writing import write_safetensors
from runoff.data.atomic import new_folder

SCORE_SPREAD = 2.0
"""Standard deviation of the raw scores over a dozen short pairs, which the last matrix is scaled to."""

WRITTEN = ("ettin", "modernbert", "bert", "xlm-roberta")
"""Kinds whose weights numpy writes here; others are made by transformers (see exports.py)."""

FORMAT = 2  # of what is written: another number writes it anew

Finish = Callable[[Path], None]


def random_checkpoint(shape: Shape, cache: Path, finish: Finish | None = None) -> Path:
    """The folder of the shape's checkpoint under `cache`, written whole or not at all if it is not there.

    `finish` adds the weights of a kind that is not `WRITTEN`.
    """
    digest = hashlib.sha256(json.dumps([config_of(shape), FORMAT], sort_keys=True).encode()).hexdigest()[:8]
    folder = cache / f"{shape.name}-random-{digest}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as draft:
        _write_json(draft / "config.json", config_of(shape))
        write_tokenizer(draft, shape)
        if shape.kind in WRITTEN:
            _write_weights(draft, shape)
            _spread_scores(draft, shape)
        elif finish is not None:
            finish(draft)
    return folder


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2), "utf-8")


# --- weights -------------------------------------------------------------------------------------------

Sizes = Iterator[tuple[str, tuple[int, ...]]]


def _write_weights(folder: Path, shape: Shape) -> None:
    generator = np.random.default_rng(1)
    tensors = {name: _drawn(name, size, generator) for name, size in _SIZES[shape.kind](shape)}
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    if shape.kind != "ettin":
        return
    for part, sizes in _ettin_modules(folder, shape):
        drawn = {name: _drawn(name, size, generator) for name, size in sizes.items()}
        write_safetensors(folder / part / "model.safetensors", drawn, {"format": "pt"})


def _drawn(name: str, size: tuple[int, ...], generator: np.random.Generator) -> Tensor:
    """Tables N(0, 1), matrices N(0, 1 / inputs), norms N(1, .2), biases N(0, .2)."""
    values = generator.standard_normal(size, np.float32)
    if len(size) == 1:
        values *= np.float32(0.2)
        values += np.float32(0.0 if name.endswith("bias") else 1.0)
    elif "embeddings" not in name:
        values *= np.float32(1.0 / math.sqrt(size[1]))
    return Tensor(values, "F32")


def _modernbert_sizes(shape: Shape) -> Sizes:
    """Names as in a ModernBertModel; layer 0 has no attention norm."""
    hidden, inner = shape.hidden, shape.intermediate
    yield "embeddings.tok_embeddings.weight", (shape.vocabulary, hidden)
    yield "embeddings.norm.weight", (hidden,)
    for i in range(shape.layers):
        if i:
            yield f"layers.{i}.attn_norm.weight", (hidden,)
        yield f"layers.{i}.attn.Wqkv.weight", (3 * hidden, hidden)
        yield f"layers.{i}.attn.Wo.weight", (hidden, hidden)
        yield f"layers.{i}.mlp_norm.weight", (hidden,)
        yield f"layers.{i}.mlp.Wi.weight", (2 * inner, hidden)
        yield f"layers.{i}.mlp.Wo.weight", (hidden, inner)
    yield "final_norm.weight", (hidden,)


def _modernbert_classifier_sizes(shape: Shape) -> Sizes:
    yield from ((f"model.{name}", size) for name, size in _modernbert_sizes(shape))
    yield "head.dense.weight", (shape.hidden, shape.hidden)
    yield "head.norm.weight", (shape.hidden,)
    yield "classifier.weight", (1, shape.hidden)
    yield "classifier.bias", (1,)


def _bert_body_sizes(prefix: str, shape: Shape, position_rows: int, types: int) -> Sizes:
    hidden, inner = shape.hidden, shape.intermediate

    def linear(name: str, outputs: int, inputs: int) -> Sizes:
        yield f"{prefix}{name}.weight", (outputs, inputs)
        yield f"{prefix}{name}.bias", (outputs,)

    def norm(name: str) -> Sizes:
        yield f"{prefix}{name}.weight", (hidden,)
        yield f"{prefix}{name}.bias", (hidden,)

    yield f"{prefix}embeddings.word_embeddings.weight", (shape.vocabulary, hidden)
    yield f"{prefix}embeddings.position_embeddings.weight", (position_rows, hidden)
    yield f"{prefix}embeddings.token_type_embeddings.weight", (types, hidden)
    yield from norm("embeddings.LayerNorm")
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{part}", hidden, hidden)
        yield from linear(f"{layer}.attention.output.dense", hidden, hidden)
        yield from norm(f"{layer}.attention.output.LayerNorm")
        yield from linear(f"{layer}.intermediate.dense", inner, hidden)
        yield from linear(f"{layer}.output.dense", hidden, inner)
        yield from norm(f"{layer}.output.LayerNorm")


def _bert_sizes(shape: Shape) -> Sizes:
    yield from _bert_body_sizes("bert.", shape, shape.positions, 2)
    yield "bert.pooler.dense.weight", (shape.hidden, shape.hidden)
    yield "bert.pooler.dense.bias", (shape.hidden,)
    yield "classifier.weight", (1, shape.hidden)
    yield "classifier.bias", (1,)


def _xlm_roberta_sizes(shape: Shape) -> Sizes:
    yield from _bert_body_sizes("roberta.", shape, shape.positions + 2, 1)
    yield "classifier.dense.weight", (shape.hidden, shape.hidden)
    yield "classifier.dense.bias", (shape.hidden,)
    yield "classifier.out_proj.weight", (1, shape.hidden)
    yield "classifier.out_proj.bias", (1,)


_SIZES = {
    "ettin": _modernbert_sizes,
    "modernbert": _modernbert_classifier_sizes,
    "bert": _bert_sizes,
    "xlm-roberta": _xlm_roberta_sizes,
}


# --- the head of modules ---------------------------------------------------------------------------------

_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Dense", "sentence_transformers.models.Dense"),
    ("3_LayerNorm", "sentence_transformers.models.LayerNorm"),
    ("4_Dense", "sentence_transformers.models.Dense"),
)


def _ettin_modules(folder: Path, shape: Shape) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Writes modules.json and the modules' configurations; yields each folder with weights, and their sizes."""
    hidden = shape.hidden
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": kind}
        for place, (path, kind) in enumerate(_MODULES)
    ]
    _write_json(folder / "modules.json", listed)
    settings = {
        "activation_fn": "torch.nn.modules.linear.Identity",
        "model_type": "CrossEncoder",
        "prompts": {},
    }
    _write_json(folder / "config_sentence_transformers.json", settings)
    output = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    task = {"transformer_task": "feature-extraction", "modality_config": output}
    _write_json(folder / "sentence_bert_config.json", task | {"module_output_name": "token_embeddings"})
    pooling = {"embedding_dimension": hidden, "pooling_mode": "cls", "include_prompt": True}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    activation = {"activation_function": "torch.nn.modules.activation.GELU"}
    sizes = {"in_features": hidden, "out_features": hidden, "bias": False}
    _write_json(folder / "2_Dense" / "config.json", sizes | activation | names)
    yield "2_Dense", {"linear.weight": (hidden, hidden)}
    _write_json(folder / "3_LayerNorm" / "config.json", {"dimension": hidden})
    yield "3_LayerNorm", {"norm.weight": (hidden,), "norm.bias": (hidden,)}
    activation = {"activation_function": "torch.nn.modules.linear.Identity"}
    sizes = {"in_features": hidden, "out_features": 1, "bias": True}
    names["module_output_name"] = "scores"
    _write_json(folder / "4_Dense" / "config.json", sizes | activation | names)
    yield "4_Dense", {"linear.weight": (1, hidden), "linear.bias": (1,)}


_LAST = {
    "ettin": ("4_Dense", "linear"),
    "modernbert": ("", "classifier"),
    "bert": ("", "classifier"),
    "xlm-roberta": ("", "classifier.out_proj"),
}
"""Where each kind's last matrix is: the folder, and its name there."""


def _spread_scores(folder: Path, shape: Shape) -> None:
    """Scales the last matrix so that a dozen short pairs score around 0.5, `SCORE_SPREAD` apart."""
    from runoff.crossencoder import CrossEncoder

    generator = np.random.default_rng(7)
    pairs = [(sample_text(6, generator), sample_text(24, generator)) for _ in range(12)]
    model = CrossEncoder(str(folder), device="cpu", precision="fp32", local_files_only=True)
    raw = np.asarray(model.predict(pairs, activation_fn="identity", show_progress_bar=False), np.float64)
    del model  # it reads the file that is written anew
    part, name = _LAST[shape.kind]
    path = folder / part / "model.safetensors"
    stored = read_safetensors(path)
    tensors = {key: Tensor(np.array(tensor.data), tensor.stored_type) for key, tensor in stored.items()}
    scale = SCORE_SPREAD / float(raw.std())
    bias = float(tensors[f"{name}.bias"].data[0])
    tensors[f"{name}.weight"].data[:] *= np.float32(scale)
    # The mean of the scaled scores was (mean - bias) * scale; it becomes 0.5.
    tensors[f"{name}.bias"].data[:] = np.float32(0.5 - (float(raw.mean()) - bias) * scale)
    write_safetensors(path, tensors, {"format": "pt"})
