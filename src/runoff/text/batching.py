"""`Encoded` -> packed `Batch`es under a token budget, and scores back into the caller's order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runoff.contracts import Batch, Encoded, Engine, FloatArray, InputError, StartingEngine

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
"""Batches that are begun before the oldest one's outputs are waited for: what is packed of a large input at a time."""


def pack(sequences: Sequence[Encoded], rows: Sequence[int]) -> Batch:
    """The sequences end to end; `rows` are their places in the caller's order."""
    lengths = np.fromiter((len(sequence.ids) for sequence in sequences), np.int32, len(sequences))
    offsets = np.zeros(len(sequences) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    positions = np.arange(offsets[-1], dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    return Batch(
        ids=np.concatenate([sequence.ids for sequence in sequences]),
        type_ids=np.concatenate([sequence.type_ids for sequence in sequences]),
        positions=positions,
        offsets=offsets,
        rows=np.asarray(rows, dtype=np.int64),
    )


def batches(
    sequences: Sequence[Encoded], token_budget: int, max_sequences: int | None = None
) -> Iterator[Batch]:
    """Packed batches of at most `token_budget` tokens (a longer sequence goes alone), longest first.

    Longest first shows a lack of memory at once and makes progress bars pessimistic rather than hopeful;
    neighbours of like length share the attention's working set.
    """
    if token_budget <= 0:
        raise InputError(f"token_budget must be a positive number of tokens, got {token_budget}")
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row].ids))
    chosen: list[int] = []
    token_count = 0
    for row in order:
        length = len(sequences[row].ids)
        is_full = token_count + length > token_budget or len(chosen) == max_sequences
        if chosen and is_full:
            yield pack([sequences[i] for i in chosen], chosen)
            chosen, token_count = [], 0
        chosen.append(row)
        token_count += length
    if chosen:
        yield pack([sequences[i] for i in chosen], chosen)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first and the second half of a batch's sequences (at least two), each packed again."""
    middle = len(batch) // 2
    cut = int(batch.offsets[middle])
    first = Batch(
        batch.ids[:cut],
        batch.type_ids[:cut],
        batch.positions[:cut],
        batch.offsets[: middle + 1],
        batch.rows[:middle],
    )
    second = Batch(
        batch.ids[cut:],
        batch.type_ids[cut:],
        batch.positions[cut:],
        batch.offsets[middle:] - batch.offsets[middle],
        batch.rows[middle:],
    )
    return first, second


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
    chunks: Iterable[Sequence[Encoded]],
    *,
    token_budget: int,
    max_sequences: int | None = None,
    advance: Callable[[int], object] = lambda _count: None,
) -> list[FloatArray]:
    """The engine's outputs [N, L] for each chunk of sequences (at least one in each), in their order.

    Where the engine can run beside Python, the next chunk is asked for (and so tokenised) while up to `IN_FLIGHT`
    batches are being computed. `advance` hears of finished sequences.
    """
    start = engine.start if isinstance(engine, StartingEngine) else None
    sizes: list[int] = []
    outputs: list[FloatArray] = []
    waiting: deque[tuple[int, Batch, Any]] = deque()

    def finish_oldest() -> None:
        number, batch, begun = waiting.popleft()
        part = forward_in_memory(engine, batch, begun)
        if number == len(outputs):  # the first batch of its chunk
            outputs.append(np.empty((sizes[number], part.shape[1]), np.float32))
        outputs[number][batch.rows] = part
        advance(len(batch))

    for number, sequences in enumerate(chunks):
        sizes.append(len(sequences))
        for batch in batches(sequences, token_budget, max_sequences):
            waiting.append((number, batch, start(batch) if start else None))
            if len(waiting) > IN_FLIGHT:
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
            engine, [sequences], token_budget=token_budget, max_sequences=max_sequences, advance=bar.update
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
