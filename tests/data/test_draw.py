"""Draws of a subset's rows: exact, decided number by number, and the same as plain integers say."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from runoff.data.draw import QueryDraw, RowDraw


@pytest.mark.parametrize(
    ("total", "count"), [(1, 0), (1, 1), (10, 3), (1000, 1), (1000, 999), (5, 9), (70_000, 777)]
)
def test_exactly_as_many_rows_are_drawn_as_were_asked_for(total: int, count: int) -> None:
    numbers = np.arange(total)
    taken = RowDraw(total, count, 12, "a").takes(numbers)
    assert taken.sum() == min(total, count)
    parts = [RowDraw(total, count, 12, "a").takes(part) for part in np.array_split(numbers, 7)]
    assert np.array_equal(np.concatenate(parts), taken)  # a row is decided by itself


def test_a_draw_is_of_the_smallest_hashes_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runoff.data.draw._CHUNK", 100)

    def hashed(number: int, key: int) -> int:
        """splitmix64 in plain integers."""
        mixed = (key + number * 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        return mixed ^ (mixed >> 31)

    key = int.from_bytes(hashlib.blake2b(b"5 name", digest_size=8).digest(), "little")
    wanted = sorted(range(1234), key=lambda number: hashed(number, key))[:321]
    assert np.flatnonzero(RowDraw(1234, 321, 5, "name").takes(np.arange(1234))).tolist() == sorted(wanted)


def test_draws_nest_and_differ_by_seed_and_name() -> None:
    numbers = np.arange(5000)
    few, many = (RowDraw(5000, count, 12, "a").takes(numbers) for count in (500, 2500))
    assert (few <= many).all()
    for other in (RowDraw(5000, 500, 13, "a"), RowDraw(5000, 500, 12, "b")):
        assert 20 < (few & other.takes(numbers)).sum() < 90  # 50 expected of independent draws, deviation 6.4
    halves = few[:2500].sum()
    assert 200 < halves < 300


def test_queries_are_drawn_whole_and_never_more_rows_than_asked_for() -> None:
    sizes = np.array([5, 1, 7, 3, 3, 9, 2, 5, 1, 4])
    starts = np.append(0, np.cumsum(sizes))
    numbers = np.arange(45)
    before = np.zeros(45, bool)
    for count in (12, 20, 40):
        draw = QueryDraw(starts, count, 12, "a")
        taken = draw.takes(numbers)
        assert taken.sum() == draw.count <= count
        assert count - draw.count < 9  # the next query did not fit
        assert not taken[40:].any()
        for start, end in pairwise(starts):
            assert taken[start:end].all() or not taken[start:end].any()
        assert (before <= taken).all()
        before = taken
    assert QueryDraw(starts, 40, 12, "a").takes(numbers)[:40].all()
    assert QueryDraw(starts, 0, 12, "a").count == 0
