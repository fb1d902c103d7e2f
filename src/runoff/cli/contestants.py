"""The rerankers that are compared: by what they are called, and whose weights they are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runoff.cli.options import load_embedder, load_reranker

if TYPE_CHECKING:
    from runoff.contracts import Scorer

COSINE = "cosine:"
"""In front of an embedder's name: its cosine as a reranker."""


def load_models(options: argparse.Namespace, given: Sequence[str]) -> dict[str, Scorer]:
    """The rerankers by what they are called in the figures: of local folders as much of their path as tells them apart.
    `InputError` for one that was given twice."""
    from runoff.contracts import InputError

    if len(set(given)) < len(given):
        raise InputError(f"a model was given twice: {', '.join(given)}")
    apart = folders_apart(given)
    return {_called(name, apart.get(name, name)): _load(options, name) for name in given}


def folders_apart(given: Sequence[str]) -> dict[str, str]:
    """Those of the names that are folders -> as much of each one's path as tells them apart."""
    from runoff.data.folders import names_apart

    local = [name for name in given if Path(name).expanduser().is_dir()]
    return dict(zip(local, names_apart([Path(name).expanduser() for name in local]), strict=True))


def _load(options: argparse.Namespace, name: str) -> Scorer:
    if not name.startswith(COSINE):
        return load_reranker(options, name)
    from runoff.evaluate.cosine import CosineScorer

    return CosineScorer(load_embedder(options, name.removeprefix(COSINE), options.precision), name)


def _called(given: str, name: str) -> str:
    """The model of a training run by the run's name too: RUN/model."""
    if given.startswith(COSINE):
        return COSINE + shown(given.removeprefix(COSINE))
    return f"{Path(given).expanduser().resolve().parent.name}/model" if name == "model" else name


def shown(name: str) -> str:
    """What a folder or a file is called in figures: its last part, or the one before where that is "model"."""
    path = Path(name).expanduser()
    if path.is_dir():
        whole = path.resolve()
        return whole.parent.name if whole.name == "model" else whole.name
    return path.stem if path.is_file() else name


def facts_of(options: argparse.Namespace, scorer: Scorer) -> dict[str, Any]:
    """What is scored by: engine, precision, length, and the SHA-256 of the weights."""
    from runoff.evaluate.cosine import CosineScorer

    asked: Any = scorer
    if isinstance(asked, CosineScorer):
        return model_facts(asked.embedder, "embedder", options.revision)
    return model_facts(asked, "reranker", options.revision)


def model_facts(
    model: Any, role: Literal["embedder", "reranker"], revision: str | None = None
) -> dict[str, Any]:
    """The same of a `CrossEncoder` or an `Embedder` that was loaded just now: the hub need not be asked again."""
    from runoff.checkpoint.hub import find_model
    from runoff.checkpoint.modular import weight_digests

    folder = find_model(model.name, role, revision=revision, local_files_only=True)
    return {
        "engine": model.choice.engine,
        "precision": model.choice.precision,
        "max_length": model.max_seq_length,
        "weights_sha256": weight_digests(folder),
    }
