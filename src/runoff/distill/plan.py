"""Before the long run: a few steps that say whether rows, memory, disk and time are there."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runoff.contracts import InputError
from runoff.distill.recipe import Recipe
from runoff.distill.run import Run

if TYPE_CHECKING:
    from runoff.distill.train import Job

TIMED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take. Bytes and seconds; `tokens` are of a pair, at these quantiles: median, 95 %, most."""

    steps: int
    pairs: int
    left_out: int
    parameters: int
    trained_parameters: int
    precision: str
    tokens: tuple[float, float, float]
    cut_pairs: float
    pairs_per_second: float
    tokens_per_second: float
    seconds: float
    evaluations: int
    memory: int
    disk: int
    disk_free: int


def plan(job: Job, out: Path) -> Plan:
    """Takes a few steps, the first with the longest of 20,000 rows, in a scratch folder beside `out`.

    `seconds` leaves evaluations out, whose length depends on what is judged. Raises `InputError` where the disk is too
    small for the checkpoints.
    """
    from runoff.distill import student
    from runoff.distill.train import Reporting, Watching, joined, prepared

    rows, recipe = job.rows, job.recipe
    joined(job.machine)
    place = _existing(out)
    free = shutil.disk_usage(place).free
    if rows.characters > free:
        raise InputError(
            f"{place}: the rows alone take {rows.characters / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB"
        )
    with tempfile.TemporaryDirectory(prefix=".runoff-plan-", dir=place) as scratch:
        trainer, steps = prepared(job, Run(scratch), Watching({}), Reporting())
        lengths, cut = _lengths(trainer, recipe)
        seconds, pairs, tokens, memory = _timed(trainer)
    counted = student.counts(trainer.model)
    # A checkpoint holds the weights once more and Adam's two moments of what is trained, in fp32.
    each = 4 * counted.all + 8 * counted.trained
    evaluations = -(-steps // max(1, round(steps * recipe.every)))
    # One more than are kept: the next is written before the oldest goes.
    disk = each * min(max(recipe.keep, 2) + 1, evaluations) + 4 * counted.all + rows.characters
    if disk > free:
        raise InputError(
            f"{out}: the run needs {disk / 1e9:.1f} GB ({recipe.keep} checkpoints of {each / 1e9:.2f} GB, and the "
            f"rows), the disk has {free / 1e9:.1f} GB: take --keep 1, or another disk"
        )
    all_pairs = steps * recipe.global_batch
    return Plan(
        steps,
        all_pairs,
        trainer.deal.left_out,
        counted.all,
        counted.trained,
        "bf16" if trainer.args.bf16 else "fp32",
        tuple(float(value) for value in np.quantile(lengths, [0.5, 0.95, 1.0])),  # type: ignore[arg-type]
        cut,
        pairs / seconds,
        tokens / seconds,
        all_pairs / job.machine.world_size / (pairs / seconds),
        evaluations,
        memory,
        disk,
        free,
    )


def _lengths(trainer: Any, recipe: Recipe, count: int = 4096) -> tuple[np.ndarray[Any, Any], float]:
    """(tokens of a sample of pairs, the share of them that is cut)."""
    data = trainer.train_dataset
    numbers = np.random.default_rng([recipe.seed, 3]).choice(len(data), min(count, len(data)), replace=False)
    found = data[np.sort(numbers).tolist()]
    made = trainer.model.tokenizer(found["query"], found["document"], truncation=False, verbose=False)
    lengths = np.array([len(ids) for ids in made["input_ids"]])
    limit = min(recipe.max_length, int(trainer.model.tokenizer.model_max_length))
    return np.minimum(lengths, limit), float((lengths > limit).mean())


def _timed(trainer: Any) -> tuple[float, int, int, int]:
    """(seconds of the median step, its pairs, its tokens, peak memory in bytes)."""
    import torch

    is_gpu = trainer.args.device.type == "cuda"
    # This process's peak counts what was loaded before; on a GPU it is what training itself takes.
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    optimizer = torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], lr=0.0)
    longest = _longest_batch(trainer)
    taken = []
    loader = iter(trainer.get_train_dataloader())
    for number in range(TIMED_STEPS + 1):
        batch = longest if number == 0 else next(loader, longest)
        begun = time.monotonic()
        trainer.training_step(trainer.model, batch)
        optimizer.step()
        optimizer.zero_grad()
        if is_gpu:
            torch.cuda.synchronize()
        taken.append((time.monotonic() - begun, len(batch["rows"].labels), int(batch["rows"].offsets[-1])))
    memory = torch.cuda.max_memory_allocated() if is_gpu else _peak_memory()
    # The first was for warmth and for memory.
    seconds = float(np.median([each[0] for each in taken[1:]]))
    return seconds, taken[1][1], taken[1][2], memory


def _longest_batch(trainer: Any) -> dict[str, Any]:
    """A batch of the longest rows of a sample."""
    data, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    sample = np.random.default_rng(0).choice(len(data), min(20_000, len(data)), replace=False)
    found = data[np.sort(sample).tolist()]
    lengths = [len(query) + len(text) for query, text in zip(found["query"], found["document"], strict=True)]
    chosen = np.argsort(lengths)[-size:]
    made: dict[str, Any] = trainer.data_collator(
        [{name: values[place] for name, values in found.items()} for place in chosen]
    )
    return made


def _peak_memory() -> int:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
