"""sentence-transformers' trainer with our batches, our step and our record. Imported only where torch is wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from runoff.contracts import FloatArray, Pair
from runoff.distill.recipe import Recipe
from runoff.distill.rows import Deal, runs
from runoff.distill.run import CHECKPOINTS, Run
from runoff.distill.steps import Rows, Step, pieces, threaded_gradients

CPU_BUDGET, GPU_BUDGET = 1024, 65536
"""Tokens of a piece. On two Zen 4 cores 512 to 2,048 train equally fast and 4,096 slower (its activations leave the
cache); a GPU halves its budget where memory runs out."""

Metrics = Mapping[str, float]
Evaluate = Callable[[Callable[[Sequence[Pair]], FloatArray]], Metrics]
"""A function from pairs to raw scores -> figures of the model that gives them; the first one decides which is best."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use: device, processes, this one's number, threads, tokens of a piece (0: by device)."""

    device: str = "cpu"
    world_size: int = 1
    rank: int = 0
    threads: int = 1
    budget: int = 0
    workers: int = 0

    @property
    def piece_tokens(self) -> int:
        return self.budget or (CPU_BUDGET if self.device == "cpu" else GPU_BUDGET)


class Watch(BaseEvaluator):  # type: ignore[misc]
    """Our evaluations under the name of one of sentence-transformers'."""

    def __init__(
        self, evaluations: Mapping[str, Evaluate], step: Step, tokenize: Tokenize, threads: int = 1
    ) -> None:
        super().__init__()
        self._evaluations, self._step, self._tokenize = evaluations, step, tokenize
        self._pool = ThreadPoolExecutor(threads)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        was_training = model.training
        model.eval()
        found: dict[str, float] = {}
        try:
            for name, evaluate in self._evaluations.items():
                figures = evaluate(lambda pairs: scores_of(pairs, self._step, self._tokenize, self._pool))
                # With the prefix, which sentence-transformers adds only where it lacks: a set may be called "eval".
                found |= {f"eval_{name}_{key}": float(value) for key, value in figures.items()}
        finally:
            model.train(was_training)
        return found


def scores_of(pairs: Sequence[Pair], step: Step, tokenize: Tokenize, pool: ThreadPoolExecutor) -> FloatArray:
    """The student's raw scores of the pairs, [N]. Each thread of the pool takes pieces of its own."""
    found = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), 4096):
        part = pairs[start : start + 4096]
        rows = tokenize(part, np.zeros(len(part), np.float32), np.arange(len(part) + 1, dtype=np.int32))
        rows = rows.to(step.device)
        cut = pieces(rows, 2 * step.budget)
        for piece, scores in zip(cut, pool.map(partial(_scored, step, rows), cut), strict=True):
            found[[start + number for number in piece]] = scores
    return found


def _scored(step: Step, rows: Rows, piece: list[int]) -> FloatArray:
    """Scores of the rows of a piece; in halves where a GPU's memory runs out."""
    try:
        with torch.inference_mode():  # which is a thread's own
            scores: FloatArray = step.scores(rows, piece).cpu().numpy()
        return scores
    except torch.OutOfMemoryError:
        if len(piece) == 1:
            raise
    half = len(piece) // 2
    return np.concatenate([_scored(step, rows, piece[:half]), _scored(step, rows, piece[half:])])


class Tokenize:
    """Pairs -> `Rows`, without padding. A pair longer than `max_length` loses from the longer of its texts."""

    def __init__(self, model: CrossEncoder, max_length: int) -> None:
        self._tokenizer = model.tokenizer
        limit = min(max_length, int(self._tokenizer.model_max_length))
        self._options = {"truncation": "longest_first", "max_length": limit, "padding": False}
        self.pad_id = int(self._tokenizer.pad_token_id or 0)

    def __call__(self, pairs: Sequence[Pair], labels: FloatArray, groups: Any) -> Rows:
        made = self._tokenizer(
            [query for query, _ in pairs],
            [document for _, document in pairs],
            return_attention_mask=False,
            **self._options,
        )
        lengths = [len(ids) for ids in made["input_ids"]]
        types = made.get("token_type_ids")
        return Rows(
            torch.from_numpy(np.concatenate([np.asarray(ids, np.int32) for ids in made["input_ids"]])),
            None
            if types is None
            else torch.from_numpy(np.concatenate([np.asarray(row, np.int32) for row in types])),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            torch.as_tensor(np.asarray(labels, np.float32)),
            groups,
        )


@dataclass
class Collate(CrossEncoderDataCollator):  # type: ignore[misc]
    """Rows of the data set -> one batch, tokenised in the loader's process."""

    pairs_to_rows: Tokenize | None = None
    group: int = 1

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        assert self.pairs_to_rows is not None
        pairs = [(row["query"], row["document"]) for row in features]
        labels = np.array([row["label"] for row in features], np.float32)
        return {
            "rows": self.pairs_to_rows(pairs, labels, runs([row["query_id"] for row in features], self.group))
        }


class DealtBatches(DefaultBatchSampler):  # type: ignore[misc]
    """A `Deal` as the batch sampler that accelerate shards over processes and skips through on resuming."""

    def __init__(self, deal: Deal, epoch: int) -> None:
        # None: batches of ragged groups have fewer rows, and accelerate drops those that are not of a stated size.
        self.deal, self.batch_size, self.drop_last = deal, None, True
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.deal)

    def __iter__(self) -> Iterator[list[int]]:
        return self.deal.batches(self.epoch)


class _Holder(torch.nn.Module):  # type: ignore[misc]
    """Where sentence-transformers looks for what is trained; the loss itself is in `Step`."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model


class DistilTrainer(CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer of a run: batches from `deal`, a step in pieces, figures to `run`."""

    def __init__(self, *, step: Step, deal: Deal, machine: Machine, journal: Journal, **options: Any) -> None:
        self._step, self.deal, self._machine, self.journal = step, deal, machine, journal
        journal.trainer = self
        self._pool = ThreadPoolExecutor(machine.threads)
        self.pairs = self.tokens = 0
        self.first_epoch = 0
        """Of a run that is gone on with: behind accelerate's skipping the trainer's own word does not reach them."""
        super().__init__(loss=_Holder(options["model"]), callbacks=[journal], **options)
        step.context = partial(
            torch.autocast, self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: `runoff publish` writes the card. (Its statistics also fail on columns that have nulls.)"""

    def get_batch_sampler(self, dataset: Any, batch_size: int, **_options: Any) -> DealtBatches:
        return DealtBatches(self.deal, self.first_epoch)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The batch's loss, its gradients left in the parameters."""
        model.train()
        rows = self._prepare_inputs(inputs)["rows"].to(self.args.device)
        seen = torch.tensor([len(rows.labels), int(rows.offsets[-1])], device=self.args.device)
        if self._machine.world_size > 1:
            torch.distributed.all_reduce(seen)
        self.pairs, self.tokens = self.pairs + int(seen[0]), self.tokens + int(seen[1])
        if self._machine.world_size > 1:
            return self._over_processes(model, rows)
        if self._machine.device == "cpu":
            # Dropout's masks come from one generator, in whatever order threads ask: one thread can be repeated.
            threads = 1 if self._drops else self._machine.threads
            return threaded_gradients(self._step, rows, self._trained(), self._pool, threads)
        return self._on_one_gpu(rows)

    @property
    def _drops(self) -> bool:
        return any(isinstance(module, torch.nn.Dropout) and module.p for module in self.model.modules())

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _over_processes(self, model: Any, rows: Rows) -> torch.Tensor:
        """Gradients are exchanged with the last piece; those before it only add up."""
        total = torch.zeros((), device=self.args.device)
        totals, parts = self._step.totals(rows), pieces(rows, self._step.budget)
        for terms in totals.values():  # of all processes, whose groups may have other sizes
            torch.distributed.all_reduce(terms)
        for number, part in enumerate(parts):
            with nullcontext() if number == len(parts) - 1 else self.accelerator.no_sync(model):
                # Times their number, since the exchange takes the mean of the processes' gradients.
                loss = self._step.piece(rows, part, totals, model) * self._machine.world_size
                self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def _on_one_gpu(self, rows: Rows) -> torch.Tensor:
        """Where memory runs out, the pieces are halved for good and the batch is begun again."""
        while True:
            total = torch.zeros((), device=self.args.device)
            try:
                for loss in self._step.losses(rows):
                    loss.backward()
                    total += loss.detach()
                return total
            except torch.OutOfMemoryError:
                longest = int(rows.lengths.max())
                if self._step.budget <= longest:
                    raise
                self._step.budget = max(self._step.budget // 2, longest)
                self.model.zero_grad()
                torch.cuda.empty_cache()


class Journal(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer says to the run, and marks a checkpoint once it is whole."""

    def __init__(self, run: Run, advance: Callable[[int], object], say: Callable[[str], object]) -> None:
        self._run, self._advance, self._say = run, advance, say
        self._begun = time.monotonic()
        self.trainer: DistilTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_options: Any) -> None:
        self._advance(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_options: Any
    ) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        line = {name: value for name, value in logs.items() if name not in ("epoch", "total_flos")}
        kind = "evaluation" if any(name.startswith("eval_") for name in line) else "step"
        line = {name.removeprefix("eval_"): value for name, value in line.items()}
        for name in ("runtime", "samples_per_second", "steps_per_second"):
            line.pop(name, None)
        self._run.log({"step": state.global_step, "kind": kind, "seconds": round(self.seconds, 2), **line})
        if kind == "evaluation":
            self._say(
                f"step {state.global_step}: "
                + ", ".join(f"{name} {value:.4f}" for name, value in line.items())
            )

    def on_save(self, args: Any, state: Any, control: Any, **_options: Any) -> None:
        if state.is_world_process_zero and self.trainer is not None:
            kept = {"pairs": self.trainer.pairs, "tokens": self.trainer.tokens, "seconds": self.seconds}
            self._run.mark_checkpoint(state.global_step, kept)

    @property
    def seconds(self) -> float:
        """Of training, with those before the last resume."""
        return self._run.seconds_before + time.monotonic() - self._begun


def arguments(
    recipe: Recipe, machine: Machine, run: Path, steps: int, metric: str | None, precision: str
) -> Any:
    """The trainer's arguments, as far as a recipe decides them."""
    # The one way to say it since transformers 5.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / "tensorboard")
    interval = max(1, round(steps * recipe.every))
    head = {r"^model\.[1-9]": recipe.learning_rate * recipe.head_rate} if recipe.head_rate != 1.0 else {}
    return CrossEncoderTrainingArguments(
        output_dir=str(run / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=recipe.global_batch // machine.world_size,
        learning_rate=recipe.learning_rate,
        learning_rate_mapping=head,
        lr_scheduler_type="linear",
        warmup_steps=round(steps * recipe.warmup),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        seed=recipe.seed,
        bf16=precision == "bf16",
        use_cpu=machine.device == "cpu",
        eval_strategy="steps" if metric else "no",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=max(2, recipe.keep),  # the one before stays until the new one is marked as whole
        metric_for_best_model=f"eval_{metric}" if metric else None,
        greater_is_better=True if metric else None,
        logging_steps=max(1, min(20, steps // 50)),
        logging_nan_inf_filter=False,
        report_to=["tensorboard"],
        dataloader_num_workers=machine.workers,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        save_only_model=False,
    )


def quiet(trainer: Any) -> None:
    """Takes the trainer's own lines and bars off: the run has its own."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
