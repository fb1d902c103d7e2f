"""So many rows of a whole subset, drawn row by row or query by query: the caps and weights of a mixture.

A draw takes what has the smallest hashes, of its number, the seed and a name. Each number is decided by itself, so that
a draw is the same whatever is read at a time, and a smaller draw of the same rows is part of a larger one.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_CHUNK = 1 << 20
"""Hashes in memory at a time: 8 MB."""


class Draw(Protocol):
    """Some of a subset's rows."""

    def takes(self, numbers: Numbers) -> Mask:
        """Which of the row numbers are drawn, [N]."""
        ...


class RowDraw:
    """Exactly `count` of the row numbers from 0 to below `total`, in little memory however many there are."""

    def __init__(self, total: int, count: int, seed: int, name: str) -> None:
        self._key = _key(seed, name)
        self._all, self._none = count >= total, count <= 0
        self._limit = np.uint64(0) if self._all or self._none else self._nth(total, count)

    def takes(self, numbers: Numbers) -> Mask:
        """Which of the row numbers are drawn, [N]."""
        if self._all or self._none:
            return np.full(len(numbers), self._all)
        return _hashes(self._key, numbers) <= self._limit

    def _nth(self, total: int, count: int) -> np.uint64:
        """The `count`-th smallest hash: first which 65,536th of all values it lies in, then which it is there."""
        starts = range(0, total, _CHUNK)
        sizes = np.zeros(1 << 16, np.int64)
        for start in starts:
            parts = _hashes(self._key, np.arange(start, min(start + _CHUNK, total))) >> np.uint64(48)
            sizes += np.bincount(parts.astype(np.int64), minlength=1 << 16)
        ends = np.cumsum(sizes)
        part = int(np.searchsorted(ends, count))
        inside = []
        for start in starts:
            hashes = _hashes(self._key, np.arange(start, min(start + _CHUNK, total)))
            inside.append(hashes[hashes >> np.uint64(48) == np.uint64(part)])
        found: np.uint64 = np.sort(np.concatenate(inside))[count - 1 - int(ends[part] - sizes[part])]
        return found


class QueryDraw:
    """Whole queries of at most `count` rows together: in the order of their hashes, as many as fit.

    `starts` [queries + 1] says where each query's rows begin, and at last how many rows there are.
    """

    def __init__(self, starts: Numbers, count: int, seed: int, name: str) -> None:
        self._starts = starts
        sizes = np.diff(starts)
        order = np.argsort(_hashes(_key(seed, name), np.arange(len(sizes))))
        fitting = int(np.searchsorted(np.cumsum(sizes[order]), count, side="right"))
        self._is_drawn = np.zeros(len(sizes), bool)
        self._is_drawn[order[:fitting]] = True

    @property
    def count(self) -> int:
        """Rows of the drawn queries."""
        return int(np.diff(self._starts)[self._is_drawn].sum())

    def takes(self, numbers: Numbers) -> Mask:
        """Which of the row numbers are drawn, [N]; none from the last query's end on."""
        queries = np.searchsorted(self._starts, numbers, side="right") - 1
        is_within = queries < len(self._is_drawn)
        drawn: Mask = is_within & self._is_drawn[np.where(is_within, queries, 0)]
        return drawn


def _key(seed: int, name: str) -> Hashes:
    return np.frombuffer(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), np.uint64)


def _hashes(key: Hashes, numbers: Numbers) -> Hashes:
    """splitmix64 (Steele, Lea and Flood 2014) at these places of its sequence: no two numbers have the same hash."""
    mixed: Hashes = key + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
