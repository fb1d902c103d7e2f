"""A name -> tokenizer and engine, ready to run: what `CrossEncoder` and `Embedder` have in common."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runoff.checkpoint.config import StaticConfig
from runoff.checkpoint.files import refuse_pickles
from runoff.checkpoint.hub import find_model
from runoff.checkpoint.layout import Checkpoint, Role, load_weights, read_checkpoint
from runoff.checkpoint.weights import Weights
from runoff.contracts import InputError, PackedEngine, Precision, UnsupportedModelError
from runoff.engine.choose import Choice, Demand, choose_engine
from runoff.engine.native import NativeEngine, Processor
from runoff.engine.reference import ReferenceEngine
from runoff.selfcheck import LARGEST_NOISE, check_batch, noise
from runoff.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

# Options of transformers that change nothing here: the engines pack tokens whatever attention was named, and
# `precision` says what they compute in.
_HARMLESS_MODEL_OPTIONS = {"dtype", "torch_dtype", "attn_implementation"}


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is found and run; the names are sentence-transformers'. Several devices become one name with commas
    between, and a torch.device its own."""

    device: str | Sequence[str] | None = None
    precision: Precision = "auto"
    threads: int | None = None
    max_length: int | None = None
    revision: str | None = None
    cache_folder: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: bool | str | None = None
    backend: str = "torch"
    engine: str | None = None
    trust_remote_code: bool = False
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device_name(self) -> str | None:
        if isinstance(self.device, (list, tuple)):
            return ",".join(str(each) for each in self.device)
        return None if self.device is None else str(self.device)

    def for_sentence_transformers(self) -> dict[str, Any]:
        """The options as its constructors take them; the folder is already local."""
        processor = dict(self.processor_kwargs)
        if self.max_length is not None:
            processor["model_max_length"] = self.max_length
        return {
            "local_files_only": True,
            "backend": self.backend,
            "model_kwargs": dict(self.model_kwargs),
            "processor_kwargs": processor,
            "config_kwargs": dict(self.config_kwargs),
        }


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder, the engine chosen for it, and, where that is ours, what it is."""

    folder: Path
    choice: Choice
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class NativeModel:
    """A model that Runoff's own engines run; `choice` is what came of the choice after any self-check."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    engine: PackedEngine
    choice: Choice


def find(name_or_path: str | os.PathLike[str], role: Role, options: ModelOptions) -> FoundModel:
    """Which model `name_or_path` is and what will run it; loads no weights.

    Raises the errors of `find_model`, `read_checkpoint` and `choose_engine`.
    """
    if options.trust_remote_code:
        raise InputError("trust_remote_code=True: Runoff never runs code from a checkpoint; leave it out")
    folder = find_model(
        name_or_path,
        role,
        revision=options.revision,
        cache_folder=options.cache_folder,
        local_files_only=options.local_files_only,
        token=options.token,
    )
    checkpoint, obstacle = None, None
    try:
        checkpoint = read_checkpoint(folder, role)
    except UnsupportedModelError as error:
        obstacle = error
    choice = choose_engine(
        Demand(
            device=options.device_name,
            precision=options.precision,
            backend=options.backend,
            threads=options.threads,
            engine=options.engine,
            obstacle=obstacle,
            is_static=checkpoint is not None and isinstance(checkpoint.model.encoder, StaticConfig),
            stored=checkpoint.quantization.precision if checkpoint and checkpoint.quantization else None,
        )
    )
    if choice.engine == "sentence-transformers":  # which would unpickle what has no safetensors
        for part in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            refuse_pickles(part)
    return FoundModel(folder, choice, checkpoint)


def load_native(found: FoundModel, options: ModelOptions) -> NativeModel:
    """Tokenizer and engine of a model that was found to be ours."""
    tokenizer = load_native_tokenizer(found, options)
    checkpoint = found.checkpoint
    assert checkpoint is not None, "only a checkpoint that was read is loaded here"
    weights = load_weights(checkpoint)
    engine: PackedEngine
    if found.choice.engine == "torch":
        from runoff.engine.torch_loading import load_torch

        attention = str(options.model_kwargs.get("attn_implementation") or "auto")
        sample = check_batch(checkpoint, tokenizer)
        engine, choice = load_torch(checkpoint.model, weights, found.choice, attention, sample)
    elif found.choice.engine == "reference":
        engine, choice = ReferenceEngine(checkpoint.model, weights), found.choice
    else:
        engine, choice = _load_engine(checkpoint, tokenizer, weights, found.choice)
    return NativeModel(checkpoint, tokenizer, engine, choice)


def _load_engine(
    checkpoint: Checkpoint, tokenizer: Tokenizer, weights: Weights, choice: Choice
) -> tuple[NativeEngine, Choice]:
    """The native engine as chosen; where int8 is on trial, it must give the scores that bf16 gives."""
    processor = Processor(str(choice.instruction_set), choice.threads or 1)

    def engine(precision: str) -> NativeEngine:
        return NativeEngine(checkpoint.model, weights, processor, precision)

    if not choice.is_on_trial:
        return engine(choice.precision), choice
    exact, quick = engine("bf16"), engine("int8")
    found = noise(checkpoint, exact, quick, check_batch(checkpoint, tokenizer))
    measured = f"its self-check differs from bf16 by {found:.1%} of the scores' spread"
    where = choice.reason.partition(";")[0]
    if found <= LARGEST_NOISE:
        reason = f"{where}; int8 is the fastest here, and {measured} (at most {LARGEST_NOISE:.0%} is allowed)"
        return quick, replace(choice, reason=reason, is_on_trial=False)
    logger.info("%s: int8 is not used: %s", checkpoint.folder, measured)
    reason = (
        f"{where}; bf16, since int8 is too coarse for this model: {measured}, more than {LARGEST_NOISE:.0%}"
    )
    return exact, replace(choice, precision="bf16", reason=reason, is_on_trial=False)


def load_native_tokenizer(found: FoundModel, options: ModelOptions) -> Tokenizer:
    """The tokenizer of a model that was found to be ours, with its limit; no weights are read."""
    checkpoint = found.checkpoint
    assert checkpoint is not None, "only a checkpoint that was read is loaded here"
    _refuse_unknown("model_kwargs", options.model_kwargs, _HARMLESS_MODEL_OPTIONS)
    _refuse_unknown("processor_kwargs", options.processor_kwargs, {"model_max_length"})
    _refuse_unknown("config_kwargs", options.config_kwargs, set())
    dtype = options.model_kwargs.get("dtype", options.model_kwargs.get("torch_dtype", "float32"))
    if str(dtype).removeprefix("torch.") not in ("float32", "auto"):
        logger.info(
            "dtype %s was asked for; `precision` decides that here: %s", dtype, found.choice.precision
        )
    folder = checkpoint.folder / checkpoint.root_folder
    tokenizer = load_tokenizer(
        folder,
        max_length=None,
        lowercases=checkpoint.text.lowercases,
        has_segments=checkpoint.text.has_segments,
        truncation_side=checkpoint.text.truncation_side,
        class_name=checkpoint.text.class_name,
    )
    _warn_of_lost_segments(checkpoint, tokenizer)
    wanted = (
        options.max_length
        if options.max_length is not None
        else options.processor_kwargs.get("model_max_length")
    )
    tokenizer.max_length = checked_max_length(wanted, checkpoint, tokenizer)
    return tokenizer


def _warn_of_lost_segments(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    encoder = checkpoint.model.encoder
    if isinstance(encoder, StaticConfig) or encoder.type_vocab_size < 2 or checkpoint.role != "reranker":
        return
    if tokenizer.has_second_segment and not checkpoint.text.has_segments:
        logger.warning(
            "%s: the model knows %d segments, but its tokenizer_config.json lists no token_type_ids, so query and "
            "document both get segment 0, as in sentence-transformers. If it was trained with segments, set "
            '"model_input_names": ["input_ids", "token_type_ids", "attention_mask"] there',
            checkpoint.folder,
            encoder.type_vocab_size,
        )


def checked_max_length(wanted: int | None, checkpoint: Checkpoint, tokenizer: Tokenizer) -> int | None:
    """The limit in tokens, special ones included: `wanted`, or else the checkpoint's own."""
    encoder = checkpoint.model.encoder
    if isinstance(encoder, StaticConfig):
        return tokenizer.saved_limit if wanted is None else wanted
    if wanted is None:
        return checkpoint.text.max_length
    if wanted <= tokenizer.special_token_count:
        raise InputError(
            f"max_length must be more than the {tokenizer.special_token_count} special tokens of a pair, got {wanted}"
        )
    if encoder.max_positions is not None and wanted > encoder.max_positions:
        raise InputError(
            f"max_length {wanted} is beyond this model's {encoder.max_positions} positions; use at most that many"
        )
    return wanted


def _refuse_unknown(name: str, given: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise InputError(
            f"{name} {unknown} means nothing to Runoff's own engines (known: {sorted(known) or 'none'}); leave it out, "
            "or run the model through sentence-transformers"
        )
