"""Pairs -> raw outputs, tokenised while the pairs before them are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runoff.contracts import CutReport, Encoded, FloatArray, LengthRules, TokenIds
from runoff.model import NativeModel
from runoff.text.batching import forward_chunks, progress
from runoff.text.pairs import EncodedPairs, encode_pairs

# Pairs tokenised at a time. The first few are quick, so that scoring begins; later chunks are large enough for
# the tokenizer to use all cores.
FIRST_CHUNK = 16
LARGEST_CHUNK = 128


def pair_outputs(
    native: NativeModel,
    pairs: Sequence[tuple[str, str | TokenIds] | str],
    prompt: str,
    rules: LengthRules,
    *,
    token_budget: int | None = None,
    batch_size: int | None = None,
    shows_progress: bool = False,
) -> tuple[FloatArray, CutReport]:
    """Head outputs [N, L] of at least one pair, in order, and what was cut. Raises what `encode_pairs` raises."""
    encoded: list[EncodedPairs] = []
    with progress(len(pairs), shows_progress) as bar:

        def sequences() -> Iterator[list[Encoded]]:
            for first, last in _chunks(len(pairs)):
                part = encode_pairs(native.tokenizer, pairs[first:last], prompt, rules, first)
                # Long documents become several sequences, equal pairs one.
                bar.total += len(part.sequences) - (last - first)
                encoded.append(part)
                yield part.sequences

        outputs = forward_chunks(
            native.engine,
            sequences(),
            token_budget=native.engine.token_budget if token_budget is None else token_budget,
            max_sequences=batch_size,
            advance=bar.update,
        )
    scores = [part.scores_of_pairs(rows) for part, rows in zip(encoded, outputs, strict=True)]
    return np.concatenate(scores), _total([part.cut for part in encoded])


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    start, size = 0, FIRST_CHUNK
    while start < count:
        yield start, min(count, start + size)
        start, size = start + size, min(2 * size, LARGEST_CHUNK)


def _total(cuts: list[CutReport]) -> CutReport:
    return CutReport(
        sum(cut.pairs for cut in cuts),
        sum(cut.cut_pairs for cut in cuts),
        sum(cut.cut_tokens for cut in cuts),
        cuts[0].max_length,
    )
