"""How fast a student learns and a teacher teaches, beside sentence-transformers' own loops in the same process.

Shapes are Ettin's and MiniLM-L6's with random weights; pairs have the lengths of natural questions (mean 148
tokens, median 112, at most 512). Both train with the same rows, batch, optimiser, precision and pointwise MSE, without
dropout: sentence-transformers with its CrossEncoderTrainer, MSELoss and data collator as they come, Runoff with
`runoff.distill`. They take turns A B A B; a figure is the median of the turns, each of so many steps, the first
two of which do not count. Teaching is the scoring of the same pairs: `runoff teach` into shards, and
sentence-transformers' `predict`.

--memory ROWS trains a few steps on a thousand rows and on ROWS, in processes of their own, and compares their peaks.

Lines go to benchmarks/results/training.jsonl, in the place of those with the same settings and machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from peer_record import Row, checkpoint, circumstances, record
from runoff.bench.pairs import CAP, described, made_pairs, token_counts

SHAPES = ("17m", "32m", "MiniLM-L6")
COLDS = 2  # steps of a turn that do not count


def rows_folder(folder: Path, pairs: list[tuple[str, str]], repeats: int = 1) -> Path:
    """Labelled rows of these pairs, `repeats` times over, as `runoff label` would leave them."""
    from runoff.data.shards import Shards
    from runoff.distill import labels

    shards = Shards(folder, labels.KIND)
    shards.begin({"made": "for a benchmark", "pairs": len(pairs), "repeats": repeats})
    rng = np.random.default_rng(3)
    for number in range(repeats):
        ids = [f"q{number}-{row}" for row in range(len(pairs))]
        columns = {
            "query_id": ids,
            "query": [query for query, _ in pairs],
            "document_id": ids,
            "document": [document for _, document in pairs],
            "grade": [None] * len(pairs),
            "rank": [None] * len(pairs),
            "label": rng.normal(0, 2, len(pairs)).astype(np.float32),
        }
        shards.write(number, columns, labels.schema())
    shards.finish(
        {"counts": {"pairs": len(pairs) * repeats, "queries": len(pairs) * repeats, "positives": 0}}
    )
    return folder


def recipe_of(options: argparse.Namespace, precision: str) -> Any:
    from runoff.distill.recipe import Recipe

    return Recipe(
        "bench", learning_rate=1e-5, global_batch=options.batch, max_length=CAP, precision=precision
    )


def trainer_of(folder: Path, rows: Path, scratch: Path, options: argparse.Namespace, precision: str) -> Any:
    """Runoff's trainer on all of the rows, ready to start."""
    from runoff.distill.rows import checked_rows, split
    from runoff.distill.run import Run
    from runoff.distill.train import Job, Reporting, Watching, prepared
    from runoff.distill.trainer import Machine

    recipe, found = recipe_of(options, precision), checked_rows(rows)
    machine = Machine(device=options.device, threads=options.threads)
    job = Job(found, split(found, 0, recipe), recipe, folder, machine)
    return prepared(job, Run(scratch), Watching({}), Reporting())[0]


def with_runoff(
    folder: Path, rows: Path, options: argparse.Namespace, precision: str
) -> Iterator[list[float]]:
    """Seconds of each step, turn by turn."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(folder, rows, Path(scratch), options, precision)
        yield from timed(trainer, options)


def with_reference(
    folder: Path, rows: Path, options: argparse.Namespace, precision: str
) -> Iterator[list[float]]:
    """The same with sentence-transformers alone."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import MSELoss

    from runoff.distill import student

    torch.set_num_threads(options.threads)
    model = student.build(folder, recipe_of(options, precision), options.device)
    model[0].model.set_attn_implementation("sdpa")  # what sentence-transformers takes by itself
    model[0].unpad_inputs = None  # looks again whether rows may be flattened
    data = Dataset.from_parquet([str(file) for file in sorted(rows.glob("*.parquet"))])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = CrossEncoderTrainingArguments(
            output_dir=scratch,
            max_steps=10_000,
            per_device_train_batch_size=options.batch,
            learning_rate=1e-5,
            bf16=precision == "bf16",
            use_cpu=options.device == "cpu",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=data.select_columns(["query", "document", "label"]),
            loss=MSELoss(model),
        )
        trainer.accelerator.prepare_model(trainer.model)  # as train() does: autocast lives there
        yield from timed(trainer, options)


def timed(trainer: Any, options: argparse.Namespace) -> Iterator[list[float]]:
    """Seconds of the steps of one turn after another: the trainer's own batches, step and optimiser."""
    import torch

    trainer.create_optimizer_and_scheduler(num_training_steps=10_000)
    trainer.current_gradient_accumulation_steps = 1
    is_gpu = options.device == "cuda"
    threads = torch.get_num_threads()

    def batches() -> Iterator[Any]:
        while True:
            yield from trainer.get_train_dataloader()

    loader = batches()
    while True:
        torch.set_num_threads(threads)
        taken = []
        for _ in range(COLDS + options.steps):
            begun = time.perf_counter()
            trainer.training_step(trainer.model, next(loader))
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.model.zero_grad()
            if is_gpu:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - begun)
        yield taken[COLDS:]


def measured_training(shape: str, options: argparse.Namespace) -> list[Row]:
    folder = checkpoint(shape)
    pairs = made_pairs(folder, options.pairs)
    lengths = described(token_counts(folder, pairs))
    lines = []
    for precision in options.precisions.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            rows = rows_folder(Path(scratch) / "rows", pairs)
            engines = {"runoff": with_runoff, "sentence-transformers": with_reference}
            turns = {name: engine(folder, rows, options, precision) for name, engine in engines.items()}
            seconds: dict[str, list[float]] = {name: [] for name in turns}
            for _ in range(options.turns):
                for name, each in turns.items():
                    seconds[name].append(sum(next(each)) / options.steps)
        rates = {name: options.batch / statistics.median(values) for name, values in seconds.items()}
        for name, rate in rates.items():
            lines.append(
                {
                    "what": "training",
                    "shape": shape,
                    "engine": name,
                    "precision": precision,
                    "device": options.device,
                    "batch": options.batch,
                    "pairs_per_second": round(rate, 2),
                    "tokens_per_second": round(rate * lengths["mean_tokens"]),
                    "times_reference": round(rate / rates["sentence-transformers"], 2),
                    "turns": [round(options.batch / value, 2) for value in seconds[name]],
                    **lengths,
                }
            )
            print(
                f"  {shape} {precision} {name}: {rate:.1f} pairs/s, {lines[-1]['times_reference']} times",
                flush=True,
            )
    return lines


def measured_teaching(shape: str, options: argparse.Namespace) -> list[Row]:
    from sentence_transformers import CrossEncoder as Reference

    from runoff import CrossEncoder
    from runoff.distill.teacher import RerankerTeacher, teach
    from standin_distil import candidates

    folder = checkpoint(shape)
    pairs = made_pairs(folder, options.pairs)
    lengths = described(token_counts(folder, pairs))
    ours = CrossEncoder(str(folder), device=options.device, max_length=CAP)
    theirs = Reference(str(folder), device=options.device, max_length=CAP)
    seconds: dict[str, list[float]] = {"runoff": [], "sentence-transformers": []}
    with tempfile.TemporaryDirectory() as scratch:
        source = candidates(Path(scratch) / "candidates", pairs, shard=len(pairs))
        for turn in range(options.turns):
            begun = time.perf_counter()
            teach(source, RerankerTeacher(ours), Path(scratch) / f"scores-{turn}")
            seconds["runoff"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            theirs.predict(pairs, show_progress_bar=False)
            seconds["sentence-transformers"].append(time.perf_counter() - begun)
    rates = {name: len(pairs) / statistics.median(values) for name, values in seconds.items()}
    lines = []
    for name, rate in rates.items():
        lines.append(
            {
                "what": "teaching",
                "shape": shape,
                "engine": name,
                "precision": ours.choice.precision if name == "runoff" else "fp32",
                "device": options.device,
                "pairs_per_second": round(rate, 2),
                "tokens_per_second": round(rate * lengths["mean_tokens"]),
                "times_reference": round(rate / rates["sentence-transformers"], 2),
                **lengths,
            }
        )
        print(
            f"  {shape} teaching {name}: {rate:.1f} pairs/s, {lines[-1]['times_reference']} times", flush=True
        )
    return lines


# --- memory ------------------------------------------------------------------------------------------


def measured_memory(options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of the first steps on few and on many rows."""
    folder = checkpoint("17m")
    pairs = made_pairs(folder, 1000)
    lines = []
    for count in (1000, options.memory):
        scratch = Path(tempfile.mkdtemp(prefix="runoff-bench-"))
        try:
            rows_folder(scratch / "rows", pairs, count // 1000)
            command = [
                sys.executable,
                __file__,
                "--memory-here",
                str(scratch / "rows"),
                "--batch",
                str(options.batch),
            ]
            done = subprocess.run(
                [*command, "--device", options.device], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
        finally:
            shutil.rmtree(scratch)
        lines.append({"what": "memory", "shape": "17m", "rows": count, "device": options.device, **found})
        print(
            f"  {count:,} rows: peak {found['peak_mib']:,} MiB, rows read and mapped in {found['seconds']} s",
            flush=True,
        )
    return lines


def memory_here(rows: Path, options: argparse.Namespace) -> None:
    from runoff.distill.plan import _peak_memory

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(checkpoint("17m"), rows, Path(scratch), options, "auto")
        seconds = time.perf_counter() - begun
        loader = iter(trainer.get_train_dataloader())
        for _ in range(3):
            trainer.training_step(trainer.model, next(loader))
    print(json.dumps({"peak_mib": _peak_memory() >> 20, "seconds": round(seconds, 1)}))


SETTINGS = ("what", "shape", "engine", "precision", "device", "batch", "rows")


def save(lines: list[Row]) -> None:
    """Puts the lines in the place of those with the same settings on the same machine."""
    import torch

    packages = ("torch", "sentence-transformers", "transformers", "numpy")
    about = circumstances({name: metadata.version(name) for name in packages})
    if torch.cuda.is_available():
        about["machine"]["gpu"] = torch.cuda.get_device_name()
    rows = []
    for line in lines:
        settings = {name: line[name] for name in SETTINGS if name in line}
        rows.append(
            {"settings": settings, **{name: line[name] for name in line if name not in SETTINGS}, **about}
        )
    record("training", rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smallest shape, few steps")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precisions", default="auto", help="auto, or fp32,bf16 (default: auto: bf16 where it is fast)"
    )
    parser.add_argument("--batch", type=int, default=64, help="pairs of a step (default: 64)")
    parser.add_argument("--pairs", type=int, default=1024, help="different pairs (default: 1024)")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a turn (default: 5)")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--memory", type=int, metavar="ROWS", help="compare the memory over so many rows instead"
    )
    parser.add_argument("--no-teaching", action="store_true", help="training alone")
    parser.add_argument("--memory-here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_here:
        memory_here(options.memory_here, options)
        return
    if options.memory:
        save(measured_memory(options))
        return
    if options.quick:
        options.shapes, options.pairs, options.steps, options.turns = "17m", 128, 2, 2
    if options.precisions == "auto":
        options.precisions = auto_precision(options.device)
    for shape in options.shapes.split(","):
        print(f"{shape}:", flush=True)
        save(measured_training(shape, options))
        if not options.no_teaching:
            save(measured_teaching(shape, options))


def auto_precision(device: str) -> str:
    from runoff.cli.machine import processor
    from runoff.distill.train import precision

    return precision(recipe_of(argparse.Namespace(batch=64), "auto"), device, processor().flags)


if __name__ == "__main__":
    main()
