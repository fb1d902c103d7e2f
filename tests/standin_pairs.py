"""A readable twin of `runoff.text.pairs`: one pair at a time, on lists, with the rules written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runoff.contracts import InputError, LengthRules, TruncationError

Template = Sequence[tuple[list[int] | str, int]]
"""Parts in their order, each with its segment: special tokens as ids, "query" and "document" by name."""


@dataclass(frozen=True)
class SlowTokenizer:
    """What the twin knows of a tokenizer."""

    pair: Template
    lone: Template
    max_length: int | None
    has_segments: bool
    cuts_left: bool

    def specials(self, template: Template) -> int:
        return sum(len(part) for part, _ in template if not isinstance(part, str))


@dataclass(frozen=True)
class SlowSequence:
    ids: list[int]
    type_ids: list[int]


def longest_first(query: int, document: int, room: int) -> tuple[int, int]:
    """As tokenizers' utils/truncation.rs has it, step by step."""
    if query + document <= room:
        return query, document
    shorter, longer = sorted((query, document))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (shorter, longer) if query <= document else (longer, shorter)


def encoded(
    tokenizer: SlowTokenizer, query: list[int], document: list[int] | None, rules: LengthRules
) -> tuple[list[SlowSequence], int]:
    """The sequences of one pair, and how many tokens it lost."""
    limit = tokenizer.max_length if rules.max_length is None else rules.max_length
    if document is None:
        room = len(query) if limit is None else max(0, limit - tokenizer.specials(tokenizer.lone))
        cut = max(0, len(query) - room)
        if cut and rules.truncation == "error":
            raise TruncationError(
                f"a text of {len(query)} tokens is longer than max_length {limit} with its special tokens; shorten "
                "it, or choose truncation='longest_first'"
            )
        return [_laid(tokenizer, tokenizer.lone, {"query": _end(tokenizer, query, room)})], cut
    specials = tokenizer.specials(tokenizer.pair)
    if limit is None or len(query) + len(document) + specials <= limit:
        return [_laid(tokenizer, tokenizer.pair, {"query": query, "document": document})], 0
    is_passages = rules.long_documents == "passages"
    rule = "document" if is_passages and rules.truncation == "error" else rules.truncation
    kept_query, kept = _kept(len(query), len(document), limit, specials, rule)
    first = _end(tokenizer, query, kept_query)
    cut = len(query) - kept_query
    if not is_passages:
        texts = {"query": first, "document": _end(tokenizer, document, kept)}
        return [_laid(tokenizer, tokenizer.pair, texts)], cut + len(document) - kept
    if kept == len(document):
        return [_laid(tokenizer, tokenizer.pair, {"query": first, "document": document})], cut
    if kept < 16:
        raise TruncationError(
            f"a query of {kept_query} tokens leaves {kept} of {limit} tokens for a passage; at least 16 are needed. "
            "Shorten the query or raise max_length"
        )
    found, start, step = [], 0, kept - kept // 4
    while True:
        passage = document[start : start + kept]
        found.append(_laid(tokenizer, tokenizer.pair, {"query": first, "document": passage}))
        if start + kept >= len(document):
            return found, cut
        start += step


def _kept(query: int, document: int, limit: int, specials: int, rule: str) -> tuple[int, int]:
    room = limit - specials
    if room < 2:
        raise InputError(f"max_length {limit} leaves no room for a pair: {specials} are special tokens")
    if rule == "error":
        raise TruncationError(
            f"a pair of {query} + {document} tokens and {specials} special ones is longer than max_length {limit}; "
            "shorten it, or choose truncation='document' or 'longest_first'"
        )
    if rule == "document" and query >= room:
        raise TruncationError(
            f"the query alone has {query} tokens and leaves none of {room} for the document "
            "(truncation='document' keeps the query whole); shorten it, or use 'longest_first'"
        )
    return (query, room - query) if rule == "document" else longest_first(query, document, room)


def _end(tokenizer: SlowTokenizer, ids: list[int], length: int) -> list[int]:
    return ids[len(ids) - length :] if tokenizer.cuts_left and length < len(ids) else ids[:length]


def _laid(tokenizer: SlowTokenizer, template: Template, texts: dict[str, list[int]]) -> SlowSequence:
    ids: list[int] = []
    types: list[int] = []
    for part, segment in template:
        piece = texts[part] if isinstance(part, str) else part
        ids += piece
        types += [segment if tokenizer.has_segments else 0] * len(piece)
    return SlowSequence(ids, types)


def all_encoded(
    tokenizer: SlowTokenizer, pairs: Sequence[tuple[list[int], list[int] | None]], rules: LengthRules
) -> dict[str, Any]:
    """Sequences, which distinct pair each is, where each distinct pair's sequences begin, tokens lost; the error
    that the first pair which cannot be cut gives."""
    distinct: list[Any] = []
    sequences: list[SlowSequence] = []
    first_sequences: list[int] = []
    lost: list[int] = []
    numbers: list[int] = []
    for row, pair in enumerate(pairs):
        if pair not in distinct:
            try:
                found, cut = encoded(tokenizer, *pair, rules)
            except TruncationError as error:
                raise TruncationError(f"pair {row}: {error}") from None
            distinct.append(pair)
            first_sequences.append(len(sequences))
            sequences += found
            lost.append(cut)
        numbers.append(distinct.index(pair))
    return {"sequences": sequences, "first": first_sequences, "numbers": numbers, "lost": lost}
