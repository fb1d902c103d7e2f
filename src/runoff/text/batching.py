"""`Encoded` -> packed `Batch`es under a token budget, and scores back into the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from runoff.contracts import Batch, Encoded, Engine, FloatArray, InputError


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


def forward_all(
    engine: Engine,
    sequences: Sequence[Encoded],
    *,
    token_budget: int,
    max_sequences: int | None = None,
    shows_progress: bool = False,
) -> FloatArray:
    """The engine's outputs for all sequences (at least one) in their order, [N, L]."""
    outputs: FloatArray | None = None
    with _progress(len(sequences), shows_progress) as advance:
        for batch in batches(sequences, token_budget, max_sequences):
            part = engine.forward(batch)
            if outputs is None:
                outputs = np.empty((len(sequences), part.shape[1]), np.float32)
            outputs[batch.rows] = part
            advance(len(batch))
    assert outputs is not None, "callers answer an empty input themselves"
    return outputs


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    if not is_shown:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Scoring", unit="seq") as bar:
        yield bar.update
