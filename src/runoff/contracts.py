"""What flows between the rooms of Runoff: the types, the protocols, the errors. Read this first.

Shape letters used in docstrings and comments everywhere:

    N  pairs (or texts) of one call        B  sequences of one batch
    T  tokens of one batch, packed         t  tokens of one sequence
    L  labels a model gives a pair         H  hidden size
    A  attention heads                     D  size of one head, or of an embedding
    I  size of the MLP's inner layer       K  results asked for

"Packed" means that the tokens of many sequences lie end to end in one array with no padding; `offsets`
(B+1 integers) say where each sequence starts and ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

Pair = tuple[str, str]
"""(query, document)."""

TokenIds = npt.NDArray[np.int32]
"""Token ids of one text, without special tokens and never truncated. Shape [t]."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

Truncation = Literal["longest_first", "document", "error"]
"""What gives way when a pair is too long: the longer of the two texts (the reference's rule), the document
alone, or nobody (`TruncationError`)."""

LongDocuments = Literal["truncate", "passages"]
"""What becomes of a document too long for its pair: cut, or scored as overlapping passages (maximum)."""

Precision = Literal["auto", "fp32", "bf16", "int8", "fp16", "fp8"]
"""fp32 everywhere; bf16 on CPUs and GPUs; int8 on CPUs; fp16 and fp8 on GPUs."""


# --- errors ------------------------------------------------------------------------------------------


class RunoffError(Exception):
    """Anything Runoff refuses, with what was expected, what came and what to do."""


class InputError(RunoffError, ValueError):
    """An argument or an input record that cannot be used."""


class TruncationError(InputError):
    """A pair is longer than the model takes and `truncation="error"` was asked for."""


class CheckpointError(RunoffError):
    """A model folder that is missing, incomplete, corrupt, or would be misread."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No model of that name: neither a local folder nor reachable on the hub."""


class UnsupportedModelError(CheckpointError):
    """A model that no engine available here can run; the message names what would."""


class MissingExtraError(RunoffError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class IndexStoreError(RunoffError):
    """A search index that is missing, incomplete, of another kind, or cannot be written."""


class TokenizerMismatchError(IndexStoreError):
    """An index whose stored token ids, if it has any, are not those of the reranker's tokenizer."""


class HubError(RunoffError):
    """A model that the hub did not take: no token, no right, no network."""


class ScoreError(RunoffError):
    """The model gave a score that is not a finite number."""


# --- score: pairs -> batches -> scores -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence ready for an encoder: ids [t], segment ids [t], and how many tokens were cut off."""

    ids: IntArray
    type_ids: IntArray
    cut_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences packed end to end: no padding anywhere.

    `ids`, `type_ids` and `positions` are [T]; positions restart at 0 in every sequence. `offsets` is
    [B+1]. `rows` is [B]: the place of each sequence in the caller's order.
    """

    ids: IntArray
    type_ids: IntArray
    positions: IntArray
    offsets: IntArray
    rows: npt.NDArray[np.int64]

    @property
    def token_count(self) -> int:
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Engine(Protocol):
    """Runs an encoder and its head over packed batches."""

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...

    def forward(self, batch: Batch) -> FloatArray:
        """Raw head outputs of each sequence, [B, L] (a reranker) or [B, D] (an embedder), fp32."""
        ...


class PackedEngine(Engine, Protocol):
    """An engine of ours: takes batches of about `token_budget` tokens, which may shrink while it runs."""

    @property
    def token_budget(self) -> int: ...


@runtime_checkable
class StartingEngine(Protocol):
    """An engine whose forwards run beside Python: `start(batch)` returns at once, `.result()` waits for [B, L]."""

    def start(self, batch: Batch) -> Any: ...


class Ranked(NamedTuple):
    """An order over N items: `rows` [K], best first, and their raw `scores` [K]."""

    rows: npt.NDArray[np.int64]
    scores: FloatArray


@dataclass(frozen=True, slots=True)
class LengthRules:
    """What becomes of pairs that are too long: what gives way, whether documents become passages, and a limit
    in tokens where another than the tokenizer's own shall hold. `InputError` for an unknown rule."""

    truncation: Truncation = "longest_first"
    long_documents: LongDocuments = "truncate"
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("truncation", self.truncation, get_args(Truncation)),
            ("long_documents", self.long_documents, get_args(LongDocuments)),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}")


@dataclass(frozen=True, slots=True)
class CutReport:
    """How many of `pairs` were cut to fit, at what limit, and how many tokens were lost."""

    pairs: int = 0
    cut_pairs: int = 0
    cut_tokens: int = 0
    max_length: int = 0

    def __str__(self) -> str:
        return (
            f"{self.cut_pairs} of {self.pairs} pairs were longer than {self.max_length} tokens and were cut "
            f"({self.cut_tokens} tokens lost)"
        )


@runtime_checkable
class Scorer(Protocol):
    """Scores documents against a query; `CrossEncoder` is one."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Names the vocabulary and its rules; token ids may be shared only where this is equal.
        None: this scorer takes texts only."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, to be stored and passed to `score` in the text's place."""
        ...

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
        """Raw scores (logits) [N], higher is more relevant, in the order of `documents`."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Turns texts into vectors whose dot product (or cosine) is their similarity."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def encode_query(self, inputs: str) -> FloatArray:
        """Vector [D] of one query."""
        ...

    def encode_document(self, inputs: Sequence[str]) -> FloatArray:
        """Vectors [N, D] of documents."""
        ...


# --- search: query -> hits -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """One query: its text, and an id where it comes from a file of queries."""

    text: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found for a query.

    `score` and `rank` (from 1) are those of the list the hit stands in. `scores` and `ranks` keep what
    each stage said, by its name: "bm25", "dense", "fusion", "rerank", "final"; "retrieve" for any other
    first stage. A stage that did not see the document is absent.
    """

    id: str
    score: float
    rank: int
    text: str | None = None
    title: str | None = None
    source: str | None = None
    place: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    tokens: TokenIds | None = field(default=None, repr=False, compare=False)


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds candidates: one method."""

    def retrieve(self, query: Query, k: int) -> Sequence[Hit]:
        """At most `k` hits, best first."""
        ...


class Origin(NamedTuple):
    """Where a reader found a document: the file, and the line (or row) in it.

    `passages`: how many the file was cut into, once it had been read whole; None for a record.
    """

    file: str
    line: int | None = None
    passages: int | None = None


DOCUMENT_TEXTS = ("id", "text", "title", "source", "place")
"""The parts of a `Document` that are texts; its metadata has other names."""


@dataclass(frozen=True, slots=True)
class Document:
    """One passage to index: `text` is what is searched and scored (a title is part of it, in front).

    `source` is the file it came from and `place` where in it ("line 12", "page 3", "chars 800-1600"), as
    they are shown. `origin` is the reader's own account, which is not stored.
    """

    id: str
    text: str
    title: str | None = None
    source: str | None = None
    place: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input record that was left out: where it stands, and why."""

    source: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.reason}"


# --- distil: where a mixture's rows come from ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatasetListing:
    """What a dataset of the hub holds: configuration -> split -> its files, in order.

    `commit` names the very state that was listed (None: a local copy). `licence` is the one on its card.
    """

    commit: str | None
    configs: Mapping[str, Mapping[str, Sequence[str]]]
    licence: str | None = None


class Datasets(Protocol):
    """Datasets by their names on the hub."""

    def listing(self, dataset: str, revision: str | None) -> DatasetListing:
        """Its configurations and files; `InputError` where it cannot be reached."""
        ...

    def fetch(self, dataset: str, file: str, commit: str | None) -> Path:
        """One of the files, on this machine; `InputError` where it cannot be fetched."""
        ...
