"""Rows and a recipe -> a trained reranker, in a folder that can be gone on with after any interruption."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runoff.contracts import InputError, MissingExtraError
from runoff.data.atomic import new_folder
from runoff.distill.recipe import Recipe
from runoff.distill.rows import Deal, LabelledRows, Split, mapped
from runoff.distill.run import CURVES, MAPPED, Run, plot
from runoff.quiet import quiet_transformers

if TYPE_CHECKING:
    from runoff.distill.trainer import DistilTrainer, Evaluate, Machine


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came of a run: `chosen` is "best" or "last", `metric` what decided (None: nothing was evaluated)."""

    steps: int
    pairs: int
    tokens: int
    seconds: float
    loss: float
    metric: str | None
    best: dict[str, Any] | None
    last: dict[str, Any] | None
    chosen: str
    model: Path


@dataclass(frozen=True, slots=True)
class Job:
    """What is learned from what, on which machine. `about` is kept in run.json (the machine, versions)."""

    rows: LabelledRows
    split: Split
    recipe: Recipe
    backbone: Path
    machine: Machine
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on with, but for what is evaluated."""
        return {"recipe": self.recipe.as_dict(), "rows": self.rows.identity, "counts": self.counts}

    @property
    def counts(self) -> dict[str, int]:
        return {
            "rows": self.rows.count,
            "queries": self.rows.queries,
            "trained_queries": len(self.split.train),
            "held_out_queries": len(self.split.held_out),
            "positives": self.rows.positives,
        }

    @property
    def steps(self) -> int:
        """Optimiser steps of the run; raises what `deal` raises."""
        size = self.machine.world_size
        return steps_of(deal(self.rows, self.split, self.recipe, size), self.recipe, size)


@dataclass(frozen=True, slots=True)
class Watching:
    """What is measured on the way. `metric` picks the best checkpoint ("NAME_FIGURE"); `compare` best against last."""

    evaluations: Mapping[str, Evaluate]
    metric: str | None = None
    compare: str | None = None


@dataclass(frozen=True, slots=True)
class Reporting:
    """Who hears of the progress: `advance` each step (and first those done before), `say` each evaluation."""

    advance: Callable[[int], object] = lambda _steps: None
    say: Callable[[str], object] = lambda _line: None


def deal(rows: LabelledRows, split: Split, recipe: Recipe, world_size: int = 1) -> Deal:
    """The batches of each process; `InputError` for a batch that cannot be shared, or that the rows do not fill."""
    if recipe.global_batch % (world_size * recipe.group):
        raise InputError(
            f"expected a batch that {world_size} processes can share in groups of {recipe.group}, got "
            f"{recipe.global_batch} pairs: take a multiple of {world_size * recipe.group}"
        )
    dealt = Deal(rows.starts, split.train, recipe.global_batch // world_size, recipe.group, recipe.seed)
    if len(dealt) < world_size:
        raise InputError(
            f"expected rows for one batch at least: {dealt.rows:,} rows to train on do not fill a batch of "
            f"{recipe.global_batch:,}. Take a smaller batch, or more rows"
        )
    return dealt


def steps_of(dealt: Deal, recipe: Recipe, world_size: int = 1) -> int:
    """Optimiser steps of the run."""
    return max(1, math.floor(len(dealt) // world_size * recipe.epochs))


def precision(recipe: Recipe, device: str, flags: tuple[str, ...] = ()) -> str:
    """ "bf16" or "fp32"; auto takes bf16 on a GPU that has it and on processors with instructions for it.

    Without them PyTorch's bf16 products ran at 1.3 GFLOP/s on a Zen 3 with two cores, its fp32 ones at 167 (LOG.md).
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device == "cpu":
        return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported() else "fp32"


def train(job: Job, run: Run, watching: Watching, reporting: Reporting | None = None) -> TrainReport:
    """Trains, or goes on where the run was stopped: the losses are those of a run that was never stopped.

    Raises `InputError` for a folder that holds another run.
    """
    check_extra()
    reporting = reporting or Reporting()
    rows, machine = job.rows, job.machine
    if machine.rank == 0:
        run.begin(
            {
                **job.about,
                "recipe": job.recipe.as_dict(),
                "rows": {"folder": rows.folder.name, "identity": rows.identity, "counts": job.counts},
                "identity": {
                    **job.identity,
                    "evaluations": sorted(watching.evaluations),
                    "deciding": [watching.metric, watching.compare],
                },
                "metric": watching.metric,
            }
        )
    joined(machine)
    if run.is_complete:  # every process sees it, so that none waits for the others
        return report_of(run.manifest(), run)
    trainer, steps = prepared(job, run, watching, reporting)
    checkpoint, kept = run.resume() if machine.rank == 0 else (None, {})
    checkpoint = _shared(checkpoint, machine)
    trainer.pairs, trainer.tokens = int(kept.get("pairs", 0)), int(kept.get("tokens", 0))
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    reporting.advance(done)
    trainer.first_epoch = done // max(1, len(trainer.deal) // machine.world_size)
    with quiet_transformers():
        if checkpoint and done >= steps:  # stopped while it was finishing: there is no step left
            trainer._load_from_checkpoint(str(checkpoint))
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return _finished(trainer, run, watching, machine, steps)


def device(asked: str | None = None) -> str:
    """ "cuda" where torch sees a GPU, else "cpu"; `InputError` for cuda where there is none."""
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("expected a CUDA device, torch sees none: leave --device out to train on the CPU")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def gpu_name() -> str:
    import torch

    name: str = torch.cuda.get_device_name()
    return name


def joined(machine: Machine) -> None:
    """Waits for all processes, each on a GPU of its own: the first makes the folder before others write to it."""
    if machine.world_size > 1:
        from datetime import timedelta

        from accelerate import PartialState

        wait = (
            {} if machine.device == "cpu" else {"timeout": timedelta(seconds=1800)}
        )  # as TrainingArguments has it
        PartialState(cpu=machine.device == "cpu", **wait).wait_for_everyone()


def check_extra() -> None:
    """Raises `MissingExtraError` where what training needs is not installed."""
    import importlib.util

    needed = ("torch", "sentence_transformers", "datasets", "accelerate", "tensorboard")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(f"training needs {', '.join(missing)}: pip install 'runoff[train]'")


def prepared(job: Job, run: Run, watching: Watching, reporting: Reporting) -> tuple[DistilTrainer, int]:
    """A trainer that is ready to start, and its number of steps."""
    import torch
    from transformers import set_seed

    from runoff.distill import attention, student
    from runoff.distill import trainer as trainers
    from runoff.distill.steps import Step

    recipe, machine = job.recipe, job.machine
    threads = machine.threads if machine.device == "cpu" and machine.world_size == 1 else 1
    set_seed(recipe.seed)
    if machine.device == "cpu" and machine.world_size == 1:
        torch.set_num_threads(1)
    dealt = deal(job.rows, job.split, recipe, machine.world_size)
    steps = steps_of(dealt, recipe, machine.world_size)
    arithmetic = precision(recipe, machine.device, tuple(job.about.get("machine", {}).get("flags", ())))
    model = student.build(job.backbone, recipe, machine.device, is_half=arithmetic == "bf16")
    tokenize = trainers.Tokenize(model, recipe.max_length)
    is_packed = attention.takes_packed(model[0])
    step = Step(model, recipe.loss, machine.piece_tokens, tokenize.pad_id, is_packed)
    watch = trainers.Watch(watching.evaluations, step, tokenize, threads) if watching.evaluations else None
    made = trainers.DistilTrainer(
        step=step,
        deal=dealt,
        machine=machine,
        journal=trainers.Journal(run, reporting.advance, reporting.say),
        model=model,
        args=trainers.arguments(recipe, machine, run.folder, steps, watching.metric, arithmetic),
        train_dataset=mapped(job.rows, run.folder / MAPPED),
        evaluator=watch,
        data_collator=trainers.Collate(
            model.preprocess, valid_label_columns=["label"], pairs_to_rows=tokenize, group=recipe.group
        ),
    )
    trainers.quiet(made)
    return made, steps


def _finished(
    trainer: DistilTrainer, run: Run, watching: Watching, machine: Machine, steps: int
) -> TrainReport:
    """Chooses between the best checkpoint and the last, and writes the model, the picture and the manifest."""
    if machine.rank != 0:
        return TrainReport(steps, 0, 0, 0.0, float("nan"), watching.metric, None, None, "last", run.model)
    evaluations = run.evaluations()
    chosen, best, last = "last", None, None
    if watching.metric:
        best, last = best_and_last(evaluations, watching.metric)
        if watching.compare:
            by_step = {entry["step"]: entry["metrics"] for entry in evaluations}
            best["compared"] = by_step[best["step"]][watching.compare]
            last["compared"] = by_step[last["step"]][watching.compare]
        chosen = choice(best, last)
        if chosen == "best" and best["step"] != last["step"]:
            trainer._load_from_checkpoint(str(run.checkpoint(best["step"])))
    with new_folder(run.model) as draft:
        trainer.model.save_pretrained(str(draft), create_model_card=False)
    shutil.rmtree(run.folder / MAPPED, ignore_errors=True)
    lines = run.lines()
    plot({run.folder.name: lines}, run.folder / CURVES)
    losses = [line["loss"] for line in lines if line.get("kind") == "step" and "loss" in line]
    from runoff.distill import student

    parameters = student.counts(trainer.model)
    run.finish(
        {
            "parameters": parameters.all,
            "trained_parameters": parameters.trained,
            "precision": "bf16" if trainer.args.bf16 else "fp32",
            "steps": steps,
            "pairs": trainer.pairs,
            "tokens": trainer.tokens,
            "seconds": round(trainer.journal.seconds, 1),
            "loss": float(np.mean(losses[-5:])) if losses else None,
            "evaluations": evaluations,
            "best": best,
            "last": last,
            "chosen": chosen,
        }
    )
    return report_of(run.manifest(), run)


def best_and_last(evaluations: list[dict[str, Any]], metric: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"step", "value"} of the best evaluation, the earliest where several are, and of the last one)."""
    entries = [{"step": entry["step"], "value": entry["metrics"][metric]} for entry in evaluations]
    best = max(entries, key=lambda entry: (entry["value"], -entry["step"]))
    return dict(best), dict(entries[-1])


def choice(best: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """ "best" or "last": by the comparison where there is one (the last wins a tie: it has seen all rows)."""
    key = "compared" if "compared" in best else "value"
    return "best" if best[key] > last[key] else "last"


def report_of(manifest: Mapping[str, Any], run: Run) -> TrainReport:
    """The report of a run that is complete."""
    return TrainReport(
        int(manifest["steps"]),
        int(manifest["pairs"]),
        int(manifest["tokens"]),
        float(manifest["seconds"]),
        float("nan") if manifest["loss"] is None else float(manifest["loss"]),
        manifest["metric"],
        manifest["best"],
        manifest["last"],
        str(manifest["chosen"]),
        run.model,
    )


def _shared(checkpoint: Path | None, machine: Machine) -> Path | None:
    """What the first process found, told to all."""
    if machine.world_size == 1:
        return checkpoint
    from accelerate.utils import broadcast_object_list

    (found,) = broadcast_object_list([str(checkpoint) if checkpoint else None])
    return Path(found) if found else None
