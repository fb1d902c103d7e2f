"""What over-long pairs keep of their texts, for all pairs of a chunk at once: the truncation rules, and passages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError, LengthRules, TruncationError

Lengths = npt.NDArray[np.int64]

# Overlap of two neighbouring passages of a long document, as a share of a passage: a sentence that one
# passage cuts is whole in the next as long as it is shorter than this share.
PASSAGE_OVERLAP = 0.25
# A passage of fewer tokens than this says too little to be scored.
MIN_PASSAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens a sequence may have, how many of them are special, and what gives way."""

    max_length: int | None
    pair_specials: int
    lone_specials: int
    rules: LengthRules
    cuts_left: bool

    @property
    def makes_passages(self) -> bool:
        return self.rules.long_documents == "passages"

    @property
    def keeps_query(self) -> bool:
        # "error" refuses losses, and a document of passages loses nothing: only the query must stay whole.
        return self.rules.truncation == "document" or (
            self.makes_passages and self.rules.truncation == "error"
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """Which part of their pair's texts S sequences have; S is more than the U pairs where there are passages.

    `pairs` [S] is each one's pair; the starts and lengths [S] are in tokens of a text. `first_sequences` [U] is
    where each pair's sequences begin, `cut_tokens` [U] what it lost in all.
    """

    pairs: Lengths
    query_starts: Lengths
    query_lengths: Lengths
    document_starts: Lengths
    document_lengths: Lengths
    first_sequences: Lengths
    cut_tokens: Lengths


def kept(queries: Lengths, documents: Lengths, is_pair: npt.NDArray[np.bool_], limits: Limits) -> Kept:
    """What is kept of U pairs whose texts have these lengths [U]; a lone text is a pair without a document.

    Raises `TruncationError` for the first pair that cannot be cut as the rules say, and `InputError` for a limit
    that leaves no room for a pair.
    """
    limit = limits.max_length
    assert limit is not None, "without a limit nothing has to give way"
    room = np.where(is_pair, limit - limits.pair_specials, max(0, limit - limits.lone_specials))
    is_long = queries + documents > room
    query_lengths, document_lengths = longest_first(queries, documents, room)
    if limits.keeps_query:
        query_lengths = np.where(is_pair, queries, query_lengths)
        document_lengths = np.where(is_long, room - query_lengths, documents)
    is_refused = is_long & np.where(is_pair, room < 2, limits.rules.truncation == "error")
    if limits.keeps_query:
        is_refused |= is_long & is_pair & (queries >= room)
    if limits.makes_passages:
        is_refused |= document_lengths < np.minimum(documents, MIN_PASSAGE_TOKENS)
    elif limits.rules.truncation == "error":
        is_refused |= is_long
    if is_refused.any():
        row = int(np.argmax(is_refused))
        one = _Refused(
            int(queries[row]),
            int(documents[row]),
            int(query_lengths[row]),
            int(room[row]),
            bool(is_pair[row]),
        )
        raise one.error(limits)
    query_starts = queries - query_lengths if limits.cuts_left else np.zeros_like(queries)
    if limits.makes_passages:
        return _passages(queries, documents, query_starts, query_lengths, document_lengths)
    document_starts = documents - document_lengths if limits.cuts_left else np.zeros_like(documents)
    rows = np.arange(len(queries))
    cut = queries - query_lengths + documents - document_lengths
    return Kept(rows, query_starts, query_lengths, document_starts, document_lengths, rows, cut)


def longest_first(queries: Any, documents: Any, room: Any) -> tuple[Lengths, Lengths]:
    """Lengths that Hugging Face tokenizers' `longest_first` leaves of two texts in `room` tokens.

    The shorter text stays whole if the longer one can give way alone; else both get half, the longer
    one the odd token. Source: tokenizers, utils/truncation.rs; the table in the tests was executed.
    """
    shorter = np.minimum(np.minimum(queries, documents), room // 2)
    longer = room - shorter
    is_long, is_query_shorter = queries + documents > room, queries <= documents
    return (
        np.where(is_long, np.where(is_query_shorter, shorter, longer), queries),
        np.where(is_long, np.where(is_query_shorter, longer, shorter), documents),
    )


def _passages(
    queries: Lengths, documents: Lengths, query_starts: Lengths, query_lengths: Lengths, room: Lengths
) -> Kept:
    """Each document in passages of at most `room` [U] tokens; what is cut are tokens of queries alone."""
    steps = np.maximum(room - (room * PASSAGE_OVERLAP).astype(np.int64), 1)
    counts = 1 + -(-(documents - room) // steps)
    first_sequences = np.cumsum(counts) - counts
    pairs = np.repeat(np.arange(len(counts)), counts)
    starts = (np.arange(len(pairs)) - first_sequences[pairs]) * steps[pairs]
    return Kept(
        pairs,
        query_starts[pairs],
        query_lengths[pairs],
        starts,
        np.minimum(room[pairs], documents[pairs] - starts),
        first_sequences,
        queries - query_lengths,
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    """Tokens of a pair that cannot be made to fit: of its texts, of the query as cut, and the room for both."""

    query: int
    document: int
    kept_query: int
    room: int
    is_pair: bool

    def error(self, limits: Limits) -> InputError:
        limit = limits.max_length
        if not self.is_pair:
            return TruncationError(
                f"a text of {self.query} tokens is longer than max_length {limit} with its special "
                "tokens; shorten it, or choose truncation='longest_first'"
            )
        if self.room < 2:
            return InputError(
                f"max_length {limit} leaves no room for a pair: {limits.pair_specials} are special tokens"
            )
        if limits.keeps_query and self.query >= self.room:
            return TruncationError(
                f"the query alone has {self.query} tokens and leaves none of {self.room} for the document "
                "(truncation='document' keeps the query whole); shorten it, or use 'longest_first'"
            )
        if limits.makes_passages:
            return TruncationError(
                f"a query of {self.kept_query} tokens leaves {self.room - self.kept_query} of {limit} tokens for a "
                f"passage; at least {MIN_PASSAGE_TOKENS} are needed. Shorten the query or raise max_length"
            )
        return TruncationError(
            f"a pair of {self.query} + {self.document} tokens and {limits.pair_specials} special ones is longer than "
            f"max_length {limit}; shorten it, or choose truncation='document' or 'longest_first'"
        )
