"""`runoff train`: labelled rows -> a reranker."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import CommandParser, Commands, new_command, positive, progress_bar
from runoff.cli.terminal import open_terminal, print_json

if TYPE_CHECKING:
    from runoff.distill.recipe import Recipe
    from runoff.distill.rows import LabelledRows, Split
    from runoff.distill.train import Job, TrainReport, Watching
    from runoff.distill.trainer import Machine

EXAMPLES = """\
  runoff train build/rows build/run --backbone ~/models/all-MiniLM-L6-v2 --dry-run     will it fit, how long
  runoff train build/rows build/run --backbone ~/models/all-MiniLM-L6-v2               the laptop recipe
  runoff train build/rows build/sweep --sweep 1e-4 2e-4 4e-4                           which learning rate
  runoff train mixed run-17m --recipe ettin-17m --evaluate nanobeir                    as published
  torchrun --nproc-per-node 8 -m runoff train mixed run-150m --recipe ettin-150m --evaluate nanobeir
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "train",
        run,
        summary="distil, step 4: train a reranker on labelled rows",
        description="Trains on ROWS (made by `runoff label`, `sample` or `mix`) and writes RUN: the chosen model, the\n"
        "log, curves, checkpoints. Stopped midway, by whatever, the same command goes on from the last checkpoint\n"
        "with the losses of a run that was never stopped. Under torchrun every process takes its share of the\n"
        "batch, so the same command does the same on any number of machines.",
        examples=EXAMPLES,
    )
    parser.add_argument("rows", metavar="ROWS", type=Path, help="labelled rows")
    parser.add_argument("out", metavar="RUN", type=Path, help="the folder to write")
    parser.later(_add_options)


def _add_options(parser: CommandParser) -> None:
    add_recipe_options(parser)
    add_watching_options(parser)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    machine.add_argument("--threads", metavar="COUNT", type=positive, help="of the CPU (default: all cores)")
    machine.add_argument(
        "--piece-tokens",
        metavar="N",
        type=positive,
        default=0,
        help="tokens that go through the model at once, which bounds memory and changes no result (default: 1024 on a "
        "CPU; 65536 on a GPU, halved where they do not fit)",
    )
    machine.add_argument(
        "--workers", metavar="N", type=int, help="processes that tokenise (default: 0; 4 for a GPU)"
    )
    instead = parser.add_argument_group("instead of training")
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="check the rows, a few steps, memory and disk, and say how long it will take",
    )
    instead.add_argument(
        "--sweep",
        metavar="RATE",
        nargs="+",
        type=float,
        help="train each learning rate on --subset of the queries (default: 0.15) and compare",
    )


def add_recipe_options(parser: CommandParser) -> None:
    """What decides what is learned; `runoff distil` has the same. To be added `later`."""
    from runoff.distill.recipe import LOSSES, RECIPES

    group = parser.add_argument_group("recipe (whatever is not given is the recipe's)")
    group.add_argument("--recipe", choices=tuple(RECIPES), default="laptop", help="default: %(default)s")
    group.add_argument(
        "--backbone", metavar="NAME", help="encoder to start from: a folder or a hub id, BERT or ModernBERT"
    )
    group.add_argument(
        "--layers",
        metavar="N",
        type=positive,
        help="of the backbone's (BERT), spread evenly: a smaller student",
    )
    group.add_argument(
        "--loss",
        metavar="NAME[=WEIGHT]",
        action="append",
        help=f"{', '.join(LOSSES)}; several are added",
    )
    group.add_argument(
        "--group", metavar="N", type=positive, help="documents of a query that a loss compares"
    )
    group.add_argument("--learning-rate", metavar="RATE", type=float, help="peak rate")
    group.add_argument(
        "--head-rate", metavar="FACTOR", type=float, help="the fresh head's rate, as a multiple"
    )
    group.add_argument(
        "--batch", metavar="PAIRS", type=positive, dest="global_batch", help="of a step, over all processes"
    )
    group.add_argument("--epochs", metavar="N", type=float, help="passes over the rows; 0.5 is half of one")
    group.add_argument("--pooling", choices=("cls", "mean"), help="which token vectors the head reads")
    group.add_argument("--max-length", metavar="TOKENS", type=positive, help="of a pair in training")
    group.add_argument("--warmup", metavar="SHARE", type=float, help="of the steps")
    group.add_argument("--dropout", metavar="SHARE", type=float, help="in the encoder")
    group.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), help="of the arithmetic; weights are fp32"
    )
    group.add_argument(
        "--every", metavar="SHARE", type=float, help="evaluate and save after this share of the steps"
    )
    group.add_argument("--keep", metavar="N", type=positive, help="checkpoints that stay")
    group.add_argument("--subset", metavar="SHARE", type=float, help="of the queries to train on")
    group.add_argument(
        "--train-embeddings", action="store_true", help="also where the recipe freezes the word vectors"
    )
    group.add_argument(
        "--seed", metavar="N", type=int, help="of the head, the held-out queries and the order"
    )


def add_watching_options(parser: CommandParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--held-out",
        metavar="QUERIES",
        type=int,
        help="queries kept for evaluation (default: 500, or a twentieth)",
    )
    group.add_argument(
        "--evaluate",
        metavar="WHAT",
        action="append",
        help="held-out, nanobeir, or a BEIR folder with judgements; the first decides which checkpoint is best "
        "(default: nanobeir for the ettin recipes, else held-out)",
    )
    group.add_argument(
        "--compare", metavar="WHAT", help="one more, which decides between the best checkpoint and the last"
    )


def recipe_of(options: argparse.Namespace) -> Recipe:
    from dataclasses import fields

    from runoff.cli.label import weighted
    from runoff.distill.recipe import recipe

    found = recipe(options.recipe)
    loss = dict(weighted(part) for part in options.loss) if options.loss else None
    names = [
        field.name for field in fields(found) if field.name not in ("loss", "weight_decay", "clip", "frozen")
    ]
    changes = {name: getattr(options, name) for name in names}
    if options.train_embeddings:
        changes["frozen"] = ()
    return found.but(loss=loss, **changes)


def backbone_folder(recipe: Recipe) -> Path:
    """The encoder's folder, downloaded if need be."""
    from runoff.checkpoint.hub import find_model

    return find_model(recipe.backbone, "embedder")


def run(options: argparse.Namespace) -> None:
    from runoff.distill.train import Job, check_extra

    check_extra()
    recipe = recipe_of(options)
    machine = machine_of(options)
    quiet = argparse.Namespace(**{**vars(options), "json": True}) if machine.rank else options
    rows, split = _rows(options, recipe, quiet)
    watching = watching_of(options, rows, split)
    folder = backbone_folder(recipe)
    job = Job(rows, split, recipe, folder, machine, about_machine(recipe, folder, machine))
    if options.dry_run:
        from runoff.cli.plan import dry_run

        dry_run(options, job)
        return
    if options.sweep:
        from runoff.cli.plan import sweep

        sweep(quiet, job, watching)
        return
    report = trained(quiet, job, options.out.expanduser(), watching)
    if machine.rank == 0:
        show(options, report)


def trained(options: argparse.Namespace, job: Job, out: Path, watching: Watching) -> TrainReport:
    """One run with its progress bar."""
    from runoff.distill.run import Run
    from runoff.distill.train import Reporting, train

    with progress_bar(job.steps, "steps", options) as bar:

        def say(line: str) -> None:
            if not options.json:
                bar.write(line, file=sys.stderr)

        return train(job, Run(out), watching, Reporting(bar.update, say))


def _rows(options: argparse.Namespace, recipe: Recipe, quiet: Any) -> tuple[LabelledRows, Split]:
    from runoff.data.shards import Shards
    from runoff.distill import labels as label_shards
    from runoff.distill.rows import HELD_OUT_QUERIES, checked_rows, split

    folder = options.rows.expanduser()
    count = Shards(folder, label_shards.KIND).checked()["counts"]["pairs"]
    with progress_bar(count, "rows", quiet) as bar:
        rows = checked_rows(folder, bar.update)
    held_out = options.held_out
    if held_out is None:
        held_out = min(HELD_OUT_QUERIES, rows.queries // 20)
    return rows, split(rows, held_out, recipe)


def machine_of(options: argparse.Namespace) -> Machine:
    """Device and processes, as torchrun's environment says."""
    from runoff.cli.machine import usable_cores
    from runoff.distill.train import device as device_of
    from runoff.distill.trainer import Machine

    device = device_of(options.device)
    workers = (4 if device == "cuda" else 0) if options.workers is None else options.workers
    return Machine(
        device,
        int(os.environ.get("WORLD_SIZE", "1")),
        int(os.environ.get("RANK", "0")),
        options.threads or usable_cores(),
        options.piece_tokens,
        workers,
    )


def about_machine(recipe: Recipe, backbone: Path, machine: Machine) -> dict[str, Any]:
    """What run.json says of where and with what it was trained."""
    from runoff.cli.machine import circumstances, processor
    from runoff.distill.run import digest
    from runoff.distill.train import gpu_name

    cpu = processor()
    about: dict[str, Any] = {"processor": cpu.name, "cores": cpu.cores, "flags": list(cpu.flags)}
    if machine.device == "cuda":
        about["gpu"] = gpu_name()
    packages = ("torch", "sentence-transformers", "transformers", "datasets", "accelerate")
    found = circumstances(packages)
    return {
        "command": " ".join(["runoff", *map(shlex.quote, sys.argv[1:])]),
        "backbone": {"name": recipe.backbone, "sha256": digest(backbone)},
        "machine": {**about, "device": machine.device, "processes": machine.world_size},
        "versions": {"python": found["python"], **found["versions"]},
    }


def watching_of(options: argparse.Namespace, rows: LabelledRows, split: Split) -> Watching:
    """The evaluations asked for, the first deciding."""
    import numpy as np

    from runoff.contracts import InputError
    from runoff.data.shards import MANIFEST
    from runoff.distill.held_out import HeldOut
    from runoff.distill.mixed import HELD_OUT
    from runoff.distill.rows import checked_rows
    from runoff.distill.train import Watching

    default = "nanobeir" if options.recipe.startswith("ettin-") else "held-out"
    wanted = options.evaluate or ([default] if default != "held-out" or len(split.held_out) else [])
    found: dict[str, Any] = {}
    metrics = []
    for what in [*wanted, *([options.compare] if options.compare else [])]:
        name, evaluate, metric = _evaluation(what, rows, split)
        if name in found and what not in wanted[:1]:
            raise InputError(f"expected evaluations of different names, got {name!r} twice")
        found[name] = evaluate
        metrics.append(metric)
    compare = metrics[-1] if options.compare else None
    tail = rows.folder / HELD_OUT
    if (tail / MANIFEST).exists():
        # What `runoff mix` held out is measured too (its loss), and never decides: it may have one row a query.
        kept = checked_rows(tail)
        found["tail"] = HeldOut(kept, np.arange(kept.queries))
    return Watching(found, metrics[0] if metrics else None, compare)


def _evaluation(what: str, rows: LabelledRows, split: Split) -> tuple[str, Any, str]:
    """(name, function, the figure that decides)."""
    from runoff.contracts import InputError
    from runoff.distill import held_out

    if what == "held-out":
        if not len(split.held_out):
            raise InputError("expected held-out queries to evaluate on, none are held out: give --held-out")
        return held_out.NAME, held_out.HeldOut(rows, split.held_out), held_out.METRIC
    if what == "nanobeir":
        from runoff.evaluate.nanobeir import nanobeir

        return "nanobeir", nanobeir(), "nanobeir_ndcg@10"
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.matrix import figures_of

    folder = Path(what).expanduser()
    name = folder.name.replace("-", "_")
    return name, figures_of(read_judged(folder)), f"{name}_ndcg@10"


def show(options: argparse.Namespace, report: TrainReport) -> None:
    facts = {
        "out": str(options.out),
        "model": str(report.model),
        "steps": report.steps,
        "pairs": report.pairs,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "loss": report.loss if report.loss == report.loss else None,
        "metric": report.metric,
        "best": report.best,
        "last": report.last,
        "chosen": report.chosen,
    }
    if options.json:
        print_json(facts)
        return
    shown = {
        "steps": f"{report.steps:,} of {report.pairs / max(report.steps, 1):,.0f} pairs, "
        f"in {report.seconds / 60:.1f} minutes",
        "speed": f"{report.pairs / max(report.seconds, 1e-9):,.1f} pairs/s, "
        f"{report.tokens / max(report.seconds, 1e-9):,.0f} tokens/s, evaluations counted",
        "loss": f"{report.loss:.4f}",
    }
    if report.best and report.last:
        shown[str(report.metric)] = (
            f"best {report.best['value']:.4f} at step {report.best['step']:,}, last {report.last['value']:.4f}; the "
            f"{report.chosen} is kept"
        )
    shown["model"] = str(report.model)
    print_facts(open_terminal(), f"a run in {options.out}", shown)
