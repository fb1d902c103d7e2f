"""`CrossEncoder`: load a reranker, score pairs, rank documents; sentence-transformers' arguments and answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.activation import Activation, softmax
from runoff.calibration.stored import Calibration, checked_threshold, read_calibration, required
from runoff.contracts import (
    CutReport,
    FloatArray,
    InputError,
    LengthRules,
    LongDocuments,
    Precision,
    TokenIds,
    Truncation,
)
from runoff.engine.choose import Choice
from runoff.legacy import (
    CALL_NAMES,
    CONSTRUCTOR_NAMES,
    CONSTRUCTOR_PLACES,
    check_device,
    refuse_unknown,
    takes_older_names,
    text_processing,
)
from runoff.model import FoundModel, ModelOptions, NativeModel, checked_max_length, find, load_native
from runoff.ranking import check_finite, rank_scores
from runoff.results import Probabilities, Ranking, Scores
from runoff.scoring import pair_outputs
from runoff.text.pairs import as_pairs, listed
from runoff.text.prompts import checked_default, merged_prompts, resolve_prompt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Pairs of one batch where sentence-transformers runs the model; its own default.
_DELEGATED_BATCH_SIZE = 32


class CrossEncoder:
    """A reranker: scores (query, document) pairs jointly.

    Arguments, types and numbers are those of sentence-transformers 6.2. Added: `precision` ("auto", "fp32", "bf16",
    "int8") and `threads` of the CPU engine; `truncation`
    ("longest_first" as there, "document" keeps the query whole, "error" refuses); `long_documents`
    ("passages" scores overlapping passages and keeps the best); `token_budget`, the most tokens of a packed
    batch (None: the engine's own). `calibration` is what makes scores probabilities, where one lies beside the model
    or was set (None: none). An instance may be shared between threads.

    Raises `CheckpointNotFoundError`, `CheckpointError` for a checkpoint that would be misread, and
    `MissingExtraError` for a model that only the `torch` extra runs.
    """

    @takes_older_names(CONSTRUCTOR_NAMES, CONSTRUCTOR_PLACES)
    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        *,
        device: str | Sequence[str] | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        precision: Precision = "auto",
        engine: str | None = None,
        threads: int | None = None,
        truncation: Truncation = "longest_first",
        long_documents: LongDocuments = "truncate",
        token_budget: int | None = None,
    ) -> None:
        self._options = ModelOptions(
            device=device,
            precision=precision,
            engine=engine,
            threads=threads,
            max_length=max_length,
            revision=revision,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
            token=token,
            backend=backend,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs or {},
            processor_kwargs=processor_kwargs or {},
            config_kwargs=config_kwargs or {},
        )
        self._rules = LengthRules(truncation, long_documents)
        self._name = os.fspath(model_name_or_path)
        self._token_budget = token_budget
        self._has_logged_cut = False
        found = find(model_name_or_path, "reranker", self._options)
        self._choice = found.choice
        self._load(found, prompts, default_prompt_name)
        self.calibration: Calibration | None = read_calibration(found.folder)
        if num_labels is not None and num_labels != self.num_labels:
            raise InputError(
                f"num_labels={num_labels} was asked for, but this checkpoint's head gives {self.num_labels}; leave it "
                "out (another head would have random weights)"
            )
        if activation_fn is not None:
            self.activation_fn = activation_fn

    def _load(
        self, found: FoundModel, prompts: Mapping[str, str] | None, default_prompt_name: str | None
    ) -> None:
        self._native: NativeModel | None = None
        source: Any
        if found.choice.engine != "sentence-transformers":
            self._native = load_native(found, self._options)
            self._choice = self._native.choice
            source = self._native.checkpoint
            self._label_count: int = source.model.output_size
            self._activation = Activation.of(source.activation)
        else:
            from runoff.engine.delegated import DelegatedReranker

            source = DelegatedReranker(found.folder, found.choice, self._options.for_sentence_transformers())
            self._label_count = source.num_labels
            self._activation = Activation.of(source.activation_fn)
            self._delegate = source
        self.prompts = merged_prompts(source.prompts, prompts)
        self.default_prompt_name = checked_default(
            default_prompt_name, source.default_prompt_name, self.prompts
        )

    # --- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name or path it was loaded by."""
        return self._name

    @property
    def choice(self) -> Choice:
        """Which engine runs it, where, in which precision, and why."""
        return self._choice

    @property
    def device(self) -> str:
        return self._choice.device

    @property
    def num_labels(self) -> int:
        """Labels per pair; 1 for a reranker."""
        return self._label_count

    @property
    def activation_fn(self) -> Activation:
        """What turns raw scores into those that `predict` returns; may be set to a callable or a name."""
        return self._activation

    @activation_fn.setter
    def activation_fn(self, value: Callable[..., Any] | str) -> None:
        self._activation = Activation.of(value)

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a pair, special ones included; longer pairs are cut."""
        return self._delegate.max_length if self._native is None else self._native.tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if self._native is None:
            self._delegate.max_length = value
        else:
            tokenizer = self._native.tokenizer
            tokenizer.max_length = checked_max_length(value, self._native.checkpoint, tokenizer)

    max_length = max_seq_length

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Equal for rerankers that may share stored token ids; None where the model takes texts only."""
        return None if self._native is None else self._native.tokenizer.fingerprint

    # --- use it -----------------------------------------------------------------------------------

    @takes_older_names(CALL_NAMES)
    def predict(
        self,
        inputs: Sequence[Sequence[str]] | Sequence[str] | npt.NDArray[Any] | str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        *,
        truncation: Truncation | None = None,
        long_documents: LongDocuments | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **older: Any,
    ) -> Scores | np.float32 | torch.Tensor | list[torch.Tensor]:
        """Scores of pairs: an array [N] (or [N, L] with several labels); of one pair, one score.

        `batch_size` caps the pairs of a packed batch (None: the token budget alone decides); scores do not
        depend on it. `activation_fn` and `processing_kwargs` ({"text": {"max_length", "truncation"}}) count
        for this call alone. Raises `InputError` for what is no pair of texts, `TruncationError` as `truncation`
        says, `ScoreError` for scores that are not finite.
        """
        refuse_unknown("predict", older)
        check_device(device, self.device, self.name)
        max_length, rule = text_processing(processing_kwargs)
        is_single, pairs = as_pairs(inputs)
        logits, cut = self._logits(
            pairs,
            self._prompt(prompt, prompt_name),
            batch_size,
            show_progress_bar,
            self._rules_of_call(truncation or rule, long_documents, max_length),
        )
        if not pairs:
            return self._converted(np.array([]), cut, convert_to_numpy, convert_to_tensor)
        scores = (self._activation if activation_fn is None else Activation.of(activation_fn))(logits)
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if apply_softmax and scores.ndim > 1:
            scores = softmax(scores)
        converted = self._converted(scores, cut, convert_to_numpy, convert_to_tensor)
        return converted[0] if is_single else converted

    @takes_older_names(CALL_NAMES)
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        device: str | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        truncation: Truncation | None = None,
        long_documents: LongDocuments | None = None,
        **older: Any,
    ) -> Ranking:
        """The documents from best to worst: [{"corpus_id": int, "score": float[, "text": document]}].

        Ordered by raw score, equal ones by lower corpus_id, so that scores which a sigmoid squeezes to 1.0
        keep their order. With a `threshold` in 0..1 only those at least so probable by the model's calibration are
        left, each with its "probability". `top_k` slices the list as in Python (0 gives none). Raises `InputError`
        for a model with several labels, a threshold without a calibration, and what `predict` raises.
        """
        self._check_one_label("rank()", "predict() with pairs")
        refuse_unknown("rank", older)
        check_device(device, self.device, self.name)
        if threshold is not None:
            threshold, calibration = checked_threshold(threshold), required(self.calibration, self.name)
        documents = listed(documents)
        _, pairs = as_pairs([(query, document) for document in documents])
        logits, cut = self._logits(
            pairs,
            self._prompt(prompt, prompt_name),
            batch_size,
            show_progress_bar,
            self._rules_of_call(truncation, long_documents),
        )
        activation = self._activation if activation_fn is None else Activation.of(activation_fn)
        raw = logits.reshape(-1)
        scores = np.asarray(activation(logits)).reshape(-1) if len(raw) else raw
        rows, probabilities = rank_scores(raw if activation.keeps_order else scores).rows, None
        if threshold is not None:
            probabilities = calibration.probabilities(raw)
            rows = rows[probabilities[rows] >= threshold]
        return Ranking.of(rows[:top_k], cut, scores, probabilities, documents if return_documents else None)

    def probabilities(self, inputs: Any, **options: Any) -> Probabilities:
        """How probable it is that each pair's document is relevant: fp64 [N], of one pair [1].

        By the model's `calibration`. `options` are those of `predict`, but for activation and conversion. Raises
        `InputError` for a model without a calibration or with several labels, and what `predict` raises.
        """
        self._check_one_label("probabilities()", "predict() with pairs")
        calibration = required(self.calibration, self.name)
        _, pairs = as_pairs(inputs)
        raw = self.predict(
            pairs, activation_fn="identity", convert_to_numpy=True, convert_to_tensor=False, **options
        )
        return Probabilities.of(
            calibration.probabilities(np.atleast_1d(raw)), getattr(raw, "cut", CutReport())
        )

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, to be stored and given to `score` in the text's place."""
        if self._native is None:
            raise InputError(f"{self.name} is run by sentence-transformers and takes texts, not token ids")
        return self._native.tokenizer.tokenize(listed(texts))

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> Scores:
        """Raw scores (logits, before any activation) [N] of texts or token ids against one query."""
        self._check_one_label("score()", "predict()")
        pairs = [(query, document) for document in listed(documents)]
        logits, cut = self._logits(pairs, self._prompt(None, None), None, False, self._rules)
        return Scores.of(logits.reshape(-1), cut)

    # --- how --------------------------------------------------------------------------------------

    def _check_one_label(self, method: str, instead: str) -> None:
        if self.num_labels != 1:
            raise InputError(
                f"{method} needs a model with one label, this one has {self.num_labels}; use {instead}"
            )

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        return resolve_prompt(prompt, prompt_name, self.prompts, self.default_prompt_name)

    def _rules_of_call(
        self,
        truncation: Truncation | None,
        long_documents: LongDocuments | None,
        max_length: int | None = None,
    ) -> LengthRules:
        """The model's own rules, but for what the call sets."""
        if max_length is not None and self._native is not None:
            max_length = checked_max_length(max_length, self._native.checkpoint, self._native.tokenizer)
        return LengthRules(
            truncation or self._rules.truncation, long_documents or self._rules.long_documents, max_length
        )

    def _logits(
        self,
        pairs: Sequence[tuple[str, str | TokenIds] | str],
        prompt: str,
        batch_size: int | None,
        show_progress_bar: bool | None,
        rules: LengthRules,
    ) -> tuple[FloatArray, CutReport]:
        """Raw outputs [N, L] in the order of `pairs`, and what was cut."""
        if batch_size is not None and batch_size <= 0:
            raise InputError(f"batch_size must be a positive number of pairs, got {batch_size}")
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        if not pairs:
            return np.empty((0, self.num_labels), np.float32), CutReport()
        if self._native is None:
            outputs, cut = self._delegate.logits(
                pairs,
                prompt=prompt,
                batch_size=batch_size or _DELEGATED_BATCH_SIZE,
                shows_progress=show_progress_bar,
                rules=rules,
            )
        else:
            outputs, cut = pair_outputs(
                self._native,
                pairs,
                prompt,
                rules,
                token_budget=self._token_budget,
                batch_size=batch_size,
                shows_progress=show_progress_bar,
            )
        check_finite(outputs)
        self._log_cut(cut)
        return outputs, cut

    def _log_cut(self, cut: CutReport) -> None:
        if cut.cut_pairs and not self._has_logged_cut:
            self._has_logged_cut = True
            logger.warning("%s: %s. Said once; every result carries its own count in `.cut`", self.name, cut)

    def _converted(
        self, scores: npt.NDArray[Any], cut: CutReport, convert_to_numpy: bool, convert_to_tensor: bool
    ) -> Any:
        if convert_to_tensor or not convert_to_numpy:
            from runoff.engine.delegated import to_tensor

            tensor = to_tensor(np.asarray(scores, np.float32))
            return tensor if convert_to_tensor else list(tensor)
        return Scores.of(scores, cut)
