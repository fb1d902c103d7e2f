"""Models that take texts: their sequences are the bytes of the texts, so that all the rest need not know.

What a model of sentence-transformers makes of a text is known only there. So a pair travels as UTF-8, segment 0 the
query's and segment 1 the document's, and the worker puts the texts together again. Of what is counted, four
bytes are a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runoff.contracts import Batch, CutReport, FloatArray, InputError, TokenIds
from runoff.serve.model import BYTES_A_TOKEN, Cutting, Work
from runoff.serve.worker import BuildEngine
from runoff.text.batching import longest_first_order, packed
from runoff.text.pairs import EncodedPairs

TEXT_BYTES_A_BATCH = 65_536
"""Bytes of a batch where the device is no CPU: 16,000 tokens of English, 32 pairs of 512."""

WARM_UP_TEXT = b"warm up "


@dataclass(frozen=True, slots=True)
class TextModel:
    """A reranker that takes texts, as the server holds it. How long pairs are cut is the model's own matter: a request
    that asks for another way is refused, and what was cut is not counted."""

    name: str
    shown: Callable[[FloatArray], FloatArray]
    build: BuildEngine

    max_length: int | None = None
    tokenizer_fingerprint: str | None = None

    def tokenize(self, _texts: Sequence[str]) -> list[TokenIds]:
        """Nothing: `InputError`."""
        raise InputError(f"{self.name} takes texts, no token ids")

    def estimated_tokens(self, pairs: Sequence[tuple[str, str | TokenIds]]) -> int:
        """A quarter of the pairs' characters."""
        return sum(len(query) + len(document) for query, document in pairs) // BYTES_A_TOKEN

    def work(self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting) -> Work:
        """The pairs as bytes, equal ones once. Raises `InputError` for lone surrogates, and for a way to cut."""
        began = time.perf_counter()
        if cutting != Cutting():
            raise InputError(
                "this model is run by sentence-transformers, which cuts pairs in one way: leave out truncate, "
                "truncation_direction, max_tokens_per_doc and truncate_prompt_tokens"
            )
        numbers: dict[tuple[str, str], int] = {}
        distinct = [numbers.setdefault((query, str(document)), len(numbers)) for query, document in pairs]
        texts = [(_bytes(query), _bytes(document)) for query, document in numbers]
        lengths = np.fromiter((len(query) + len(document) for query, document in texts), np.int64, len(texts))
        order = longest_first_order(lengths)
        parts = [text for row in order.tolist() for text in texts[row]]
        block = packed(
            np.frombuffer(b"".join(parts), np.uint8).astype(np.int32),
            np.repeat(np.tile(np.array([0, 1], np.int32), len(texts)), [len(part) for part in parts]),
            lengths[order],
            order,
        )
        rows, none_cut = np.arange(len(texts)), np.zeros(len(texts), np.int64)
        encoded = EncodedPairs(block, rows, none_cut, np.array(distinct, np.int64), None)
        characters = sum(len(query) + len(document) for query, document in pairs)
        tokens = -(-block.token_count // BYTES_A_TOKEN)
        return Work(encoded, CutReport(len(pairs)), tokens, characters, time.perf_counter() - began)

    def warm_up(self, token_budget: int) -> Batch:
        """A batch of one pair of many words, or of few."""
        text = (WARM_UP_TEXT * 256)[: max(8, min(token_budget, 2048))]
        ids = np.frombuffer(b"warm" + text, np.uint8).astype(np.int32)
        return packed(ids, (np.arange(len(ids)) >= 4).astype(np.int32), np.array([len(ids)]), np.arange(1))


class TextScorer(Protocol):
    """What scores pairs of texts in a worker."""

    def predict(self, inputs: list[tuple[str, str]], **options: Any) -> Any: ...


class TextEngine:
    """A scorer of texts as an engine: bytes -> texts -> raw scores [B, 1]."""

    name, precision = "sentence-transformers", "of the model"

    def __init__(self, scorer: TextScorer) -> None:
        self._scorer = scorer
        self.token_budget = TEXT_BYTES_A_BATCH

    def forward(self, batch: Batch) -> FloatArray:
        """Raw scores [B, 1] of the pairs whose bytes the batch holds."""
        pairs = [pair_of(batch, row) for row in range(len(batch))]
        try:
            scores = self._scorer.predict(pairs, activation_fn="identity", show_progress_bar=False)
        except MemoryError:
            raise
        except Exception as error:  # what it says may hold a text, which no log shall
            raise RuntimeError(f"{type(error).__name__} in sentence-transformers") from None
        return np.asarray(scores, np.float32).reshape(len(pairs), 1)


def pair_of(batch: Batch, row: int) -> tuple[str, str]:
    """The texts of a sequence."""
    span = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    ids, is_document = batch.ids[span].astype(np.uint8), batch.type_ids[span] == 1
    return ids[~is_document].tobytes().decode(), ids[is_document].tobytes().decode()


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError(
            "a text holds a lone surrogate, which is no character. Decode it with errors='replace' where it was read"
        ) from None
