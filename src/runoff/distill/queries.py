"""Queries drawn from a corpus that comes without any: its titles, headings or first sentences, or a generator's."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, get_args

from runoff.contracts import Document, InputError, Query
from runoff.data.sampling import SEED

Drawing = Literal["titles", "headings", "sentences"]
Generator = Callable[[Document], Iterable[str]]
"""A document -> queries that it answers: the hook for a language model of your own."""

WORDS = (3, 40)
"""A query has at least and at most so many words: shorter ones name a thing, longer ones are passages."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_BLANKS = re.compile(r"\s+")


class Asked(NamedTuple):
    """A query and the documents that are known to answer it, with their grades; empty where none is known."""

    query: Query
    positives: dict[str, int]


def drawn_queries(
    documents: Iterable[Document],
    how: Drawing | Generator,
    count: int,
    seed: int = SEED,
    words: tuple[int, int] = WORDS,
) -> list[Asked]:
    """At most `count` queries drawn from a corpus, each once, with the document it came from as its positive.

    Which are drawn depends on the texts and the seed alone, not on the documents' order. A query that several documents
    give has them all as positives. Raises `InputError` where no document gives one.
    """
    if isinstance(how, str) and how not in get_args(Drawing):
        raise InputError(f"expected queries from {', '.join(get_args(Drawing))}, got {how!r}")
    if count < 1:
        raise InputError(f"expected 1 query or more to draw, got {count}")
    generate = _GENERATORS[how] if isinstance(how, str) else how
    found: dict[str, dict[str, int]] = {}
    for document in documents:
        for text in generate(document):
            query = _BLANKS.sub(" ", text).strip()
            if words[0] <= len(query.split()) <= words[1]:
                found.setdefault(query, {})[document.id] = 1
    if not found:
        source = how if isinstance(how, str) else "the generator"
        raise InputError(
            f"no document gave a query of {words[0]} to {words[1]} words from {source}; give queries of your own, or "
            "draw from sentences"
        )
    texts = sorted(found)
    chosen = sorted(random.Random(seed).sample(texts, min(count, len(texts))))
    return [Asked(Query(text, f"drawn-{number}"), found[text]) for number, text in enumerate(chosen, start=1)]


def _titles(document: Document) -> Iterator[str]:
    if document.title:
        yield document.title


def _headings(document: Document) -> Iterator[str]:
    """The innermost heading of a passage, with the one above it: "Install > On a Mac" -> "Install On a Mac"."""
    if document.title:
        yield " ".join(document.title.split(" > ")[-2:])


def _sentences(document: Document) -> Iterator[str]:
    """The first sentence behind the title."""
    text = document.text
    if document.title and text.startswith(document.title):
        text = text[len(document.title) :]
    first = next((part for part in _SENTENCE_END.split(text.strip()) if part), None)
    if first is not None:
        yield first


_GENERATORS: dict[str, Generator] = {"titles": _titles, "headings": _headings, "sentences": _sentences}
