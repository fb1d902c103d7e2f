"""Which sequences of which requests make the next batch, and that batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from runoff.contracts import Batch
from runoff.text.batching import packed, part

SMALLEST_SHARE = 64
"""Tokens: a smaller share of a batch than this holds no pair worth the split."""

SMALLEST_PAIR = 8
"""Tokens: what is left of a batch below this is left, rather than offered to every request that waits."""


class Waiting(Protocol):
    """A request with sequences to be scored: those of `block` from `next_sequence` on."""

    @property
    def block(self) -> Batch: ...
    @property
    def next_sequence(self) -> int: ...


class Span(NamedTuple):
    """Sequences `first` to `last` (not included) of a request's block."""

    place: int
    first: int
    last: int


def shared_spans(waiting: Sequence[Waiting], token_budget: int) -> list[Span]:
    """The next batch's part of each request, `place` being its place in `waiting`, oldest first.

    The oldest gets half of the budget, the next half of what it leaves, and so on; then what is left is filled in the
    order of arrival. So a request of a thousand documents leaves room for small ones that come after it, and is
    itself never overtaken by all of them. The oldest always gets one sequence, be it larger than the budget.
    """
    room = token_budget
    ends = [request.next_sequence for request in waiting]
    for place, request in enumerate(waiting):
        share = room // 2 if place + 1 < len(waiting) else room
        if place and share < SMALLEST_SHARE:
            break
        ends[place], room = _taken(request.block, ends[place], share, room, takes_one=not place)
    for place, request in enumerate(waiting):
        if room < SMALLEST_PAIR:
            break
        ends[place], room = _taken(request.block, ends[place], room, room, takes_one=False)
    return [
        Span(place, request.next_sequence, last)
        for place, (request, last) in enumerate(zip(waiting, ends, strict=True))
        if last > request.next_sequence
    ]


def _taken(block: Batch, first: int, share: int, room: int, *, takes_one: bool) -> tuple[int, int]:
    """Where the sequences that fit into `share` tokens end, and what they leave of `room`."""
    begin = int(block.offsets[first])
    last = int(np.searchsorted(block.offsets, begin + max(share, 0), side="right")) - 1
    last = min(max(last, first + 1 if takes_one else first), len(block))
    return last, room - (int(block.offsets[last]) - begin)


def joined(parts: Sequence[tuple[Batch, int, int]]) -> Batch:
    """One batch of parts (block, first, last) of several; rows count through it."""
    batches = [part(block, first, last) for block, first, last in parts]
    lengths = np.concatenate([np.diff(each.offsets) for each in batches]).astype(np.int64)
    return packed(
        np.concatenate([each.ids for each in batches]),
        np.concatenate([each.type_ids for each in batches]),
        lengths,
        np.arange(len(lengths)),
    )
