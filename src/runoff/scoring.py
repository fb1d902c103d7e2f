"""Pairs -> raw outputs, tokenised while the pairs before them are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runoff.contracts import Batch, CutReport, FloatArray, LengthRules, TokenIds
from runoff.engine.threads import allowed_cpus
from runoff.model import NativeModel
from runoff.text.batching import forward_chunks, progress
from runoff.text.chunks import AHEAD_FROM, FIRST_IDS, FIRST_TEXTS, Chunk, ChunkSizes, tokenized
from runoff.text.pairs import EncodedPairs, NewPairs, PairEncoder, cut_report, scores_of_pairs


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
    """Head outputs [N, L] of at least one pair, in order, and what was cut. Raises what `PairEncoder` raises."""
    budget = native.engine.token_budget if token_budget is None else token_budget
    encoder = PairEncoder(native.tokenizer, prompt, rules)
    has_texts = isinstance(pairs[0], str) or isinstance(pairs[0][1], str)
    sizes = ChunkSizes(FIRST_TEXTS if has_texts else FIRST_IDS, budget, len(allowed_cpus()))
    parts: list[EncodedPairs] = []

    def chunks() -> Iterator[Chunk[NewPairs]]:
        for first, last in sizes.spans(len(pairs)):
            new = encoder.prepare(pairs[first:last], first)
            yield Chunk(new.texts, 0, new)

    with progress(len(pairs), shows_progress) as bar:

        def blocks() -> Iterator[Batch]:
            runs_ahead = has_texts and len(pairs) >= AHEAD_FROM
            for new, ids in tokenized(native.tokenizer, chunks(), runs_ahead=runs_ahead):
                part = encoder.encode(new, ids)
                parts.append(part)
                # Long documents become several sequences, equal pairs one.
                bar.total += len(part.block) - len(part.distinct_pairs)
                if len(part.block):
                    tokens = max(part.block.token_count, sum(map(len, ids)))
                    sizes.learn(len(part.distinct_pairs), tokens)
                    yield part.block

        outputs = forward_chunks(
            native.engine, blocks(), token_budget=budget, max_sequences=batch_size, advance=bar.update
        )
    return scores_of_pairs(parts, outputs), cut_report(parts)
