"""The student: the published architecture on a BERT or ModernBERT encoder. Imported only where torch is wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

from runoff.contracts import CheckpointError, InputError, UnsupportedModelError
from runoff.distill import attention
from runoff.distill.recipe import Recipe
from runoff.quiet import quiet_transformers

FAMILIES = ("bert", "modernbert")


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters of a model: all, and those that are trained."""

    all: int
    trained: int


def build(folder: Path, recipe: Recipe, device: str, is_half: bool = False) -> CrossEncoder:
    """A student on the encoder in `folder`, on `device` ("cpu", "cuda"), with the recipe's frozen parts.

    A folder that holds a CrossEncoder of this architecture is gone on with; any other gets a fresh head (seeded by
    torch): Pooling -> Dense(H, H, GELU) -> LayerNorm -> Dense(H, 1). Raises `UnsupportedModelError` for other families.
    """
    family = _family(folder)
    model_kwargs = {
        "attn_implementation": attention.implementation(family, device, is_half, recipe.dropout),
        "dtype": "float32",
    }
    with quiet_transformers():
        model = _loaded(folder, family, recipe, device, model_kwargs)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = recipe.dropout
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = recipe.dropout
    # BERT's own pooler stays in the file, and nothing reads it.
    if (pooler := getattr(model[0].model, "pooler", None)) is not None:
        pooler.requires_grad_(False)
    if "embeddings" in recipe.frozen:
        word_vectors(model).requires_grad_(False)
    return model


def _loaded(
    folder: Path, family: str, recipe: Recipe, device: str, model_kwargs: dict[str, str]
) -> CrossEncoder:
    identity = torch.nn.Identity()
    if _is_of_this_architecture(folder):
        model = CrossEncoder(str(folder), device=device, activation_fn=identity, model_kwargs=model_kwargs)
        if model[1].pooling_mode not in (recipe.pooling, (recipe.pooling,), [recipe.pooling]):
            raise InputError(
                f"{folder} pools {model[1].pooling_mode}, and goes on with that: say --pooling so, got {recipe.pooling}"
            )
        if recipe.layers:
            _keep_layers(model[0].model, recipe.layers, folder)
        return model
    encoder = Transformer(str(folder), model_kwargs=model_kwargs, max_seq_length=_longest(folder, family))
    if recipe.layers:
        _keep_layers(encoder.model, recipe.layers, folder)
    width = encoder.get_embedding_dimension()
    head = [
        Pooling(width, recipe.pooling),
        Dense(width, width, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(width),
        Dense(width, 1, activation_function=identity, module_output_name="scores"),
    ]
    return CrossEncoder(modules=[encoder, *head], device=device, activation_fn=identity)


def word_vectors(model: CrossEncoder) -> torch.nn.Parameter:
    """The table of word vectors, [vocabulary, H]."""
    weight: torch.nn.Parameter = model[0].model.get_input_embeddings().weight
    return weight


def counts(model: CrossEncoder) -> Counts:
    parameters = list(model.parameters())
    return Counts(
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def _keep_layers(encoder: Any, count: int, folder: Path) -> None:
    """Leaves `count` of a BERT encoder's layers, spread evenly from the first to the last."""
    if encoder.config.model_type != "bert":
        raise UnsupportedModelError(
            f"expected a BERT encoder to take {count} layers of, {folder} is {encoder.config.model_type}: which layers "
            "are global hangs on their places there. Start from a smaller one"
        )
    layers = encoder.encoder.layer
    if count > len(layers):
        raise InputError(f"expected at most the {len(layers)} layers of {folder}, got {count}")
    chosen = [round(place * (len(layers) - 1) / max(count - 1, 1)) for place in range(count)]
    encoder.encoder.layer = torch.nn.ModuleList([layers[number] for number in chosen])
    encoder.config.num_hidden_layers = count


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Expected the folder of an encoder") from error
    return found if isinstance(found, dict) else {}


def _family(folder: Path) -> str:
    found = _config(folder).get("model_type")
    if found not in FAMILIES:
        raise UnsupportedModelError(
            f"expected a {' or '.join(FAMILIES)} encoder as the backbone, {folder} is {found!r}. Train other families "
            "with sentence-transformers itself: the rows are parquet files with query, document and label"
        )
    return str(found)


def _longest(folder: Path, family: str) -> int | None:
    """BERT has a table of positions and no other limit; ModernBERT's tokenizer knows what it was trained on."""
    return int(_config(folder)["max_position_embeddings"]) if family == "bert" else None


def _is_of_this_architecture(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        about = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    return about.get("model_type") == "CrossEncoder" and kinds == [
        "Transformer",
        "Pooling",
        "Dense",
        "LayerNorm",
        "Dense",
    ]
