"""Passages: nothing is lost, nothing is too long, and cuts fall where a reader would pause."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.contracts import InputError
from runoff.data.passages import PassageRule, passage_spans


def passages(text: str, words: int, overlap: int = 0) -> list[str]:
    return [text[span.start : span.end] for span in passage_spans(text, PassageRule(words, overlap))]


def test_a_short_text_is_one_passage_without_the_blanks_around_it() -> None:
    assert passages("  A short text.\n", 50) == ["A short text."]
    assert passages(" \n ", 50) == []


def test_cuts_fall_between_sentences() -> None:
    text = "One two three. Four five? “Six seven!” Eight nine ten."
    assert passages(text, 5) == ["One two three. Four five?", "“Six seven!” Eight nine ten."]


def test_a_paragraph_end_is_preferred_once_the_passage_is_half_full() -> None:
    text = "One two three four.\n\nFive six. Seven eight nine."
    assert passages(text, 7) == ["One two three four.", "Five six. Seven eight nine."]


def test_passages_overlap_by_whole_sentences() -> None:
    text = "One two. Three four. Five six. Seven eight."
    assert passages(text, 4, overlap=2) == [
        "One two. Three four.",
        "Three four. Five six.",
        "Five six. Seven eight.",
    ]


def test_an_overlap_leaves_room_for_something_new() -> None:
    text = "One two three. Four five six seven eight."
    assert passages(text, 5, overlap=4) == ["One two three.", "Four five six seven eight."]


def test_a_sentence_too_long_is_cut_between_words() -> None:
    assert passages("a b c d e f g", 3) == ["a b c", "d e f", "g"]


def test_scripts_without_blanks_are_counted_by_character() -> None:
    assert passages("今天天气好。我们去公园。", 6) == ["今天天气好。", "我们去公园。"]


def test_a_long_text_without_sentence_ends_takes_little_memory() -> None:
    text = "2026-11-24 INFO request served in 12 ms\n" * 20_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in passage_spans(text, PassageRule()))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 700  # 140,000 words in pieces of 200: none is short enough to be repeated
    # A match object for each word took 25 times the text.
    assert most < len(text)


@pytest.mark.parametrize(("words", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_rules_that_cannot_be_kept_are_refused(words: int, overlap: int) -> None:
    with pytest.raises(InputError, match="words of 1 or more"):
        PassageRule(words, overlap)


@given(
    st.text(alphabet="ab .!?\n“”", max_size=300),
    st.integers(1, 12).flatmap(lambda words: st.tuples(st.just(words), st.integers(0, words - 1))),
)
def test_every_word_is_in_a_passage_and_no_passage_is_too_long(text: str, rule: tuple[int, int]) -> None:
    spans = list(passage_spans(text, PassageRule(*rule)))
    for word in re.finditer(r"\S+", text):
        assert any(span.start <= word.start() and word.end() <= span.end for span in spans)
    assert all(len(text[span.start : span.end].split()) <= rule[0] for span in spans)
    ends = [span.end for span in spans]
    assert ends == sorted(set(ends)), "every passage brings something new"
