"""Sequences -> packed `Batch`es under a token budget, and outputs back into the caller's order.

A block is a batch of all the sequences of a chunk, whatever they weigh; what an engine gets are parts of it.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import (
    Batch,
    Encoded,
    Engine,
    FloatArray,
    InputError,
    IntArray,
    TokenIds,
)

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
"""Batches that are begun before the oldest one's outputs are waited for, where the engine's `in_flight` names no
other number."""


def pack(sequences: Sequence[Encoded], rows: Sequence[int]) -> Batch:
    """The sequences end to end; `rows` are their places in the caller's order."""
    return packed(
        np.concatenate([sequence.ids for sequence in sequences]),
        np.concatenate([sequence.type_ids for sequence in sequences]),
        np.fromiter((len(sequence.ids) for sequence in sequences), np.int64, len(sequences)),
        np.asarray(rows, dtype=np.int64),
    )


def packed(
    ids: IntArray, type_ids: IntArray | None, lengths: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Batch:
    """The batch of sequences of `lengths` [B] whose tokens [T] lie end to end; None is segment 0 everywhere."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return Batch(
        ids=ids,
        type_ids=np.zeros(len(ids), np.int32) if type_ids is None else type_ids,
        positions=np.arange(len(ids), dtype=np.int32) - np.repeat(offsets[:-1], lengths),
        offsets=offsets,
        rows=rows,
    )


def unpacked(batch: Batch) -> list[Encoded]:
    """The sequences one by one, in the caller's order; `cut_tokens` are not known here."""
    spans = list(itertools.pairwise(batch.offsets.tolist()))
    order = np.argsort(batch.rows, kind="stable").tolist()
    return [Encoded(batch.ids[slice(*spans[row])], batch.type_ids[slice(*spans[row])]) for row in order]


def longest_first_order(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of `lengths` [B] from the longest to the shortest; equal ones keep their order.

    Longest first shows a lack of memory at once and makes progress bars pessimistic rather than hopeful;
    neighbours of like length share the attention's working set.
    """
    return np.argsort(-lengths, kind="stable")


def longest_first_block(sequences: Sequence[Encoded]) -> Batch:
    """All the sequences (at least one) as one block, longest first."""
    lengths = np.fromiter((len(sequence.ids) for sequence in sequences), np.int64, len(sequences))
    order = longest_first_order(lengths).tolist()
    return pack([sequences[row] for row in order], order)


def block_of_texts(ids: Sequence[TokenIds]) -> Batch:
    """All the texts (at least one) as one block, longest first: no special tokens, segment 0."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    order = longest_first_order(lengths)
    return packed(np.concatenate([ids[row] for row in order.tolist()]), None, lengths[order], order)


def batches(block: Batch, token_budget: int, max_sequences: int | None = None) -> Iterator[Batch]:
    """A block's sequences in its order, in batches of at most `token_budget` tokens (a longer one goes alone).

    They are views of the block: nothing is copied but offsets.
    """
    if token_budget <= 0:
        raise InputError(f"token_budget must be a positive number of tokens, got {token_budget}")
    count, first = len(block), 0
    ends = block.offsets.astype(np.int64)
    while first < count:
        last = int(np.searchsorted(ends, ends[first] + token_budget, side="right")) - 1
        last = max(last, first + 1)
        if max_sequences is not None:
            last = min(last, first + max_sequences)
        yield block if last - first == count else part(block, first, last)
        first = last


def part(batch: Batch, first: int, last: int) -> Batch:
    """Sequences `first` to `last` (not included) of a batch, as views of its tokens."""
    begin, end = int(batch.offsets[first]), int(batch.offsets[last])
    return Batch(
        batch.ids[begin:end],
        batch.type_ids[begin:end],
        batch.positions[begin:end],
        batch.offsets[first : last + 1] - batch.offsets[first],
        batch.rows[first:last],
    )


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first and the second half of a batch's sequences (at least two), each packed again."""
    middle = len(batch) // 2
    return part(batch, 0, middle), part(batch, middle, len(batch))


def forward_in_memory(engine: Engine, batch: Batch, begun: Any = None) -> FloatArray:
    """The engine's outputs [B, L]; a batch too large for the memory that is free is run in halves.

    `begun` is what the engine's `start` gave for this batch, if it was started.
    Raises `MemoryError` where a single sequence does not fit.
    """
    try:
        result: FloatArray = engine.forward(batch) if begun is None else begun.result()
        return result
    except MemoryError as error:
        if len(batch) == 1:
            raise MemoryError(
                f"a single sequence of {batch.token_count} tokens does not fit into memory; lower max_length"
            ) from error
    # Outside the handler: there the traceback would still hold the failed forward's arrays.
    logger.info("%d tokens did not fit into memory and are run in halves", batch.token_count)
    return np.concatenate([forward_in_memory(engine, half) for half in halves(batch)])


def forward_chunks(
    engine: Engine,
    blocks: Iterable[Batch],
    *,
    token_budget: int,
    max_sequences: int | None = None,
    advance: Callable[[int], object] = lambda _count: None,
) -> list[FloatArray]:
    """The engine's outputs [S, L] for each block of sequences (at least one in each), in the order of its `rows`.

    Where the engine can run beside Python, the next block is asked for (and so tokenised) while up to `IN_FLIGHT`
    batches are being computed. `advance` hears of finished sequences.
    """
    # Asking `isinstance(engine, StartingEngine)` takes 9 us, a hundredth of a GPU's time for 100 documents.
    start: Callable[[Batch], Any] | None = getattr(engine, "start", None)
    in_flight: int = getattr(engine, "in_flight", IN_FLIGHT)
    sizes: list[int] = []
    outputs: list[FloatArray] = []
    waiting: deque[tuple[int, Batch, Any]] = deque()

    def finish_oldest() -> None:
        number, batch, begun = waiting.popleft()
        found = forward_in_memory(engine, batch, begun)
        if number == len(outputs):  # the first batch of its block
            outputs.append(np.empty((sizes[number], found.shape[1]), np.float32))
        outputs[number][batch.rows] = found
        advance(len(batch))

    for number, block in enumerate(blocks):
        sizes.append(len(block))
        for batch in batches(block, token_budget, max_sequences):
            waiting.append((number, batch, start(batch) if start else None))
            if len(waiting) > in_flight:
                finish_oldest()
    while waiting:
        finish_oldest()
    return outputs


def forward_all(
    engine: Engine,
    sequences: Sequence[Encoded],
    *,
    token_budget: int,
    max_sequences: int | None = None,
    shows_progress: bool = False,
) -> FloatArray:
    """The engine's outputs for all sequences (at least one) in their order, [N, L]."""
    assert sequences, "callers answer an empty input themselves"
    with progress(len(sequences), shows_progress) as bar:
        return forward_chunks(
            engine,
            [longest_first_block(sequences)],
            token_budget=token_budget,
            max_sequences=max_sequences,
            advance=bar.update,
        )[0]


class _NoBar:
    """Takes the place of a progress bar that nobody wants to see."""

    total = 0

    def update(self, _count: int) -> None:
        pass


@contextmanager
def progress(total: int, is_shown: bool) -> Iterator[Any]:
    """A tqdm bar over `total` sequences, or what looks like one."""
    if not is_shown:
        yield _NoBar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Scoring", unit="seq") as bar:
        yield bar
