"""`CrossEncoder`: load a reranker, score pairs, rank documents; sentence-transformers' arguments and answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.activation import Activation, softmax
from runoff.contracts import CutReport, FloatArray, InputError, LongDocuments, Precision, TokenIds, Truncation
from runoff.engine.choose import Choice
from runoff.model import FoundModel, ModelOptions, NativeModel, checked_max_length, find, load_native
from runoff.ranking import check_finite, rank_scores
from runoff.results import Ranking, Scores
from runoff.text.batching import forward_all
from runoff.text.pairs import as_pairs, encode_pairs
from runoff.text.prompts import checked_default, merged_prompts, resolve_prompt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Pairs of one batch where sentence-transformers runs the model; its own default.
_DELEGATED_BATCH_SIZE = 32


class CrossEncoder:
    """A reranker: scores (query, document) pairs jointly.

    Arguments, types and numbers are those of sentence-transformers 6.2. Added: `precision`; `truncation`
    ("longest_first" as there, "document" keeps the query whole, "error" refuses); `long_documents`
    ("passages" scores overlapping passages and keeps the best); `token_budget`, the most tokens of a packed
    batch (None: the engine's own). An instance may be shared between threads.

    Raises `CheckpointNotFoundError`, `CheckpointError` for a checkpoint that would be misread, and
    `MissingExtraError` for a model that only the `torch` extra runs.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        *,
        device: str | None = None,
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
        truncation: Truncation = "longest_first",
        long_documents: LongDocuments = "truncate",
        token_budget: int | None = None,
    ) -> None:
        self._options = ModelOptions(
            device=None if device is None else str(device),
            precision=precision,
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
        _check_choice("truncation", truncation, ("longest_first", "document", "error"))
        _check_choice("long_documents", long_documents, ("truncate", "passages"))
        self._name = os.fspath(model_name_or_path)
        self._truncation, self._long_documents = truncation, long_documents
        self._token_budget = token_budget
        self._has_logged_cut = False
        found = find(model_name_or_path, "reranker", self._options)
        self._choice = found.choice
        self._load(found, prompts, default_prompt_name)
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
        if found.choice.engine == "reference":
            self._native = load_native(found, self._options)
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
        **legacy: Any,
    ) -> Scores | np.float32 | torch.Tensor | list[torch.Tensor]:
        """Scores of pairs: an array [N] (or [N, L] with several labels); of one pair, one score.

        `batch_size` caps the pairs of a packed batch (None: the token budget alone decides); scores do not
        depend on it. `activation_fn` counts for this call alone. Raises `InputError` for what is no pair of
        texts, `TruncationError` as `truncation` says, `ScoreError` for scores that are not finite.
        """
        inputs = legacy.pop("sentences", inputs)
        activation_fn = _legacy_activation("predict", activation_fn, legacy)
        self._check_device(device)
        is_single, pairs = as_pairs(inputs)
        logits, cut = self._logits(
            pairs,
            self._prompt(prompt, prompt_name),
            batch_size,
            show_progress_bar,
            truncation,
            long_documents,
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
        truncation: Truncation | None = None,
        long_documents: LongDocuments | None = None,
        **legacy: Any,
    ) -> Ranking:
        """The documents from best to worst: [{"corpus_id": int, "score": float[, "text": document]}].

        Ordered by raw score, equal ones by lower corpus_id, so that scores which a sigmoid squeezes to 1.0
        keep their order. `top_k` slices the list as in Python (0 gives none). Raises `InputError` for a
        model with several labels, and what `predict` raises.
        """
        if self.num_labels != 1:
            raise InputError(
                f"rank() needs a model with one label, this one has {self.num_labels}; use predict() with pairs"
            )
        activation_fn = _legacy_activation("rank", activation_fn, legacy)
        self._check_device(device)
        documents = list(documents)
        _, pairs = as_pairs([(query, document) for document in documents])
        logits, cut = self._logits(
            pairs,
            self._prompt(prompt, prompt_name),
            batch_size,
            show_progress_bar,
            truncation,
            long_documents,
        )
        activation = self._activation if activation_fn is None else Activation.of(activation_fn)
        raw = logits.reshape(-1)
        scores = np.asarray(activation(logits)).reshape(-1) if len(raw) else raw
        order = rank_scores(raw if activation.keeps_order else scores)
        results: list[dict[str, Any]] = [
            {"corpus_id": int(row), "score": float(scores[row])} for row in order.rows
        ]
        if return_documents:
            for result in results:
                result["text"] = documents[result["corpus_id"]]
        return Ranking(results[:top_k], cut)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, to be stored and given to `score` in the text's place."""
        if self._native is None:
            raise InputError(f"{self.name} is run by sentence-transformers and takes texts, not token ids")
        return self._native.tokenizer.tokenize(texts)

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> Scores:
        """Raw scores (logits, before any activation) [N] of texts or token ids against one query."""
        if self.num_labels != 1:
            raise InputError(
                f"score() needs a model with one label, this one has {self.num_labels}; use predict()"
            )
        pairs = [(query, document) for document in documents]
        logits, cut = self._logits(pairs, self._prompt(None, None), None, False, None, None)
        return Scores.of(logits.reshape(-1), cut)

    # --- how --------------------------------------------------------------------------------------

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        return resolve_prompt(prompt, prompt_name, self.prompts, self.default_prompt_name)

    def _check_device(self, device: str | Sequence[str] | None) -> None:
        given = device if isinstance(device, (list, tuple)) else [device]
        devices = [str(item) for item in given if item is not None]
        if any(item != self.device for item in devices):
            raise InputError(
                f"this model runs on {self.device}; to run it on {', '.join(devices)}, load it there: "
                f"CrossEncoder({self.name!r}, device=...)"
            )

    def _logits(
        self,
        pairs: Sequence[tuple[str, str | TokenIds] | str],
        prompt: str,
        batch_size: int | None,
        show_progress_bar: bool | None,
        truncation: Truncation | None,
        long_documents: LongDocuments | None,
    ) -> tuple[FloatArray, CutReport]:
        """Raw outputs [N, L] in the order of `pairs`, and what was cut."""
        if batch_size is not None and batch_size <= 0:
            raise InputError(f"batch_size must be a positive number of pairs, got {batch_size}")
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        truncation = truncation or self._truncation
        long_documents = long_documents or self._long_documents
        _check_choice("truncation", truncation, ("longest_first", "document", "error"))
        _check_choice("long_documents", long_documents, ("truncate", "passages"))
        if not pairs:
            return np.empty((0, self.num_labels), np.float32), CutReport()
        if self._native is None:
            return self._delegated_logits(
                pairs, prompt, batch_size, show_progress_bar, truncation, long_documents
            )
        encoded = encode_pairs(self._native.tokenizer, pairs, prompt, truncation, long_documents)
        outputs = forward_all(
            self._native.engine,
            encoded.sequences,
            token_budget=self._native.engine.token_budget
            if self._token_budget is None
            else self._token_budget,
            max_sequences=batch_size,
            shows_progress=show_progress_bar,
        )
        outputs = encoded.scores_of_pairs(outputs)
        check_finite(outputs)
        self._log_cut(encoded.cut)
        return outputs, encoded.cut

    def _delegated_logits(
        self,
        pairs: Sequence[Any],
        prompt: str,
        batch_size: int | None,
        show_progress_bar: bool,
        truncation: Truncation,
        long_documents: LongDocuments,
    ) -> tuple[FloatArray, CutReport]:
        if truncation != "longest_first" or long_documents != "truncate":
            raise InputError(
                f"truncation={truncation!r}, long_documents={long_documents!r}: {self.name} is run by "
                "sentence-transformers, which cuts 'longest_first' only"
            )
        outputs = self._delegate.logits(
            pairs,
            prompt=prompt,
            batch_size=batch_size or _DELEGATED_BATCH_SIZE,
            shows_progress=show_progress_bar,
        )
        check_finite(outputs)
        return outputs, CutReport(pairs=len(pairs), max_length=self.max_seq_length or 0)

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


# Arguments of older releases that change nothing: the first did nothing there for years, the others
# never did in rank().
_IGNORED = {"predict": {"num_workers"}}
_IGNORED["rank"] = {"num_workers", "apply_softmax", "convert_to_numpy", "convert_to_tensor"}


def _legacy_activation(method: str, activation_fn: Any, legacy: dict[str, Any]) -> Any:
    """`activation_fn`, also under its older name; `TypeError` for an argument that no release knew."""
    activation_fn = legacy.pop("activation_fct", activation_fn)
    if any(legacy.get(name) is not None for name in ("pool", "chunk_size")):
        raise InputError(
            "pool and chunk_size are for sentence-transformers' worker processes; Runoff needs none"
        )
    if unknown := sorted(set(legacy) - {"pool", "chunk_size"} - _IGNORED[method]):
        raise TypeError(f"{method}() got unexpected arguments {unknown}")
    return activation_fn


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}")
