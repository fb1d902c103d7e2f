"""What is served: a model's server half, texts -> sequences, and how a worker builds the half that scores them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from runoff.contracts import Batch, CutReport, FloatArray, LengthRules, TokenIds
from runoff.serve.worker import BuildEngine
from runoff.text.batching import packed
from runoff.text.pairs import EncodedPairs, encode_pairs
from runoff.text.tokenizer import Tokenizer
from runoff.text.truncation import longest_first

BYTES_A_TOKEN = 4
"""What a request's tokens are estimated by before it is tokenised; English has 4 to 5, other languages fewer.
Once tokenised the true number takes the estimate's place."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How one request wants over-long pairs to be cut; None is the model's own way.

    `refuses`: nothing may be cut. `keeps_end`: the beginning of a document gives way, not its end.
    """

    refuses: bool = False
    keeps_end: bool = False
    max_document_tokens: int | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The sequences of one request, in a block that is packed longest first, and what was cut to make them.

    `tokens` are those that are counted: the block's own, or what its texts come to.
    """

    encoded: EncodedPairs
    cut: CutReport
    tokens: int
    characters: int
    tokenization_s: float

    @property
    def block(self) -> Batch:
        return self.encoded.block


class Model(Protocol):
    """A reranker as the server holds it: no weights, only what turns texts into sequences.

    `shown` turns raw scores [N] into those that are answered. `build` is pickled for each worker.
    """

    @property
    def name(self) -> str: ...
    @property
    def shown(self) -> Callable[[FloatArray], FloatArray]: ...
    @property
    def build(self) -> BuildEngine: ...
    @property
    def max_length(self) -> int | None:
        """Most tokens of a pair, where the server knows."""
        ...

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """That of its tokenizer; None: it takes texts only."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text."""
        ...

    def estimated_tokens(self, pairs: Sequence[tuple[str, str | TokenIds]]) -> int:
        """About how many tokens the pairs have, told at once."""
        ...

    def work(self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting) -> Work:
        """The pairs' sequences. Raises `InputError` for what cannot be tokenised or cut as asked."""
        ...

    def warm_up(self, token_budget: int) -> Batch:
        """A batch of the longest pairs there can be, as many as the budget holds, or else one of a few tokens."""
        ...


@dataclass(frozen=True, slots=True)
class TokenModel:
    """A reranker that an engine of ours runs. `prompt` goes before queries, `rules` cut what a request does not say
    otherwise."""

    name: str
    tokenizer: Tokenizer
    prompt: str
    rules: LengthRules
    shown: Callable[[FloatArray], FloatArray]
    build: BuildEngine

    @property
    def max_length(self) -> int | None:
        return self.tokenizer.max_length

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.tokenizer.fingerprint

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text."""
        return self.tokenizer.tokenize(texts)

    def estimated_tokens(self, pairs: Sequence[tuple[str, str | TokenIds]]) -> int:
        """Tokens of the pairs as far as their lengths in bytes tell, none above the limit of a pair."""
        specials = self.tokenizer.special_token_count
        queries = {query: _token_estimate(query) for query in {query for query, _ in pairs}}
        longest = None if self.rules.long_documents == "passages" else self.max_length
        total = 0
        for query, document in pairs:
            tokens = specials + queries[query] + _token_estimate(document)
            total += tokens if longest is None else min(tokens, longest)
        return total

    def work(self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting) -> Work:
        """The pairs' sequences. Raises `InputError` for texts with lone surrogates, and `TruncationError` for pairs
        that are too long where nothing may be cut."""
        began = time.perf_counter()
        characters = sum(len(query) + (len(text) if isinstance(text, str) else 0) for query, text in pairs)
        rules = self.rules
        if cutting.refuses:
            rules = replace(rules, truncation="error", long_documents="truncate")
        limit = self._limit(cutting)
        if limit != self.max_length:
            rules = replace(rules, max_length=limit)
        lost = np.zeros(len(pairs), np.int64)
        if cutting.keeps_end or cutting.max_document_tokens is not None:
            pairs, lost = self._shortened(pairs, cutting, limit)
        encoded = encode_pairs(self.tokenizer, pairs, self.prompt, rules)
        lost += encoded.cut_tokens[encoded.distinct_pairs]
        cut = CutReport(len(pairs), int(np.count_nonzero(lost)), int(lost.sum()), limit or 0)
        return Work(encoded, cut, encoded.block.token_count, characters, time.perf_counter() - began)

    def _limit(self, cutting: Cutting) -> int | None:
        """Most tokens of a pair: what the request asks for, within the model's own."""
        if cutting.max_length is None:
            return self.max_length
        return cutting.max_length if self.max_length is None else min(cutting.max_length, self.max_length)

    def _shortened(
        self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting, limit: int | None
    ) -> tuple[list[tuple[str, str | TokenIds]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """The pairs with documents cut as only this request asks, as token ids, and how many each lost [N]."""
        tokens = self.tokenizer.tokenize([text if isinstance(text, str) else "" for _, text in pairs])
        documents = [
            ids if isinstance(text, str) else text for ids, (_, text) in zip(tokens, pairs, strict=True)
        ]
        whole = np.fromiter(map(len, documents), np.int64, len(documents))
        most = (
            whole if cutting.max_document_tokens is None else np.minimum(whole, cutting.max_document_tokens)
        )
        if cutting.keeps_end and limit is not None and not cutting.refuses:
            texts = sorted({query for query, _ in pairs})
            sizes = dict(
                zip(
                    texts,
                    map(len, self.tokenizer.tokenize([self.prompt + each for each in texts])),
                    strict=True,
                )
            )
            queries = np.fromiter((sizes[query] for query, _ in pairs), np.int64, len(pairs))
            most = longest_first(queries, most, max(2, limit - self.tokenizer.special_token_count))[1]
        kept = [
            ids[len(ids) - size :] if cutting.keeps_end else ids[:size]
            for ids, size in zip(documents, most.tolist(), strict=True)
        ]
        return [(query, ids) for (query, _), ids in zip(pairs, kept, strict=True)], whole - most

    def warm_up(self, token_budget: int) -> Batch:
        """A batch of the longest pairs there can be, as many as the budget holds, or else one of a few tokens."""
        least = self.tokenizer.special_token_count + 2
        limit = max(least, min(self.max_length or 512, token_budget, 8192))
        text = " ".join(["warm"] * limit)
        block = encode_pairs(
            self.tokenizer, [("warm", text)], self.prompt, LengthRules(max_length=limit)
        ).block
        count = max(1, token_budget // block.token_count)
        lengths = np.full(count, block.token_count, np.int64)
        return packed(np.tile(block.ids, count), np.tile(block.type_ids, count), lengths, np.arange(count))


def _token_estimate(text: str | TokenIds) -> int:
    if not isinstance(text, str):
        return len(text)
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_A_TOKEN)
