"""A model's name -> what races: a folder with the published weights, or with random ones in the true shape."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runoff.bench.process import Places, export
from runoff.bench.random_weights import WRITTEN, random_checkpoint
from runoff.bench.shapes import SHAPES, Shape, named_shape
from runoff.bench.specs import UnavailableError
from runoff.checkpoint.files import CONFIG, read_json
from runoff.checkpoint.hub import find_model
from runoff.contracts import CheckpointError, CheckpointNotFoundError, InputError

RANDOM, LOCAL = "random", "local"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model in the race. `weights`: "random", "local" (a folder of the user's) or the commit on the hub; `why` says
    why they are random. `positions`: the most tokens that it takes (None: no limit of its own)."""

    name: str
    folder: Path
    weights: str
    family: str
    parameters: int
    positions: int | None
    why: str = ""


def find_entrant(
    name: str, places: Places, *, is_random: bool = False, revision: str | None = None
) -> Entrant:
    """The model by its short name, hub id or folder.

    One of the published tables takes random weights where its own cannot be had, or if `is_random`. Raises
    `CheckpointNotFoundError` for any other name that is not found, `InputError` where there is no shape to be random
    in, `UnavailableError` where random weights cannot be made here.
    """
    shape = named_shape(name)
    if is_random and shape is None:
        raise InputError(f"{name} has no known shape; random weights are for {', '.join(SHAPES)}")
    why = "as asked" if is_random else "no such model is published"
    if not is_random and (shape is None or shape.hub_id):
        try:
            folder = find_model(name if shape is None else shape.hub_id, "reranker", revision=revision)
            commit = folder.name if _COMMIT.fullmatch(folder.name) else LOCAL
            return _entrant(shape.name if shape else _short(name), folder, commit)
        except CheckpointNotFoundError as error:
            if shape is None:
                raise
            why = " ".join(str(error).split())
    assert shape is not None, "a name without a shape was found or refused above"
    return _entrant(shape.name, _random_folder(shape, places), RANDOM, why)


def _random_folder(shape: Shape, places: Places) -> Path:
    def finish(folder: Path) -> None:
        kind = "random-causal" if shape.kind == "qwen2" else "random-classifier"
        with tempfile.TemporaryDirectory(dir=places.cache) as scratch:
            try:
                export(kind, folder, Path(scratch), places)
            except UnavailableError as error:
                raise UnavailableError(
                    f"random weights of {shape.name} ({shape.kind}) are made by transformers: {error}"
                ) from error

    return random_checkpoint(shape, places.cache, None if shape.kind in WRITTEN else finish)


def _entrant(name: str, folder: Path, weights: str, why: str = "") -> Entrant:
    config = read_json(folder / CONFIG)
    family = str(config.get("model_type"))
    return Entrant(name, folder, weights, family, parameters_of(folder), _positions(config), why)


def _positions(config: dict[str, Any]) -> int | None:
    """Rows of the position table, less those that RoBERTa leaves unused; rotary positions have no table."""
    rows = config.get("max_position_embeddings")
    if rows is None or config.get("model_type") in ("modernbert", "qwen2", "deberta-v2"):
        return None
    if config.get("model_type") == "bert":
        return int(rows)
    return int(rows) - int(config.get("pad_token_id") or 1) - 1


def _short(name: str) -> str:
    """A folder by its last part; a hub id as it is."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else name


def parameters_of(folder: Path) -> int:
    """Numbers stored in the folder's safetensors files, its modules' included."""
    total = 0
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as raw:
            try:
                header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
            except ValueError as error:
                raise CheckpointError(f"{file} is no safetensors file; get the checkpoint again") from error
        total += sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    return total


def revision_of(name: str) -> tuple[str, str | None]:
    """(name, revision) of NAME@REVISION; a folder may have an @ in its name."""
    if os.path.isdir(os.path.expanduser(name)) or "@" not in name:
        return name, None
    base, _, revision = name.rpartition("@")
    return base, revision
