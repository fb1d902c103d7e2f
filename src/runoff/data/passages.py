"""A long text -> overlapping passages, cut where paragraphs and sentences end, with their places kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from runoff.contracts import InputError

# A word is a run of letters without blanks; in scripts written without blanks, one character.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
# A sentence ends at its mark and the quotes that close it, or where a blank line ends the paragraph.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+|\n[ \t]*(?=\n)")


@dataclass(frozen=True, slots=True)
class PassageRule:
    """At most `words` words a passage, and about `overlap` of them repeated from the one before.

    200 words are some 270 tokens of English, which with a query fit a 512 token model.
    """

    words: int = 200
    overlap: int = 40

    def __post_init__(self) -> None:
        if self.words < 1 or not 0 <= self.overlap < self.words:
            raise InputError(
                f"expected words of 1 or more and an overlap from 0 to below it, got words={self.words}, "
                f"overlap={self.overlap}"
            )


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


class _Sentence(NamedTuple):
    start: int
    end: int
    words: int
    starts_paragraph: bool


def passage_spans(text: str, rule: PassageRule) -> Iterator[Span]:
    """The spans of the passages of `text`, in order; none for a blank text. Together they hold every word."""
    sentences = list(_sentences(text, rule.words))
    first = 0
    while first < len(sentences):
        end = _passage_end(sentences, first, rule.words)
        yield Span(sentences[first].start, sentences[end - 1].end)
        if end == len(sentences):
            return
        first = _overlap_start(sentences, first, end, rule)


def _passage_end(sentences: list[_Sentence], first: int, words: int) -> int:
    """The sentence that the passage ends before: the last paragraph end if it is half full there."""
    total, end, paragraph_end = 0, first, None
    while end < len(sentences) and total + sentences[end].words <= words:
        if end > first and sentences[end].starts_paragraph and total >= words / 2:
            paragraph_end = end
        total += sentences[end].words
        end += 1
    if end == len(sentences) or sentences[end].starts_paragraph:
        return end
    return paragraph_end or end


def _overlap_start(sentences: list[_Sentence], first: int, end: int, rule: PassageRule) -> int:
    """Where the next passage starts: as many whole sentences back as fit the overlap, and always onward.

    What is repeated must leave room for the next sentence, or the passage would bring nothing new.
    """
    room = min(rule.overlap, rule.words - sentences[end].words)
    start = end
    while start - 1 > first and sentences[start - 1].words <= room:
        start -= 1
        room -= sentences[start].words
    return start


def _sentences(text: str, words: int) -> Iterator[_Sentence]:
    """The sentences of `text` without the blanks around them; one longer than `words` comes in pieces."""
    start = last_end = 0
    for end in chain((match.end() for match in _SENTENCE_END.finditer(text)), [len(text)]):
        found = _WORD.finditer(text, start, end)
        # One match at a time: a list of them took 25 times the text where no sentence ever ends.
        for first in found:
            last, count = first, 1
            for word in islice(found, words - 1):
                last, count = word, count + 1
            gap = text[last_end : first.start()]
            yield _Sentence(first.start(), last.end(), count, gap.count("\n") > 1)
            last_end = last.end()
        start = end
