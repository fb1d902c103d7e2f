"""What a training run's folder says of itself, as far as a model's card and files need it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from runoff.contracts import InputError
from runoff.data.shards import MANIFEST
from runoff.distill.run import MANIFEST as RUN
from runoff.distill.run import MODEL, Run

_NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "recipe": dict,
    "rows": dict,
    "backbone": dict,
    "parameters": int,
    "machine": dict,
    "versions": dict,
    "steps": int,
    "pairs": int,
    "tokens": int,
    "seconds": (int, float),
    "evaluations": list,
    "chosen": str,
}


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a finished run, without the places of this machine: a path is its last name.

    Raises `InputError` for a folder that holds no run, one that is not finished, or one that lacks a part.
    """
    found = Run(folder).checked()
    for name, kind in _NEEDED.items():
        if not isinstance(found.get(name), kind) or isinstance(found[name], bool):
            raise InputError(f"{folder / RUN}: expected {name!r} of the run, got {found.get(name)!r:.60}")
    if not (folder / MODEL / "config.json").is_file():
        raise InputError(f"{folder / MODEL} holds no model: expected the one that the run chose. Train again")
    shown: dict[str, Any] = without_places(found)
    return shown


def read_rows(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the rows that the run was trained on; `InputError` for other rows."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected the rows of the run at {folder}: {path} cannot be read ({error})"
        ) from error
    if without_places(manifest.get("identity")) != run["rows"].get("identity"):
        raise InputError(f"{folder} are not the rows that the run was trained on: they were made otherwise")
    rows: dict[str, Any] = without_places(manifest)
    return rows


def without_places(value: Any) -> Any:
    """The same with each absolute path cut to its last name: where things lay is this machine's affair."""
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, str):
        if " " in value:  # a command line
            return " ".join(without_places(word) for word in value.split(" "))
        if value.startswith(("/", "~")):
            return PurePosixPath(value).name or value
        if PureWindowsPath(value).drive:
            return PureWindowsPath(value).name
    return value
