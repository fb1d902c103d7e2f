"""How a student is trained, as data: the six published recipes, and what a run may change of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from runoff.contracts import InputError
from runoff.data.sampling import SEED

Pooling = Literal["cls", "mean"]
TrainingPrecision = Literal["auto", "fp32", "bf16"]

POINTWISE = ("mse",)
GROUPED = ("centred_mse", "margin_mse", "ranknet", "lambda", "listwise")
LOSSES = (*POINTWISE, *GROUPED)
"""What `distill/losses.py` computes; the grouped ones look at several documents of a query at once."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a run learns. `InputError` for what cannot be.

    backbone        folder or hub id of a BERT or ModernBERT encoder, or of a reranker to go on with
    learning_rate   peak of the encoder's rate, after `warmup` (a share of all steps), then linear to 0
    head_rate       the fresh head's rate, as a multiple of it
    global_batch    pairs of one optimiser step, over all processes
    layers          of the backbone's (BERT), spread evenly; 0: all of them
    group           documents of a query that a grouped loss sees at once; 1: rows are shuffled singly
    loss            loss -> weight; their weighted sum is trained
    epochs          passes over the rows; a fraction stops within one
    max_length      tokens of a pair in training (the saved model keeps its backbone's own limit)
    every           evaluations and checkpoints, as a share of all steps; `keep` checkpoints stay
    frozen          what is not trained: "embeddings" (the word vectors)
    subset          share of the queries that is trained on
    """

    backbone: str
    learning_rate: float
    global_batch: int
    layers: int = 0
    pooling: Pooling = "cls"
    loss: Mapping[str, float] = field(default_factory=lambda: {"mse": 1.0})
    group: int = 1
    head_rate: float = 1.0
    epochs: float = 1.0
    warmup: float = 0.03
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    max_length: int = 512
    precision: TrainingPrecision = "auto"
    every: float = 0.05
    keep: int = 5
    frozen: tuple[str, ...] = ()
    subset: float = 1.0
    seed: int = SEED

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        if self.global_batch % self.group:
            raise InputError(
                f"expected a batch of whole groups: {self.global_batch} pairs are no multiple of {self.group}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        return {**asdict(self), "loss": dict(self.loss), "frozen": list(self.frozen)}

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed; those given as None stay."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def _check_names(recipe: Recipe) -> None:
    if not recipe.loss:
        raise InputError(f"expected at least one loss of {', '.join(LOSSES)}, got none")
    for name, weight in recipe.loss.items():
        if name not in LOSSES:
            raise InputError(f"expected losses among {', '.join(LOSSES)}, got {name!r}")
        if not math.isfinite(weight) or weight <= 0:
            raise InputError(f"expected a weight above 0 for the loss {name}, got {weight}")
        if name in GROUPED and recipe.group < 2:
            raise InputError(
                f"the loss {name} compares documents of a query: expected a group of 2 or more, got {recipe.group}"
            )
    for name, allowed in (("pooling", ("cls", "mean")), ("precision", ("auto", "fp32", "bf16"))):
        if getattr(recipe, name) not in allowed:
            raise InputError(f"expected {name} {' or '.join(allowed)}, got {getattr(recipe, name)!r}")
    if unknown := [name for name in recipe.frozen if name != "embeddings"]:
        raise InputError(f"expected embeddings as the frozen part, got {unknown[0]!r}")


def _check_numbers(recipe: Recipe) -> None:
    above_zero = ("learning_rate", "head_rate", "epochs", "clip")
    shares = ("warmup", "weight_decay", "dropout")
    for name in (*above_zero, *shares, "every", "subset"):
        value = getattr(recipe, name)
        if not math.isfinite(value) or value < 0 or (name not in shares and value == 0):
            raise InputError(f"expected a number above 0 as {name}, got {value}")
    for name in ("warmup", "dropout", "every", "subset"):
        if getattr(recipe, name) > 1:
            raise InputError(f"expected a share from 0 to 1 as {name}, got {getattr(recipe, name)}")
    for name, least in (("layers", 0), ("global_batch", 1), ("group", 1), ("keep", 1), ("max_length", 8)):
        if getattr(recipe, name) < least:
            raise InputError(f"expected {name} of {least} or more, got {getattr(recipe, name)}")


def _ettin(size: str, learning_rate: float, global_batch: int) -> Recipe:
    # Rates and batches: the release article of the Ettin rerankers. 7,999 tokens are what their tokenizers take.
    return Recipe(f"jhu-clsp/ettin-encoder-{size}", learning_rate, global_batch, max_length=7999)


RECIPES: Mapping[str, Recipe] = {
    "ettin-17m": _ettin("17m", 2.4e-4, 1024),
    "ettin-32m": _ettin("32m", 1.2e-4, 512),
    "ettin-68m": _ettin("68m", 3e-5, 256),
    "ettin-150m": _ettin("150m", 1.5e-5, 192),
    "ettin-400m": _ettin("400m", 7e-6, 256),
    "ettin-1b": _ettin("1b", 3e-6, 512),
    # A MiniLM-sized encoder on a laptop: the mean is what its backbone was trained to pool, and a list's order is
    # learned sooner with the listwise term beside the squares (LOG.md).
    "laptop": Recipe(
        "sentence-transformers/all-MiniLM-L6-v2",
        2e-4,
        64,
        pooling="mean",
        loss={"mse": 1.0, "listwise": 1.0},
        group=8,
        head_rate=5.0,
        max_length=256,
        frozen=("embeddings",),
    ),
}


def recipe(name: str) -> Recipe:
    """A recipe by name; `InputError` names the ones that are there."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"expected a recipe among {', '.join(RECIPES)}, got {name!r}.{hint}")
    return RECIPES[name]
