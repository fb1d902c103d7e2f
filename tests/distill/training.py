"""A training run as a process of its own, which a test may kill, or start several of under torchrun.

training.py ROWS RUN BACKBONE [RECIPE FIELD=JSON ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from runoff.distill.held_out import METRIC, NAME, HeldOut
from runoff.distill.recipe import Recipe
from runoff.distill.rows import checked_rows, split
from runoff.distill.run import Run
from runoff.distill.train import Job, TrainReport, Watching, train
from runoff.distill.trainer import Machine

HELD_OUT = 20
TEST_RECIPE = {
    "learning_rate": 3e-3,
    "global_batch": 32,
    "pooling": "mean",
    "precision": "fp32",
    "every": 0.2,
}


def start(
    rows_folder: Path, run_folder: Path, backbone: Path, held_out: int = HELD_OUT, **fields: object
) -> TrainReport:
    recipe = Recipe(str(backbone), **{**TEST_RECIPE, **fields})  # type: ignore[arg-type]
    rows = checked_rows(rows_folder)
    parts = split(rows, held_out, recipe)
    watching = Watching({NAME: HeldOut(rows, parts.held_out)}, METRIC) if held_out else Watching({})
    machine = Machine(
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        rank=int(os.environ.get("RANK", "0")),
        threads=2,
        budget=256,
    )
    return train(Job(rows, parts, recipe, backbone, machine), Run(run_folder), watching)


if __name__ == "__main__":
    rows_folder, run_folder, backbone, *fields = sys.argv[1:]
    start(
        Path(rows_folder),
        Path(run_folder),
        Path(backbone),
        **{name: json.loads(value) for name, value in (field.split("=", 1) for field in fields)},
    )
