"""Token ids of many texts -> the packed sequences an encoder reads: cut, with special tokens, longest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runoff.contracts import Batch, IntArray, TokenIds
from runoff.text.batching import packed
from runoff.text.template import Template, interleaved
from runoff.text.truncation import Lengths, Limits, kept


@dataclass(frozen=True, slots=True)
class PairTexts:
    """Token ids of U pairs' texts. A lone text is a query whose `is_pair` [U] is False and whose document is empty."""

    queries: Sequence[TokenIds]
    documents: Sequence[TokenIds]
    is_pair: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Joined:
    """`block`: the S sequences of U pairs, packed longest first, `rows` in the order of the pairs.

    `first_sequences` [U] is where each pair's sequences begin in that order, `cut_tokens` [U] what each pair lost.
    """

    block: Batch
    first_sequences: Lengths
    cut_tokens: Lengths


@dataclass(frozen=True, slots=True)
class Joiner:
    """Lays special tokens around the texts of pairs, and around lone texts."""

    pair: Template
    lone: Template
    has_segments: bool

    def join(self, texts: PairTexts, limits: Limits) -> Joined:
        """The sequences of all pairs as one block. Raises what `kept` raises."""
        sizes = _sizes(texts, limits)
        if limits.max_length is None or max(sizes, default=0) <= limits.max_length:
            first_sequences, cut_tokens = np.arange(len(sizes)), np.zeros(len(sizes), np.int64)
        else:
            texts, first_sequences, cut_tokens = _cut(texts, limits)
            sizes = _sizes(texts, limits)
        # A sort of lists: numpy's calls cost a lone pair more than all of this. Equal sizes keep their order.
        order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
        ids, type_ids = self._laid(
            [texts.queries[row] for row in order],
            [texts.documents[row] for row in order],
            [self.pair if texts.is_pair[row] else self.lone for row in order],
        )
        lengths, rows = np.array([sizes[row] for row in order], np.int64), np.array(order, np.int64)
        return Joined(packed(ids, type_ids, lengths, rows), first_sequences, cut_tokens)

    def _laid(
        self, queries: list[TokenIds], documents: list[TokenIds], templates: list[Template]
    ) -> tuple[IntArray, IntArray | None]:
        """Ids and, where the model knows segments, segment ids [T] of the sequences, in that order."""
        before, between, after = ([each.specials[place] for each in templates] for place in range(3))
        ids = interleaved(before, queries, between, documents, after)
        if not self.has_segments:
            return ids, None
        before, between, after = ([each.special_types[place] for each in templates] for place in range(3))
        first, second = ([each.text_types[place] for each in templates] for place in range(2))
        return ids, interleaved(
            before, _repeated(first, queries), between, _repeated(second, documents), after
        )


def _sizes(texts: PairTexts, limits: Limits) -> list[int]:
    """Tokens of each pair's sequence where nothing is cut."""
    pair, lone = limits.pair_specials, limits.lone_specials
    rows = zip(texts.queries, texts.documents, texts.is_pair, strict=True)
    return [len(query) + len(document) + (pair if is_pair else lone) for query, document, is_pair in rows]


def _cut(texts: PairTexts, limits: Limits) -> tuple[PairTexts, Lengths, Lengths]:
    """The texts of S sequences, where each pair's begin [U], and what each pair lost [U]."""
    parts = kept(_lengths(texts.queries), _lengths(texts.documents), np.array(texts.is_pair), limits)
    pairs = parts.pairs.tolist()
    queries = _slices([texts.queries[pair] for pair in pairs], parts.query_starts, parts.query_lengths)
    documents = _slices(
        [texts.documents[pair] for pair in pairs], parts.document_starts, parts.document_lengths
    )
    is_pair = [texts.is_pair[pair] for pair in pairs]
    return PairTexts(queries, documents, is_pair), parts.first_sequences, parts.cut_tokens


def _lengths(texts: Sequence[TokenIds]) -> Lengths:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def _slices(texts: Sequence[TokenIds], starts: Lengths, lengths: Lengths) -> list[TokenIds]:
    return [
        text if len(text) == length else text[start : start + length]
        for text, start, length in zip(texts, starts.tolist(), lengths.tolist(), strict=True)
    ]


def _repeated(types: Sequence[int], texts: Sequence[TokenIds]) -> list[IntArray]:
    """Each segment id as often as its text has tokens; views of one array for each id."""
    longest = max(map(len, texts), default=0)
    rows = {each: np.full(longest, each, np.int32) for each in set(types)}
    return [rows[each][: len(text)] for each, text in zip(types, texts, strict=True)]
