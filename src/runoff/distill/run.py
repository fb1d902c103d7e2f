"""A training run's folder: what it was, what it has measured, and where it can go on.

RUN/run.json       recipe, rows, machine; figures and which checkpoint was chosen once `complete`
RUN/log.jsonl      a line for each logged step and each evaluation
RUN/checkpoints/   the trainer's own; one counts from when `whole.json` lies in it
RUN/tensorboard/   the same figures for TensorBoard
RUN/rows/          the rows, mapped into memory; gone when the run is complete
RUN/curves.svg     the same as a picture
RUN/model/         the chosen model, in sentence-transformers' layout, fp32
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runoff.contracts import InputError, MissingExtraError
from runoff.data.atomic import new_file, replace_file

MANIFEST, LOG, CHECKPOINTS, MODEL, CURVES = "run.json", "log.jsonl", "checkpoints", "model", "curves.svg"
MAPPED = "rows"
WHOLE = "whole.json"
KIND = "run"


class Run:
    """One run's folder. `seconds_before`: of training before this process took it up."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.seconds_before = 0.0

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def manifest(self) -> dict[str, Any]:
        """What run.json says; `InputError` where there is no run."""
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(f"expected a training run at {self.folder}, found no {MANIFEST} in it") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise InputError(f"{path} is not the manifest of a training run")
        return found

    def begin(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a run that is begun, or gone on with if it was begun the same way.

        `about["identity"]` must be the same to go on; `InputError` says what differs.
        """
        wanted = json.loads(json.dumps(about))
        if (self.folder / MANIFEST).exists():
            found = self.manifest()
            before, now = found.get("identity", {}), wanted["identity"]
            if differing := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
                shown = "; ".join(f"{name} {_shown(before.get(name), now.get(name))}" for name in differing)
                raise InputError(
                    f"{self.folder} is a run begun with another {shown}. Give the same again to go on, or another "
                    "folder."
                )
            return found
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"expected an empty or new folder at {self.folder}, found other files in it")
        self.folder.mkdir(parents=True, exist_ok=True)
        made = {"kind": KIND, "complete": False, **wanted}
        self._write(made)
        return made

    @property
    def is_complete(self) -> bool:
        return (self.folder / MANIFEST).exists() and bool(self.manifest().get("complete"))

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Marks the run as complete, with its figures."""
        self._write({**self.manifest(), "complete": True, **figures})

    def checked(self) -> dict[str, Any]:
        """The manifest of a run that is complete; `InputError` for one that is not."""
        found = self.manifest()
        if not found.get("complete"):
            raise InputError(f"{self.folder} is not finished: run the same `runoff train` again, it goes on")
        return found

    def _write(self, manifest: Mapping[str, Any]) -> None:
        replace_file(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    # --- the log -------------------------------------------------------------------------------------

    def log(self, line: Mapping[str, Any]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines; one that a kill cut short is not among them."""
        path = self.folder / LOG
        if not path.exists():
            return []
        found = []
        for line in path.read_text("utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def evaluations(self) -> list[dict[str, Any]]:
        """[{"step", "metrics"}] in order of steps."""
        return [
            {
                "step": line["step"],
                "metrics": {name: line[name] for name in line if name not in ("step", "kind", "seconds")},
            }
            for line in self.lines()
            if line.get("kind") == "evaluation"
        ]

    # --- checkpoints ---------------------------------------------------------------------------------

    def checkpoint(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"checkpoint-{step}"

    def mark_checkpoint(self, step: int, kept: Mapping[str, Any]) -> None:
        """Says that this checkpoint is whole, with what a later process goes on counting from."""
        folder = self.checkpoint(step)
        for file in folder.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        replace_file(folder / WHOLE, json.dumps({"step": step, **kept}) + "\n")

    def resume(self) -> tuple[Path | None, dict[str, Any]]:
        """(the last whole checkpoint, what it kept); what a kill left of others, and later log lines, is removed."""
        whole: dict[int, tuple[Path, dict[str, Any]]] = {}
        parent = self.folder / CHECKPOINTS
        for folder in parent.glob("checkpoint-*") if parent.is_dir() else ():
            try:
                kept = json.loads((folder / WHOLE).read_text("utf-8"))
                whole[int(kept["step"])] = folder, kept
            except (OSError, ValueError, KeyError):
                shutil.rmtree(folder, ignore_errors=True)
        step = max(whole, default=0)
        lines = [line for line in self.lines() if line.get("step", 0) <= step]
        if (self.folder / LOG).exists():
            replace_file(self.folder / LOG, "".join(json.dumps(line) + "\n" for line in lines))
        if not whole:
            return None, {}
        self.seconds_before = float(whole[step][1].get("seconds", 0.0))
        return whole[step]


def plot(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, metric: str | None = None
) -> None:
    """Draws loss, learning rate and evaluations of one or several runs' log lines, as a picture file."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a plot needs matplotlib: pip install 'runoff[train]'") from error
    figure = Figure(figsize=(10.0, 3.0), layout="constrained")
    loss, rate, judged = figure.subplots(1, 3)
    for name, lines in runs.items():
        steps = [line for line in lines if line.get("kind") == "step" and "loss" in line]
        at = [line["step"] for line in steps]
        loss.plot(at, [line["loss"] for line in steps], linewidth=1.0, label=name)
        rate.plot(at, [line.get("learning_rate", 0.0) for line in steps], linewidth=1.0)
        for key in _evaluated(lines, metric):
            found = [
                (line["step"], line[key])
                for line in lines
                if key in line and line.get("kind") == "evaluation"
            ]
            label = key if len(runs) == 1 else f"{name} {key}"
            judged.plot(*zip(*found, strict=True), marker="o", markersize=3, linewidth=1.0, label=label)
    for axis, title in ((loss, "loss"), (rate, "learning rate"), (judged, "evaluations")):
        axis.set(xlabel="step", title=title)
        axis.spines[["top", "right"]].set_visible(False)
    loss.set_yscale("log")
    if judged.lines:
        judged.legend(frameon=False, fontsize=7)
    if len(runs) > 1:
        loss.legend(frameon=False, fontsize=7)
    with new_file(Path(path)) as draft:
        figure.savefig(draft, format=Path(path).suffix[1:])


def digest(folder: Path) -> str:
    """SHA-256 of the weights in a model's folder, file by file in order of names."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def _evaluated(lines: Sequence[Mapping[str, Any]], metric: str | None) -> list[str]:
    """Which figures of the evaluations are drawn: the one asked for, or all but losses."""
    names = {name for line in lines if line.get("kind") == "evaluation" for name in line}
    names -= {"step", "kind", "seconds"}
    if metric:
        return [metric] if metric in names else []
    return sorted(name for name in names if "loss" not in name)


def _shown(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return ", ".join(f"{name} ({before.get(name)!r}, now {now.get(name)!r})" for name in names)
    return f"({before!r}, now {now!r})"
