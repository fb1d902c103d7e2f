"""`CrossEncoder`: load a reranker, score pairs, rank documents; sentence-transformers' arguments and answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from runoff.activation import Activation
from runoff.contracts import (
    CutReport,
    Encoded,
    FloatArray,
    InputError,
    LongDocuments,
    Pair,
    Precision,
    TokenIds,
    Truncation,
)
from runoff.engine.choose import Choice
from runoff.model import FoundModel, ModelOptions, NativeModel, checked_max_length, find, load_native
from runoff.ranking import check_finite, rank_scores
from runoff.text.batching import forward_all
from runoff.text.prompts import resolve_prompt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Pairs of one batch where sentence-transformers runs the model; its own default.
_DELEGATED_BATCH_SIZE = 32


class Scores(npt.NDArray[np.float32] if TYPE_CHECKING else np.ndarray):  # type: ignore[misc]
    """An ordinary array of scores that also says, in `cut`, how many pairs were cut to fit."""

    cut: CutReport

    @classmethod
    def of(cls, values: npt.NDArray[Any], cut: CutReport) -> Self:
        scores = np.asarray(values).view(cls)
        scores.cut = cut
        return scores

    def __array_finalize__(self, source: Any) -> None:
        self.cut = getattr(source, "cut", CutReport())


class Ranking(list[dict[str, Any]]):
    """An ordinary list of results that also says, in `cut`, how many pairs were cut to fit."""

    def __init__(self, results: Iterable[dict[str, Any]] = (), cut: CutReport | None = None) -> None:
        super().__init__(results)
        self.cut = cut or CutReport()


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

    def _load(self, found: FoundModel, prompts: Mapping[str, str] | None, default_prompt_name: str | None) -> None:
        self._native: NativeModel | None = None
        source: Any
        if found.choice.engine == "reference":
            self._native = load_native(found, self._options)
            source = self._native.checkpoint
            self._label_count = source.model.output_size
            self._activation = Activation.of(source.activation)
        else:
            from runoff.engine.delegated import DelegatedReranker

            source = DelegatedReranker(found.folder, found.choice, self._options.for_sentence_transformers())
            self._label_count = source.num_labels
            self._activation = Activation.of(source.activation_fn)
            self._delegate = source
        self.prompts = dict(source.prompts) if prompts is None else {**source.prompts, **prompts}
        self.default_prompt_name = default_prompt_name or source.default_prompt_name

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
        inputs, activation_fn = _legacy_arguments(inputs, activation_fn, legacy)
        self._check_device(device)
        is_single, pairs = _as_pairs(inputs)
        logits, cut = self._logits(
            pairs, self._prompt(prompt, prompt_name), batch_size, show_progress_bar, truncation, long_documents
        )
        if not pairs:
            return self._converted(np.array([]), cut, convert_to_numpy, convert_to_tensor)
        scores = (self._activation if activation_fn is None else Activation.of(activation_fn))(logits)
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if apply_softmax and scores.ndim > 1:
            scores = _softmax(scores)
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
        self._check_device(device)
        documents = list(documents)
        _, pairs = _as_pairs([(query, document) for document in documents])
        logits, cut = self._logits(
            pairs, self._prompt(prompt, prompt_name), batch_size, show_progress_bar, truncation, long_documents
        )
        activation = self._activation if activation_fn is None else Activation.of(activation_fn)
        raw = logits.reshape(-1)
        scores = np.asarray(activation(logits)).reshape(-1) if len(raw) else raw
        order = rank_scores(raw if activation.keeps_order else scores)
        results = [{"corpus_id": int(row), "score": float(scores[row])} for row in order.rows]
        if return_documents:
            for result in results:
                result["text"] = documents[int(result["corpus_id"])]
        return Ranking(results[:top_k], cut)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, to be stored and given to `score` in the text's place."""
        if self._native is None:
            raise InputError(f"{self.name} is run by sentence-transformers and takes texts, not token ids")
        return self._native.tokenizer.tokenize(texts)

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> Scores:
        """Raw scores (logits, before any activation) [N] of texts or token ids against one query."""
        if self.num_labels != 1:
            raise InputError(f"score() needs a model with one label, this one has {self.num_labels}; use predict()")
        pairs = [(query, document) for document in documents]
        logits, cut = self._logits(pairs, self._prompt(None, None), None, False, None, None)
        return Scores.of(logits.reshape(-1), cut)

    # --- how --------------------------------------------------------------------------------------

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        return resolve_prompt(prompt, prompt_name, self.prompts, self.default_prompt_name)

    def _check_device(self, device: str | Sequence[str] | None) -> None:
        devices = [device] if isinstance(device, str) else [str(item) for item in device or ()]
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
            return self._delegated_logits(pairs, prompt, batch_size, show_progress_bar, truncation, long_documents)
        sequences, first_rows, cut = self._encode(pairs, prompt, truncation, long_documents)
        outputs = forward_all(
            self._native.engine,
            sequences,
            token_budget=self._native.engine.token_budget if self._token_budget is None else self._token_budget,
            max_sequences=batch_size,
            shows_progress=show_progress_bar,
        )
        check_finite(outputs)
        if len(outputs) > len(pairs):
            outputs = np.maximum.reduceat(outputs, first_rows, axis=0)
        self._log_cut(cut)
        return outputs, cut

    def _encode(
        self,
        pairs: Sequence[tuple[str, str | TokenIds] | str],
        prompt: str,
        truncation: Truncation,
        long_documents: LongDocuments,
    ) -> tuple[list[Encoded], list[int], CutReport]:
        """Sequences (one a pair, or one a passage), the first sequence of each pair, and what was cut."""
        assert self._native is not None
        tokenizer = self._native.tokenizer
        # Each distinct text is tokenised once: a query stands in many pairs.
        ids_of: dict[str, TokenIds] = {}
        for pair in pairs:
            query, document = (pair, "") if isinstance(pair, str) else pair
            ids_of[prompt + query] = ids_of.get(prompt + query, _NOTHING)
            if isinstance(document, str):
                ids_of[document] = ids_of.get(document, _NOTHING)
        ids_of = dict(zip(ids_of, tokenizer.tokenize(list(ids_of)), strict=True))
        sequences: list[Encoded] = []
        first_rows: list[int] = []
        for pair in pairs:
            first_rows.append(len(sequences))
            if isinstance(pair, str):
                sequences.append(tokenizer.encode_single(ids_of[prompt + pair]))
                continue
            query_ids = ids_of[prompt + pair[0]]
            document_ids = ids_of[pair[1]] if isinstance(pair[1], str) else self._checked_ids(pair[1])
            if long_documents == "passages":
                sequences += tokenizer.encode_passages(query_ids, document_ids, truncation)
            else:
                sequences.append(tokenizer.encode_pair(query_ids, document_ids, truncation))
        cuts = [sequence.cut_tokens for sequence in sequences] if long_documents == "truncate" else []
        report = CutReport(
            pairs=len(pairs),
            cut_pairs=sum(cut > 0 for cut in cuts),
            cut_tokens=sum(cuts),
            max_length=tokenizer.max_length or 0,
        )
        return sequences, first_rows, report

    def _checked_ids(self, ids: TokenIds) -> TokenIds:
        assert self._native is not None
        encoder = self._native.checkpoint.model.encoder
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"token ids must be whole numbers of shape [t], got {ids.dtype} of shape {list(ids.shape)}")
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= encoder.vocab_size):
            raise InputError(
                f"token ids lie between {ids.min()} and {ids.max()}, but {self.name} has {encoder.vocab_size} tokens: "
                "they were made by another tokenizer"
            )
        return ids.astype(np.int32, copy=False)

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
            pairs, prompt=prompt, batch_size=batch_size or _DELEGATED_BATCH_SIZE, shows_progress=show_progress_bar
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


_NOTHING: TokenIds = np.empty(0, np.int32)


def _as_pairs(inputs: Any) -> tuple[bool, list[Any]]:
    """(whether it is one pair, the pairs), by sentence-transformers' rules (notes C4)."""
    if inputs is None:
        raise InputError("inputs is missing: expected a list of (query, document) pairs")
    if isinstance(inputs, np.ndarray):
        is_single = inputs.size > 0 and inputs.ndim < 2
        inputs = inputs.tolist()
    elif isinstance(inputs, str):
        is_single = True
    elif isinstance(inputs, Sequence) or hasattr(inputs, "__iter__"):
        inputs = list(inputs)
        is_single = len(inputs) > 0 and not isinstance(inputs[0], (list, tuple, np.ndarray))
    else:
        raise InputError(f"expected a list of (query, document) pairs, got {type(inputs).__name__}: {inputs!r:.80}")
    pairs = [inputs] if is_single else inputs
    return is_single, [_as_pair(pair, row) for row, pair in enumerate(pairs)]


def _as_pair(pair: Any, row: int) -> Pair | str:
    if isinstance(pair, str):  # a lone text is legal there, and so it is here
        return pair
    if not isinstance(pair, (list, tuple, np.ndarray)) or len(pair) != 2:
        raise InputError(f"pair {row}: expected (query, document), got {pair!r:.120}")
    for name, text in zip(("query", "document"), pair, strict=True):
        if not isinstance(text, str):
            raise InputError(f"pair {row}: Unsupported input type {type(text).__name__} as {name}; expected a string")
    return (str(pair[0]), str(pair[1]))


def _legacy_arguments(inputs: Any, activation_fn: Any, legacy: dict[str, Any]) -> tuple[Any, Any]:
    """Arguments under their names in older releases; `TypeError` for any other."""
    inputs = legacy.pop("sentences", inputs)
    activation_fn = legacy.pop("activation_fct", activation_fn)
    legacy.pop("num_workers", None)  # did nothing there for years
    if any(legacy.get(name) is not None for name in ("pool", "chunk_size")):
        raise InputError("pool and chunk_size are for sentence-transformers' worker processes; Runoff needs none")
    if unknown := sorted(set(legacy) - {"pool", "chunk_size"}):
        raise TypeError(f"predict() got unexpected arguments {unknown}")
    return inputs, activation_fn


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def _softmax(scores: FloatArray) -> FloatArray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return result
