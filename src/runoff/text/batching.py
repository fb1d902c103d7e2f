"""`Encoded` -> packed `Batch`es under a token budget, and scores back into the caller's order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runoff.contracts import Batch, Encoded, Engine, FloatArray, InputError, StartingEngine

logger = logging.getLogger(__name__)


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


def forward_in_memory(engine: Engine, batch: Batch) -> FloatArray:
    """The engine's outputs [B, L]; a batch too large for the memory that is free is run in halves.

    Raises `MemoryError` where a single sequence does not fit.
    """
    try:
        return engine.forward(batch)
    except MemoryError as error:
        if len(batch) == 1:
            raise MemoryError(
                f"a single sequence of {batch.token_count} tokens does not fit into memory; lower max_length"
            ) from error
    # Outside the handler: there the traceback would still hold the failed forward's arrays.
    logger.info("%d tokens did not fit into memory and are run in halves", batch.token_count)
    return np.concatenate([forward_in_memory(engine, half) for half in halves(batch)])


class _Later:
    """A forward that happens when its result is asked for: an engine that cannot run beside Python."""

    def __init__(self, engine: Engine, batch: Batch) -> None:
        self._engine, self._batch = engine, batch

    def result(self) -> FloatArray:
        return self._engine.forward(self._batch)


def forward_chunks(
    engine: Engine,
    chunks: Iterable[Sequence[Encoded]],
    *,
    token_budget: int,
    max_sequences: int | None = None,
    advance: Callable[[int], object] = lambda _count: None,
) -> list[FloatArray]:
    """The engine's outputs [N, L] for each chunk of sequences (at least one in each), in their order.

    A chunk is asked for while the one before it is being computed, where the engine can do that: so texts are
    tokenised meanwhile. `advance` hears of finished sequences.
    """
    outputs: list[FloatArray] = []
    waiting: list[tuple[Batch, Any]] = []

    def finish() -> None:
        if waiting:
            outputs.append(_collected(engine, waiting, advance))

    for sequences in chunks:
        begun = [
            (batch, engine.start(batch) if isinstance(engine, StartingEngine) else _Later(engine, batch))
            for batch in batches(sequences, token_budget, max_sequences)
        ]
        finish()
        waiting = begun
    finish()
    return outputs


def _collected(
    engine: Engine, begun: list[tuple[Batch, Any]], advance: Callable[[int], object]
) -> FloatArray:
    count = sum(len(batch) for batch, _ in begun)
    outputs: FloatArray | None = None
    for batch, forward in begun:
        try:
            part = forward.result()
        except MemoryError:
            part = None
        if part is None:  # outside the handler, whose traceback would hold the failed forward's arrays
            part = forward_in_memory(engine, batch)
        if outputs is None:
            outputs = np.empty((count, part.shape[1]), np.float32)
        outputs[batch.rows] = part
        advance(len(batch))
    assert outputs is not None, "callers answer an empty input themselves"
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
