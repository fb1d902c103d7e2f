"""Sequences are packed without padding under a token budget, and their outputs come back in order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.contracts import Batch, Encoded, FloatArray, InputError
from runoff.text.batching import (
    batches,
    forward_all,
    forward_in_memory,
    halves,
    longest_first_block,
    pack,
)


def sequence(length: int, first: int = 0) -> Encoded:
    """Ids first, first + 1, ...; segments 0 and 1 in turn."""
    ids = np.arange(first, first + length, dtype=np.int32)
    return Encoded(ids, ids % 2)


def sequences_of(lengths: Sequence[int]) -> list[Encoded]:
    """Sequence i begins with the id 1000 i, so that each token says where it belongs."""
    return [sequence(length, first=1000 * i) for i, length in enumerate(lengths)]


def unpacked(batch: Batch) -> dict[int, list[list[int]]]:
    """Row -> its ids, segments and positions."""
    spans = list(zip(batch.offsets, batch.offsets[1:], strict=False))
    arrays = (batch.ids, batch.type_ids, batch.positions)
    return {
        int(row): [part[start:end].tolist() for part in arrays]
        for row, (start, end) in zip(batch.rows, spans, strict=True)
    }


class Sums:
    """An engine whose output says what it was given: [sum of ids, tokens], and that cannot hold much."""

    name = "sums"
    precision = "fp32"

    def __init__(self, most_tokens: float = float("inf")) -> None:
        self.most_tokens = most_tokens
        self.token_counts: list[int] = []

    def forward(self, batch: Batch) -> FloatArray:
        self.token_counts.append(batch.token_count)
        if batch.token_count > self.most_tokens:
            raise MemoryError
        values = unpacked(batch).values()
        return np.array([[sum(ids), len(ids)] for ids, _, _ in values], np.float32)


def expected_outputs(sequences: Sequence[Encoded]) -> list[list[float]]:
    return [[float(each.ids.sum()), float(len(each.ids))] for each in sequences]


# --- packing ------------------------------------------------------------------------------------------


def test_sequences_lie_end_to_end_with_positions_that_restart() -> None:
    batch = pack([sequence(3, 10), sequence(1, 20), sequence(2, 31)], rows=[7, 0, 4])
    assert batch.ids.tolist() == [10, 11, 12, 20, 31, 32]
    assert batch.type_ids.tolist() == [0, 1, 0, 0, 1, 0]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.offsets.tolist() == [0, 3, 4, 6]
    assert batch.rows.tolist() == [7, 0, 4]
    assert (len(batch), batch.token_count) == (3, 6)
    kinds = [batch.ids.dtype, batch.type_ids.dtype, batch.positions.dtype, batch.offsets.dtype]
    assert kinds == [np.dtype(np.int32)] * 4


def test_an_empty_sequence_takes_no_token_and_keeps_its_row() -> None:
    batch = pack([sequence(0), sequence(2, 10), sequence(0)], rows=[0, 1, 2])
    assert batch.offsets.tolist() == [0, 0, 2, 2]
    assert unpacked(batch) == {0: [[], [], []], 1: [[10, 11], [0, 1], [0, 1]], 2: [[], [], []]}


many_lengths = st.lists(st.integers(0, 60), min_size=1, max_size=40)


@given(many_lengths, st.integers(1, 100), st.none() | st.integers(1, 6))
def test_every_sequence_is_in_one_batch_within_the_budget(
    lengths: list[int], budget: int, most: int | None
) -> None:
    sequences = sequences_of(lengths)
    made = list(batches(longest_first_block(sequences), budget, most))
    rows = [int(row) for batch in made for row in batch.rows]
    assert sorted(rows) == list(range(len(lengths)))
    for batch in made:
        assert batch.token_count <= budget or len(batch) == 1, "only a lone sequence may be above the budget"
        assert most is None or len(batch) <= most
        for row, (ids, type_ids, positions) in unpacked(batch).items():
            assert ids == sequences[row].ids.tolist()
            assert type_ids == sequences[row].type_ids.tolist()
            assert positions == list(range(lengths[row]))


@given(many_lengths, st.integers(1, 100))
def test_no_batch_could_have_taken_the_first_sequence_of_the_next(lengths: list[int], budget: int) -> None:
    made = list(batches(longest_first_block(sequences_of(lengths)), budget))
    for batch, following in itertools.pairwise(made):
        assert batch.token_count + int(following.offsets[1]) > budget


def test_the_longest_comes_first_and_equal_lengths_keep_their_order() -> None:
    made = list(batches(longest_first_block(sequences_of([2, 5, 2, 9, 5])), token_budget=10))
    assert [batch.rows.tolist() for batch in made] == [[3], [1, 4], [0, 2]]
    assert [batch.token_count for batch in made] == [9, 10, 4]


def test_a_sequence_longer_than_the_budget_goes_alone() -> None:
    made = list(batches(longest_first_block(sequences_of([3, 50, 3, 40])), token_budget=10))
    assert [batch.rows.tolist() for batch in made] == [[1], [3], [0, 2]]


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_that_is_not_positive_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=f"token_budget must be a positive number of tokens, got {budget}"):
        list(batches(longest_first_block(sequences_of([1])), budget))


# --- running ------------------------------------------------------------------------------------------


@given(many_lengths, st.integers(1, 100), st.none() | st.integers(1, 6))
def test_outputs_come_back_in_the_callers_order(lengths: list[int], budget: int, most: int | None) -> None:
    sequences = sequences_of(lengths)
    outputs = forward_all(Sums(), sequences, token_budget=budget, max_sequences=most)
    assert outputs.dtype == np.float32
    assert outputs.tolist() == expected_outputs(sequences)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=9))
def test_two_halves_hold_what_the_whole_held(lengths: list[int]) -> None:
    sequences = sequences_of(lengths)
    whole = pack(sequences, rows=range(len(lengths)))
    first, second = halves(whole)
    assert {**unpacked(first), **unpacked(second)} == unpacked(whole)
    assert len(first) + len(second) == len(whole)
    assert abs(len(first) - len(second)) <= 1
    assert first.offsets[0] == second.offsets[0] == 0


def test_a_batch_too_large_for_memory_is_run_in_halves() -> None:
    """8 sequences of 10 tokens where 25 fit: 80, then 40 and 20 + 20 for each half."""
    sequences = sequences_of([10] * 8)
    engine = Sums(most_tokens=25)
    outputs = forward_in_memory(engine, pack(sequences, rows=range(8)))
    assert engine.token_counts == [80, 40, 20, 20, 40, 20, 20]
    assert outputs.tolist() == expected_outputs(sequences)


def test_a_single_sequence_too_large_for_memory_is_an_error_that_says_so() -> None:
    engine = Sums(most_tokens=25)
    with pytest.raises(
        MemoryError, match="a single sequence of 30 tokens does not fit into memory"
    ) as raised:
        forward_in_memory(engine, pack(sequences_of([5, 30]), rows=[0, 1]))
    assert engine.token_counts == [35, 5, 30]
    assert isinstance(raised.value.__cause__, MemoryError)


def test_halves_are_run_in_the_callers_order_too() -> None:
    sequences = sequences_of([4, 9, 1, 7, 7, 2])
    outputs = forward_all(Sums(most_tokens=10), sequences, token_budget=1000)
    assert outputs.tolist() == expected_outputs(sequences)


def test_another_error_of_the_engine_is_not_swallowed() -> None:
    class Broken(Sums):
        def forward(self, batch: Batch) -> FloatArray:
            raise FloatingPointError("weights")

    with pytest.raises(FloatingPointError, match="weights"):
        forward_in_memory(Broken(), pack(sequences_of([1, 1]), rows=[0, 1]))


def test_progress_is_shown_only_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    forward_all(Sums(), sequences_of([3, 4, 5]), token_budget=5)
    assert capsys.readouterr().err == ""
    forward_all(Sums(), sequences_of([3, 4, 5]), token_budget=5, shows_progress=True)
    assert "3/3" in capsys.readouterr().err
