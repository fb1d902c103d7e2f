"""A run's model -> the files that others load, and the proof that they give the run's scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runoff.checkpoint.files import CONFIG, TOKENIZER_CONFIG, WEIGHTS, read_json
from runoff.checkpoint.modular import small_files, weight_files
from runoff.checkpoint.weights import Tensor, read_safetensors
from runoff.checkpoint.writing import as_bf16, write_safetensors
from runoff.contracts import CheckpointError, FloatArray, MissingExtraError, Pair
from runoff.quiet import quiet_transformers

PRECISIONS = ("bf16", "fp32")

SAME_FILES = 1e-5
"""Most that scores of fp32 files may differ from the run's own: they are the same numbers in the same program."""

SAME_MODEL = 1e-4
"""Most that Runoff's fp32 scores may differ from sentence-transformers', as everywhere (docs/score.md), times the
largest score where that is above 1."""

TOKENIZER = "tokenizer.json"

# What saving leaves in tokenizer_config.json of how one machine loaded or one run called the tokenizer.
_OF_THE_CALL = (
    *("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"),
    *("is_local", "local_files_only", "name_or_path"),
)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared on `pairs` probe pairs: the spread of the run's raw scores, the largest difference from them,
    the noise (spread of these differences as a share of the scores' own), and the largest difference between Runoff's
    and sentence-transformers' scores."""

    pairs: int
    spread: float
    from_run: float
    noise: float
    between_programs: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_model(source: Path, out: Path, precision: str) -> int:
    """Fills `out` with the model in `source`, weights in `precision`; the bytes of all weights.

    config.json says float32 also for bf16 weights: then sentence-transformers widens them as it loads and computes in
    fp32, as Runoff does. Raises `CheckpointError` where the run's weights are not fp32, or not finite.
    """
    for name in small_files(source):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    _edit(out / CONFIG, {"dtype": "float32"}, drop=("torch_dtype", "_name_or_path"))
    # A tokenizer's file may pad and cut every text for whoever reads it without transformers, as MiniLM's does at
    # 128 tokens.
    if (out / TOKENIZER).is_file():
        _edit(out / TOKENIZER, {"padding": None, "truncation": None}, indent=None)
    if (out / TOKENIZER_CONFIG).is_file():
        _edit(out / TOKENIZER_CONFIG, {}, drop=_OF_THE_CALL)
    names = weight_files(source)
    if WEIGHTS not in names:
        raise CheckpointError(f"{source / WEIGHTS} is missing: expected the model as `runoff train` saved it")
    for name in names:
        tensors = _checked(source / name)
        if precision == "bf16":
            write_safetensors(out / name, _rounded(tensors, source / name), {"format": "pt"})
        else:  # byte by byte, so that figures of the run's weights are known as figures of these
            shutil.copyfile(source / name, out / name)
    return sum((out / name).stat().st_size for name in names)


def _checked(path: Path) -> dict[str, Tensor]:
    """The file's tensors; `CheckpointError` for numbers that are not fp32, or not finite."""
    tensors = read_safetensors(path)
    for name, tensor in tensors.items():
        if tensor.stored_type in ("F64", "F16", "BF16"):
            raise CheckpointError(f"{path}: expected fp32 weights, {name} is stored as {tensor.stored_type}")
        if tensor.stored_type == "F32" and not np.isfinite(tensor.data).all():
            raise CheckpointError(
                f"{path}: the weights {name} hold values that are not finite: the training diverged"
            )
    return tensors


def _rounded(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """fp32 as bf16, the widest first, so that none needs a gap before it."""
    found = {
        name: as_bf16(tensor, f"{path}, {name},") if tensor.stored_type == "F32" else tensor
        for name, tensor in tensors.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].data.itemsize))


def _edit(path: Path, changes: dict[str, Any], *, drop: Sequence[str] = (), indent: int | None = 2) -> None:
    content = {**read_json(path), **changes}
    kept = {key: value for key, value in content.items() if key not in drop}
    path.write_text(
        json.dumps(kept, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )


# --- does it give the run's scores? ----------------------------------------------------------------------


def verify(
    run_model: Path, out: Path, precision: str, pairs: Sequence[Pair], by_runoff: FloatArray
) -> Verified:
    """Loads the run's model and `out` in sentence-transformers and compares them with `by_runoff`, the raw scores
    that Runoff gives `out`. Raises `CheckpointError` where they are not the same."""
    wanted, found = reference_scores(run_model, pairs), reference_scores(out, pairs)
    spread = float(np.std(wanted))
    if not spread > 1e-6 * max(1.0, float(np.abs(wanted).max())):
        raise CheckpointError(
            f"{run_model} gives {len(pairs)} pairs about the same score ({wanted[0]:.4g}): it cannot rank. Look at the "
            "run's log before publishing"
        )
    between = float(np.abs(found - by_runoff).max())
    if not between <= SAME_MODEL * max(1.0, float(np.abs(found).max())):
        raise CheckpointError(
            f"Runoff and sentence-transformers give scores of the new files that differ by up to {between:.3g}: "
            "nothing was published. Report it, with the model"
        )
    from_run = float(np.abs(found - wanted).max())
    if precision == "fp32" and not from_run <= SAME_FILES:
        raise CheckpointError(
            f"the new files give scores that differ from the run's by up to {from_run:.3g}, expected {SAME_FILES:g} at "
            "most: nothing was published. Is the disk failing?"
        )
    return Verified(len(pairs), spread, from_run, float(np.std(found - wanted)) / spread, between)


def reference_scores(folder: Path, pairs: Sequence[Pair]) -> FloatArray:
    """Raw scores [N] by sentence-transformers, in fp32 on the CPU."""
    try:
        from sentence_transformers import CrossEncoder
        from torch.nn import Identity
    except ImportError as error:
        raise MissingExtraError(
            f"publishing checks the model in sentence-transformers, which is not installed ({error}): "
            "pip install 'runoff[torch]'"
        ) from error
    with quiet_transformers():
        model = CrossEncoder(str(folder), device="cpu", local_files_only=True, activation_fn=Identity())
    scores: FloatArray = np.asarray(
        model.predict([list(pair) for pair in pairs], show_progress_bar=False), np.float32
    )
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise CheckpointError(f"{folder}: expected one finite score a pair, got shape {list(scores.shape)}")
    return scores
