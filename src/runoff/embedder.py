"""`Embedder`: texts -> vectors, on the same tokenizer, batching and engines as the rerankers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runoff.checkpoint.config import StaticConfig
from runoff.contracts import Batch, FloatArray, InputError, Precision, TokenIds
from runoff.engine.choose import Choice
from runoff.engine.reference import normalized
from runoff.engine.threads import allowed_cpus
from runoff.legacy import CALL_NAMES, EMBEDDER_NAMES, takes_older_names
from runoff.model import FoundModel, ModelOptions, NativeModel, checked_max_length, find, load_native
from runoff.text.batching import block_of_texts, forward_chunks, progress
from runoff.text.chunks import AHEAD_FROM, FIRST_TEXTS, Chunk, ChunkSizes, tokenized
from runoff.text.prompts import checked_default, merged_prompts, resolve_prompt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Tokens of one batch of a static table: a sum of rows, so only the copy of the rows bounds it (64 MB at D = 1024).
_STATIC_TOKEN_BUDGET = 16384
_DELEGATED_BATCH_SIZE = 32


class Embedder:
    """Texts to vectors: static tables (static-retrieval-mrl-en-v1, model2vec) and BERT or ModernBERT encoders
    without torch, any other sentence-transformers model through the `torch` extra.

    Arguments and answers are those of sentence-transformers' SentenceTransformer. An instance may be shared
    between threads. Raises what `CrossEncoder` raises.
    """

    _native: NativeModel | None = None
    _full_dimension: int

    @takes_older_names(EMBEDDER_NAMES)
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
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        precision: Precision = "auto",
        engine: str | None = None,
        threads: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        options = ModelOptions(
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
        self._name = os.fspath(model_name_or_path)
        self._token_budget = token_budget
        found = find(model_name_or_path, "embedder", options)
        self._choice = found.choice
        source, similarity = self._load(found, options)
        self.prompts = merged_prompts({"query": None, "document": None, **source.prompts}, prompts)
        default = checked_default(default_prompt_name, source.default_prompt_name, self.prompts)
        self.default_prompt_name = default
        self.similarity_fn_name = _checked_similarity(similarity_fn_name or similarity)
        self.truncate_dim = source.truncate_dim if truncate_dim is None else truncate_dim

    def _load(self, found: FoundModel, options: ModelOptions) -> tuple[Any, str]:
        """(what knows the prompts, the similarity that the model is made for)."""
        if found.choice.engine != "sentence-transformers":
            self._native = load_native(found, options)
            self._choice = self._native.choice
            checkpoint = self._native.checkpoint
            self._full_dimension = checkpoint.model.output_size
            return checkpoint, checkpoint.similarity
        from runoff.engine.delegated import DelegatedEmbedder

        self._delegate = DelegatedEmbedder(found.folder, found.choice, options.for_sentence_transformers())
        self._full_dimension = self._delegate.dimension
        return self._delegate, self._delegate.similarity_name

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
    def dimension(self) -> int:
        """Numbers per vector."""
        return (
            self._full_dimension
            if self.truncate_dim is None
            else min(self.truncate_dim, self._full_dimension)
        )

    def get_embedding_dimension(self) -> int:
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a text, special ones included; None for no limit."""
        return None if self._native is None else self._native.tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if self._native is None:
            raise InputError(f"{self.name} is run by sentence-transformers; give max_length when loading it")
        tokenizer = self._native.tokenizer
        tokenizer.max_length = checked_max_length(value, self._native.checkpoint, tokenizer)

    @takes_older_names(CALL_NAMES)
    def encode(
        self,
        inputs: Sequence[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        device: str | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> FloatArray | torch.Tensor | list[torch.Tensor]:
        """Vectors [N, D] of texts; of one text, one vector [D]; of none, an array [0, D].

        Vectors are cut to `truncate_dim`, then normalised. Raises `InputError` for what is no text, a `batch_size`
        that is not positive, or another `device` than the model's.
        """
        is_single = isinstance(inputs, str)
        if not hasattr(inputs, "__iter__") or isinstance(inputs, (Mapping, bytes)):
            raise InputError(
                f"expected a text or a list of texts, got {type(inputs).__name__}: {inputs!r:.80}"
            )
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {row} must be a string, got {type(text).__name__}: {text!r:.80}")
        if batch_size is not None and batch_size <= 0:
            raise InputError(f"batch_size must be a positive number of texts, got {batch_size}")
        if device is not None and str(device) != self.device:
            raise InputError(f"this model runs on {self.device}; to run it on {device}, load it there")
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        prefix = resolve_prompt(prompt, prompt_name, self.prompts, self.default_prompt_name)
        if not texts:
            vectors = np.empty((0, self._full_dimension), np.float32)
        elif self._native is None:
            vectors = self._delegate.vectors(
                texts,
                prompt=prefix,
                batch_size=batch_size or _DELEGATED_BATCH_SIZE,
                shows_progress=show_progress_bar,
            )
        else:
            vectors = self._vectors(self._native, texts, prefix, batch_size, show_progress_bar)
        size = self.truncate_dim if truncate_dim is None else truncate_dim
        vectors = vectors if size is None else vectors[:, :size]
        if normalize_embeddings:
            vectors = normalized(vectors)
        if convert_to_tensor or not convert_to_numpy:
            from runoff.engine.delegated import to_tensor

            tensor = to_tensor(vectors[0] if is_single else vectors)
            return tensor if convert_to_tensor or is_single else list(tensor)
        return vectors[0] if is_single else vectors

    @takes_older_names(CALL_NAMES)
    def encode_query(
        self, inputs: Sequence[str] | str, prompt_name: str | None = None, **options: Any
    ) -> Any:
        """`encode` with the model's prompt for queries, if it has one."""
        return self.encode(inputs, self._task_prompt("query", prompt_name, options), **options)

    @takes_older_names(CALL_NAMES)
    def encode_document(
        self, inputs: Sequence[str] | str, prompt_name: str | None = None, **options: Any
    ) -> Any:
        """`encode` with the model's prompt named "document", if it has one (another name: pass `prompt_name`)."""
        return self.encode(inputs, self._task_prompt("document", prompt_name, options), **options)

    def _task_prompt(self, task: str, prompt_name: str | None, options: Mapping[str, Any]) -> str | None:
        return prompt_name if prompt_name is not None or options.get("prompt") is not None else task

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of every vector of one set with every one of the other, [N, M]; higher is more alike.

        Tensors in, tensor out; else an array.
        """
        is_tensor = any(_is_tensor(part) for part in (embeddings1, embeddings2))
        first, second = (
            np.atleast_2d(np.asarray(part, dtype=np.float32)) for part in (embeddings1, embeddings2)
        )
        scores = _similarity(self.similarity_fn_name, first, second)
        if not is_tensor:
            return scores
        from runoff.engine.delegated import to_tensor

        return to_tensor(scores)

    def _vectors(
        self, native: NativeModel, texts: list[str], prefix: str, batch_size: int | None, shows_progress: bool
    ) -> FloatArray:
        is_static = isinstance(native.checkpoint.model.encoder, StaticConfig)
        budget = _STATIC_TOKEN_BUDGET if is_static else native.engine.token_budget
        budget = budget if self._token_budget is None else self._token_budget
        sizes = ChunkSizes(FIRST_TEXTS, budget, len(allowed_cpus()))

        def chunks() -> Iterator[Chunk[None]]:
            for first, last in sizes.spans(len(texts)):
                yield Chunk([prefix + text for text in texts[first:last]], first, None)

        def blocks() -> Iterator[Batch]:
            for _, ids in tokenized(native.tokenizer, chunks(), runs_ahead=len(texts) >= AHEAD_FROM):
                sizes.learn(len(ids), sum(map(len, ids)))
                yield _static_block(native, ids) if is_static else native.tokenizer.join_lone(ids).block

        with progress(len(texts), shows_progress) as bar:
            outputs = forward_chunks(
                native.engine, blocks(), token_budget=budget, max_sequences=batch_size, advance=bar.update
            )
        return np.concatenate(outputs)


def _checked_similarity(name: str) -> str:
    if name not in _SIMILARITIES:
        raise InputError(f"similarity_fn_name must be one of {', '.join(_SIMILARITIES)}; got {name!r}")
    return name


def _is_tensor(vectors: Any) -> bool:
    sample = vectors[0] if isinstance(vectors, list) and vectors else vectors
    return type(sample).__module__.split(".")[0] == "torch"


def _static_block(native: NativeModel, ids: list[TokenIds]) -> Batch:
    """Texts without special tokens, cut at the limit: what a static table sums."""
    encoder, tokenizer = native.checkpoint.model.encoder, native.tokenizer
    assert isinstance(encoder, StaticConfig), "an encoder's texts have special tokens"
    if tokenizer.max_length is not None:
        ids = [row[: tokenizer.max_length] for row in ids]
    if encoder.drops_unknown_token:
        ids = [row[row != tokenizer.unknown_token_id] for row in ids]
    return block_of_texts(ids)


def _similarity(name: str, first: FloatArray, second: FloatArray) -> FloatArray:
    result: FloatArray
    if name == "cosine":
        result = normalized(first) @ normalized(second).T
    elif name == "dot":
        result = first @ second.T
    else:
        # Distances, negated so that higher is more alike; row by row, so that no [N, M, D] array is made.
        order = 2 if name == "euclidean" else 1
        result = np.stack([-np.linalg.norm(second - row, ord=order, axis=1) for row in first]).astype(
            np.float32
        )
    return result
