"""Runoff's models as mteb's: its cross-encoder, encoder and search protocols, under identities that never collide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np

from runoff.contracts import CheckpointError, FloatArray, Pair, RunoffError
from runoff.evaluate.stages import bm25_lists

PIECE = 4096
"""Pairs given to a reranker at a time: texts of a benchmark's pairs do not all fit into memory at once."""

BM25 = "bm25"

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Identity:
    """What mteb files results under: "org/name", and a revision that changes with the weights (hub commit or digest).

    mteb's own revision of a local checkpoint is "no_revision_available", so that two of one name share their results.
    """

    name: str
    revision: str

    @property
    def folder(self) -> str:
        return self.name.replace("/", "__").replace(" ", "_")

    @property
    def as_mteb(self) -> dict[str, str]:
        """As predictions and results name a model."""
        return {"model_name": self.name, "revision": self.revision}


@dataclass(frozen=True, slots=True)
class PairScorer:
    """A loaded reranker: raw scores [N] of (pairs, most pairs of a batch), and what is to be said of it."""

    scores_of: Callable[[Sequence[Pair], int], FloatArray]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A loaded embedder: vectors [N, D] of (texts, what they are, most texts of a batch), the similarity [N, M] of two
    such sets, and what is to be said of it."""

    vectors_of: Callable[[Sequence[str], Literal["query", "document"], int], FloatArray]
    similarity: Callable[[FloatArray, FloatArray], FloatArray]
    facts: Mapping[str, Any]


class RerankerModel:
    """A reranker by mteb's CrossEncoderProtocol, loaded when it first scores. `scored_pairs` counts what it scored."""

    def __init__(
        self,
        identity: Identity,
        load: Callable[[], PairScorer],
        advance: Callable[[int], Any] = lambda _: None,
    ) -> None:
        self.identity, self._load, self.advance = identity, load, advance
        self.scored_pairs = 0

    @cached_property
    def loaded(self) -> PairScorer:
        """Raises `CheckpointError`, or whatever else of ours says why it cannot be loaded."""
        return _loaded(self.identity, self._load)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.loaded.facts

    @property
    def mteb_model_meta(self) -> Any:
        return model_meta(self.identity, "cross-encoder")

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> FloatArray:
        """Raw scores [N] of the queries of `inputs1` with the documents of `inputs2`, `batch_size` pairs to a batch."""
        pairs = zip(_texts(inputs1), _texts(inputs2), strict=True)
        scores = []
        while piece := list(islice(pairs, PIECE)):
            scores.append(np.asarray(self.loaded.scores_of(piece, batch_size), np.float32))
            self.scored_pairs += len(piece)
            self.advance(len(piece))
        return np.concatenate(scores) if scores else np.empty(0, np.float32)


class EmbedderModel:
    """An embedder by mteb's EncoderProtocol, loaded when it first encodes."""

    def __init__(self, identity: Identity, load: Callable[[], TextEncoder]) -> None:
        self.identity, self._load = identity, load

    @cached_property
    def loaded(self) -> TextEncoder:
        """Raises what `RerankerModel.loaded` raises."""
        return _loaded(self.identity, self._load)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.loaded.facts

    @property
    def mteb_model_meta(self) -> Any:
        return model_meta(self.identity, "dense")

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> FloatArray:
        """Vectors [N, D]: with the model's query prompt where `prompt_type` is "query", else its document prompt."""
        kind: Literal["query", "document"] = "query" if str(prompt_type) == "query" else "document"
        return self.loaded.vectors_of(list(_texts(inputs)), kind, batch_size)

    def similarity(self, embeddings1: FloatArray, embeddings2: FloatArray) -> FloatArray:
        return self.loaded.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: FloatArray, embeddings2: FloatArray) -> FloatArray:
        """Similarities [N] of the first vectors, the second ones, and so on."""
        pairs = zip(embeddings1, embeddings2, strict=True)
        rows = [self.loaded.similarity(one[None], other[None])[0, 0] for one, other in pairs]
        return np.array(rows, np.float32)


class Bm25Model:
    """The first stage of `runoff judge` (bm25s) by mteb's SearchProtocol."""

    def __init__(self) -> None:
        self.identity = Identity(f"runoff/{BM25}", f"bm25s-{version('bm25s')}-lucene-k1.5-b0.75-english")
        self.facts: Mapping[str, Any] = {"engine": "bm25s"}
        self._documents: dict[str, str] = {}

    @property
    def mteb_model_meta(self) -> Any:
        return model_meta(self.identity, "sparse")

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
    ) -> None:
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
        texts = zip(titles, corpus["text"], strict=True)
        joined = [f"{title or ''} {text or ''}".strip() for title, text in texts]
        self._documents = dict(zip(corpus["id"], joined, strict=True))

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Any = None,
        num_proc: int | None = None,
    ) -> dict[str, dict[str, float]]:
        """{query: {document: score}} of the best `top_k`."""
        texts = dict(zip(queries["id"], queries["text"], strict=True))
        return {query: dict(row) for query, row in bm25_lists(self._documents, texts, top_k).items()}


FirstStage = EmbedderModel | Bm25Model


def model_meta(identity: Identity, kind: Literal["dense", "sparse", "cross-encoder"]) -> Any:
    """mteb's ModelMeta: name, revision and kind; nothing that mteb could load a model by."""
    from mteb.models import ModelMeta

    return ModelMeta.create_empty(
        {"name": identity.name, "revision": identity.revision, "model_type": [kind], "framework": []}
    )


def registered_prompts(name: str) -> dict[str, str]:
    """The prompts {"query": ..., "document": ...} that mteb's registry has for a model whose own files have none, as
    bge-small's have none; {} where it has none either. Asks no hub."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    meta = MODEL_REGISTRY.get(name)
    prompts = (meta.loader_kwargs.get("model_prompts") or {}) if meta else {}
    return {kind: str(prompts[kind]) for kind in ("query", "document") if prompts.get(kind)}


def _loaded(identity: Identity, load: Callable[[], Model]) -> Model:
    try:
        return load()
    except RunoffError:
        raise
    except Exception as error:
        # sentence-transformers and the code of an architecture raise whatever they like; a model of many is to be
        # named at the end, not to end the run.
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{identity.name} cannot be loaded: {said}") from error


def _texts(inputs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for batch in inputs:
        yield from batch["text"]
