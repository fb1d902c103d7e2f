"""A model -> a checkpoint in a lower precision, with its measured error: what `runoff quantize` does."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runoff.calibration.stored import read_calibration
from runoff.checkpoint.card import CardFacts, model_card
from runoff.checkpoint.config import StaticConfig
from runoff.checkpoint.files import WEIGHTS, WEIGHTS_INDEX
from runoff.checkpoint.layout import Checkpoint, load_weights
from runoff.checkpoint.modular import small_files, weight_digests
from runoff.checkpoint.quantized import PACKED_WEIGHTS, QUANTIZATION, write_quantized
from runoff.checkpoint.weights import Weights
from runoff.contracts import (
    CheckpointError,
    Encoded,
    FloatArray,
    InputError,
    PackedEngine,
    Pair,
    UnsupportedModelError,
)
from runoff.data.atomic import new_folder
from runoff.engine.native import NativeEngine, Processor
from runoff.engine.quantize import Measures, Plan, plan_bf16, plan_int8
from runoff.engine.smoothing import input_peaks
from runoff.model import FoundModel, ModelOptions, find, load_native, load_native_tokenizer
from runoff.ranking import spearman
from runoff.selfcheck import check_pairs, check_sequences, compared_scores, difference
from runoff.text.batching import forward_all

LARGEST_SAMPLE = 256
"""Pairs of one's own that are measured on, beside those that come with Runoff."""

# Longer texts are cut for calibration: outliers and noise show in the first tokens as well.
_LONGEST_SEQUENCE = 512
# Sequences that compare matrices, and that activation peaks are taken from.
_QUICK_SAMPLE = 64

_README = "README.md"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: the model's name, the new folder, the precision, and the most noise.

    `pairs` are calibration pairs beside those of Runoff, `pairs_name` what they are called in the model card; `name`
    is what `out` is called there, where it is a draft of another name.
    """

    source: str
    out: Path
    precision: str
    target: float
    version: str
    pairs: Sequence[Pair] = ()
    pairs_name: str = ""
    replaces: bool = False
    shows_progress: bool = False
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or self.out.resolve().name


def quantize(found: FoundModel, order: Order) -> dict[str, Any]:
    """Writes the checkpoint, in one step, and answers what was decided and measured.

    Raises `InputError` for a place that is taken or a target out of reach, `UnsupportedModelError` for a model
    without layers of ours, and an `OSError` where the disk refuses.
    """
    checkpoint = checked_model(found)
    out = order.out.expanduser().resolve()
    check_place(out, found.folder.resolve(), order.replaces)
    weights = load_weights(checkpoint)
    sequences, measured_on = _calibration(found, checkpoint, order)
    exact = _outputs(NativeEngine(checkpoint.model, weights, _processor(found), "fp32"), sequences)
    plan = _plan(found, checkpoint, weights, sequences, exact, order)
    engine = NativeEngine(checkpoint.model, plan.weights, _processor(found), order.precision)
    outputs = _outputs(engine, sequences)
    about = {
        "runoff_version": order.version,
        "role": checkpoint.role,
        "precision": order.precision,
        "source": {"name": order.source, "sha256": weight_digests(found.folder)},
        "smoothed": list(plan.smoothed_parts),
        "measured": {
            "against": "fp32",
            "on": measured_on,
            "sequences": len(sequences),
            "target": order.target,
            "noise": plan.noise,
            "plain_noise": plan.plain_noise,
            "smoothing_trials": dict(plan.smoothing_trials),
            "spearman": spearman(compared_scores(checkpoint, exact), compared_scores(checkpoint, outputs)),
            "largest_difference": _largest_difference(checkpoint, exact, outputs),
            **_probability_difference(found, checkpoint, exact, outputs),
        },
    }
    with new_folder(out) as draft:
        sizes = _write(draft, found, checkpoint, plan, about, order)
        _check_written(draft, checkpoint, sequences, outputs)
    kinds = Counter(plan.kinds.values())
    return {
        "model": order.source,
        "out": str(order.out),
        **{key: about[key] for key in ("role", "precision", "smoothed", "measured")},
        "matrices": {"int8": kinds["i8"], "16 bits": kinds["i16"]},
        "kept_in_16_bits": [name for name, kind in plan.kinds.items() if kind == "i16" and kinds["i8"]],
        "bytes_before": sizes[0],
        "bytes_after": sizes[1],
    }


# --- what may be quantized, and where to -----------------------------------------------------------------


def checked_model(found: FoundModel) -> Checkpoint:
    """The checkpoint, if its layers can be quantized here; else `InputError` or `UnsupportedModelError`."""
    checkpoint, choice = found.checkpoint, found.choice
    if checkpoint is None or choice.engine == "sentence-transformers":
        raise UnsupportedModelError(
            f"only models that Runoff's own engine runs can be quantized; {choice.reason}"
        )
    if checkpoint.quantization is not None:
        raise InputError(
            f"{found.folder} is quantized already ({checkpoint.quantization.precision}); give the model that it was "
            "made from"
        )
    if isinstance(checkpoint.model.encoder, StaticConfig):
        raise UnsupportedModelError(
            f"{found.folder} is a static table: it has no matrix products to quantize"
        )
    if choice.engine != "native":
        raise UnsupportedModelError(
            f"quantizing needs the native engine, whose form the weights are stored in: {choice.reason}"
        )
    return checkpoint


def check_place(out: Path, source: Path, replaces: bool) -> None:
    """Raises `InputError` unless a checkpoint may be written to `out`."""
    if out == source or out in source.parents or source in out.parents:
        raise InputError(f"{out} and the model's own folder lie in one another; expected a folder beside it")
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"expected a folder to write to, {out} is a file. Choose another name")
    if not any(out.iterdir()):
        return
    if not (out / QUANTIZATION).is_file():
        raise InputError(
            f"{out} holds files that runoff quantize did not write, and are never replaced. Choose a new folder"
        )
    if not replaces:
        raise InputError(
            f"{out} holds a quantized checkpoint already. Choose a new folder, or replace it with --force"
        )


def _processor(found: FoundModel) -> Processor:
    return Processor(str(found.choice.instruction_set), found.choice.threads or 1)


# --- measure -----------------------------------------------------------------------------------------------


def _calibration(found: FoundModel, checkpoint: Checkpoint, order: Order) -> tuple[list[Encoded], str]:
    """The sequences that are measured on, and what they are."""
    tokenizer = load_native_tokenizer(found, ModelOptions())
    tokenizer.max_length = min(tokenizer.max_length or _LONGEST_SEQUENCE, _LONGEST_SEQUENCE)
    own, built_in = list(order.pairs), check_pairs()
    said = f"{len(built_in)} pairs that come with Runoff" + (
        f" and {len(own)} of {order.pairs_name}" if own else ""
    )
    return check_sequences(checkpoint, tokenizer, built_in + own), said


def _outputs(engine: PackedEngine, sequences: Sequence[Encoded]) -> FloatArray:
    return forward_all(engine, sequences, token_budget=engine.token_budget)


def _plan(
    found: FoundModel,
    checkpoint: Checkpoint,
    weights: Weights,
    sequences: list[Encoded],
    exact: FloatArray,
    order: Order,
) -> Plan:
    spread_out = np.unique(np.linspace(0, len(sequences) - 1, min(len(sequences), _QUICK_SAMPLE)).astype(int))
    few, few_exact = [sequences[row] for row in spread_out], exact[spread_out]
    bar = _Bar(order.shows_progress)
    measures = Measures(
        whole=lambda engine: difference(checkpoint, exact, _outputs(engine, sequences)),
        quick=lambda engine: difference(checkpoint, few_exact, _outputs(engine, few)),
        advance=bar.advance,
    )
    processor, model = _processor(found), checkpoint.model
    if order.precision == "bf16":
        plan = plan_bf16(model, weights, processor, measures)
        if plan.noise > order.target:
            raise InputError(
                f"16-bit weights have a noise of {plan.noise:.2g} here, more than the target {order.target:g}. "
                "Ask for a larger target"
            )
        return plan
    peaks = input_peaks(model, weights, lambda engine: _outputs(engine, few))
    try:
        return plan_int8(model, weights, processor, peaks, measures, order.target)
    finally:
        bar.close()


class _Bar:
    """A progress bar that appears with the first matrix compared."""

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._bar: Any = None

    def advance(self, total: int) -> None:
        if not self._is_shown:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc="Comparing matrices", unit="matrix")
        self._bar.update(1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _largest_difference(checkpoint: Checkpoint, first: FloatArray, second: FloatArray) -> float:
    if checkpoint.role == "embedder":
        first, second = compared_scores(checkpoint, first), compared_scores(checkpoint, second)
    return float(np.abs(first - second).max())


def _probability_difference(
    found: FoundModel, checkpoint: Checkpoint, exact: FloatArray, outputs: FloatArray
) -> dict[str, float]:
    """How far the probabilities of a calibration move, which goes along as it was fitted; nothing without one."""
    calibration = read_calibration(found.folder) if checkpoint.role == "reranker" else None
    if calibration is None:
        return {}
    first, second = (calibration.probabilities(scores) for scores in (exact, outputs))
    return {"largest_probability_difference": float(np.abs(first - second).max())}


# --- write -------------------------------------------------------------------------------------------------


def _write(
    draft: Path, found: FoundModel, checkpoint: Checkpoint, plan: Plan, about: dict[str, Any], order: Order
) -> tuple[int, int]:
    """Fills the folder; the bytes of the weights before and after."""
    for name in small_files(found.folder):
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.folder / name, draft / name)
    write_quantized(draft, plan.weights, about)
    before = sum(path.stat().st_size for path in _weight_files(found.folder, checkpoint))
    after = (draft / PACKED_WEIGHTS).stat().st_size
    readme = found.folder / _README
    text = readme.read_text("utf-8", errors="replace") if readme.is_file() else None
    facts = CardFacts(about, plan.kinds, before, after, _command(order), order.title)
    (draft / _README).write_text(model_card(text, facts), encoding="utf-8", newline="\n")
    return before, after


def _command(order: Order) -> str:
    """The command line, with names that mean something on another machine."""
    calibration = f" --calibration {order.pairs_name}" if order.pairs else ""
    return (
        f"runoff quantize {order.source} {order.title} --precision {order.precision} "
        f"--target {order.target:g}{calibration}"
    )


def _weight_files(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Every safetensors file that the checkpoint reads."""
    files = []
    for name in (checkpoint.root_folder, *checkpoint.module_folders):
        part = folder / name
        if (part / WEIGHTS).is_file():
            files.append(part / WEIGHTS)
        elif (part / WEIGHTS_INDEX).is_file():
            files += sorted(part.glob("*.safetensors"))
    return files


def _check_written(
    draft: Path, checkpoint: Checkpoint, sequences: list[Encoded], outputs: FloatArray
) -> None:
    """What was written is read back, and must give the scores that were measured."""
    options = ModelOptions(device="cpu")
    engine = load_native(find(draft, checkpoint.role, options), options).engine
    few = sequences[:_QUICK_SAMPLE]
    if not np.array_equal(_outputs(engine, few), outputs[: len(few)]):
        raise CheckpointError(
            f"{draft} was written and gives other scores when it is read: the disk may be failing; try another one"
        )


def sampled(pairs: Iterable[Pair]) -> list[Pair]:
    """At most `LARGEST_SAMPLE` of the pairs, drawn by chance but always the same ones, in their order."""
    given = list(pairs)
    if len(given) <= LARGEST_SAMPLE:
        return given
    rows = np.random.default_rng(0).choice(len(given), LARGEST_SAMPLE, replace=False)
    return [given[row] for row in sorted(rows)]
