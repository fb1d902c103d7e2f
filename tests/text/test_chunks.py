"""A long input is cut into chunks that grow, and the texts of later ones are tokenised ahead, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.contracts import InputError
from runoff.text.chunks import AHEAD, FIRST_TEXTS, Chunk, ChunkSizes, tokenized
from standin_words import word_ids, words, words_tokenizer

SECONDS = 20.0  # to wait for another thread before a test fails


def sizes_of(count: int, first: int, tokens_an_item: int | None, token_budget: int, cores: int) -> list[int]:
    """Items of each chunk, where every finished one had so many tokens an item (None: none was finished)."""
    sizes = ChunkSizes(first, token_budget, cores)
    found = []
    for start, end in sizes.spans(count):
        assert start == sum(found)
        found.append(end - start)
        if tokens_an_item is not None:
            sizes.learn(end - start, tokens_an_item * (end - start))
    return found


def test_chunks_double_until_they_fill_two_and_a_half_batches() -> None:
    """100 tokens an item, 2.5 x 8,192 = 20,480 wanted: 204 items; 2 cores want 16,384, which is less."""
    assert sizes_of(700, 16, 100, 8192, cores=2) == [16, 32, 64, 128, 204, 204, 52]


def test_chunks_grow_with_the_cores() -> None:
    """8,192 tokens for each of 16 cores are 1,310 items of 100."""
    assert sizes_of(5000, 16, 100, 8192, cores=16)[6:] == [1024, 1310, 1310, 348]


def test_long_items_make_small_chunks_but_never_smaller_than_the_first() -> None:
    assert sizes_of(70, 16, 8000, 8192, cores=1) == [16, 16, 16, 16, 6]
    assert sizes_of(1200, 512, 1000, 8192, cores=1) == [512, *[20] * 34, 8]


@given(st.integers(1, 3000), st.none() | st.integers(1, 9000), st.integers(1, 100_000), st.integers(1, 64))
def test_every_item_is_in_one_chunk(count: int, tokens: int | None, budget: int, cores: int) -> None:
    sizes = sizes_of(count, FIRST_TEXTS, tokens, budget, cores)
    assert sum(sizes) == count
    assert min(sizes) > 0


# --- tokenising ahead -----------------------------------------------------------------------------------


def chunks_of(count: int) -> Iterator[Chunk[int]]:
    """Chunk i has the texts "w<i>" and "w<i> w<i+1>"."""
    for number in range(count):
        yield Chunk([words(1, number), words(2, number)], 10 * number, number)


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 30])
def test_contents_come_in_order_with_the_ids_of_their_texts(count: int, runs_ahead: bool) -> None:
    found = list(tokenized(words_tokenizer(), chunks_of(count), runs_ahead=runs_ahead))
    assert [content for content, _ in found] == list(range(count))
    for content, ids in found:
        assert [row.tolist() for row in ids] == [word_ids(1, content).tolist(), word_ids(2, content).tolist()]


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_bad_text_is_told_when_its_turn_comes_and_by_its_row(runs_ahead: bool) -> None:
    chunks = [*chunks_of(3), Chunk(["w0", "\ud83d"], 30, 3), Chunk(["w4"], 40, 4)]
    found = tokenized(words_tokenizer(), iter(chunks), runs_ahead=runs_ahead)
    assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="text 31 holds a lone surrogate"):
        next(found)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_an_error_of_making_a_chunk_is_raised_after_the_chunks_before_it(runs_ahead: bool) -> None:
    def chunks() -> Iterator[Chunk[int]]:
        yield from chunks_of(2)
        raise InputError("the third")

    found = tokenized(words_tokenizer(), chunks(), runs_ahead=runs_ahead)
    assert [next(found)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(InputError, match="the third"):
        next(found)


def test_later_chunks_are_tokenised_while_the_first_is_in_use() -> None:
    class Watched:
        """The tokenizer, which says that `wanted` calls have ended."""

        def __init__(self, wanted: int) -> None:
            self.tokenizer, self.wanted = words_tokenizer(), wanted
            self.calls, self.lock, self.reached = 0, threading.Lock(), threading.Event()

        def encodings(self, texts: list[str], first_row: int) -> Any:
            found = self.tokenizer.encodings(texts, first_row)
            with self.lock:
                self.calls += 1
                if self.calls == self.wanted:
                    self.reached.set()
            return found

    watched = Watched(1 + AHEAD)
    found = tokenized(watched, chunks_of(9), runs_ahead=True)  # type: ignore[arg-type]
    assert next(found)[0] == 0
    assert watched.reached.wait(SECONDS), "nothing was tokenised ahead"
    assert [content for content, _ in found] == list(range(1, 9))


def test_an_input_that_is_given_up_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    found = tokenized(words_tokenizer(), chunks_of(9), runs_ahead=True)
    next(found)
    assert threading.active_count() > before
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
