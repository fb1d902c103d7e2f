"""The pairs that are scored: natural-questions, the user's own, or a stand-in of the same lengths."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.bench.prose import sample_text
from runoff.contracts import InputError, Pair, RunoffError

NATURAL_QUESTIONS = "sentence-transformers/natural-questions"
"""The article's pairs: columns `query` and `answer`, a paragraph each."""

MEAN, MEDIAN, CAP = 148, 112, 512
"""Tokens of natural-questions' pairs, cut at `CAP`: what the stand-in's log-normal is fitted to."""

LONGEST = 4 * CAP  # documents are as long as they are; what is over the limit is cut by each engine
SHORTEST = 16
QUERY_WORDS = (7, 12)


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs to score and where they come from: "natural-questions", "stand-in" or a file's name."""

    pairs: list[Pair]
    source: str

    @property
    def digest(self) -> str:
        """Eight letters that differ between two sets."""
        return hashlib.sha256(json.dumps(self.pairs).encode()).hexdigest()[:8]


@cache
def spread() -> float:
    """Sigma of the log-normal of median `MEDIAN` whose mean, capped at `CAP`, is `MEAN`."""
    low, high = 0.1, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = np.minimum(_quantiles(10_000, middle), CAP).mean()
        low, high = (middle, high) if mean < MEAN else (low, middle)
    return low


def _quantiles(count: int, sigma: float) -> npt.NDArray[np.float64]:
    """`count` lengths at even steps of the distribution, shortest first."""
    normal = statistics.NormalDist()
    steps = [normal.inv_cdf((row + 0.5) / count) for row in range(count)]
    lengths: npt.NDArray[np.float64] = MEDIAN * np.exp(sigma * np.array(steps))
    return lengths


def drawn_lengths(count: int, seed: int = 1) -> npt.NDArray[np.int64]:
    """Tokens of each of `count` pairs, special ones included, in a random order."""
    lengths = np.clip(np.round(_quantiles(count, spread())), SHORTEST, LONGEST).astype(np.int64)
    return np.random.default_rng(seed).permutation(lengths)


def made_pairs(folder: Path, count: int, seed: int = 1) -> list[Pair]:
    """`count` stand-in pairs for the checkpoint in `folder`, each with a query of its own."""
    generator = np.random.default_rng([seed, 1])
    cutter = Cutter(folder)
    return [cutter.pair(int(length), generator) for length in drawn_lengths(count, seed)]


def made_request(folder: Path, documents: int, tokens: int, seed: int) -> list[Pair]:
    """One query with `documents` documents, each pair of `tokens` tokens give or take a fifth."""
    generator = np.random.default_rng([seed, 2])
    cutter = Cutter(folder)
    query = cutter.query(generator)
    lengths = generator.integers(math.ceil(tokens * 0.8), math.floor(tokens * 1.2) + 1, documents)
    return [cutter.pair(int(length), generator, query) for length in lengths]


class Cutter:
    """Makes texts of so many tokens as a checkpoint's tokenizer counts them."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _tokenizer(folder)

    def query(self, generator: np.random.Generator) -> str:
        return sample_text(int(generator.integers(*QUERY_WORDS)), generator)

    def pair(self, length: int, generator: np.random.Generator, query: str | None = None) -> Pair:
        """A pair of `length` tokens in all; a query longer than that is cut to half of it."""
        query = self._cut(query or self.query(generator), max(length // 2, 1))
        taken = len(self._tokenizer.encode(query, "").ids)
        wanted = max(length - taken, 1)
        return query, self._cut(sample_text(wanted + 8, generator), wanted)

    def _cut(self, text: str, tokens: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def token_counts(folder: Path, pairs: Sequence[Pair], limit: int = CAP) -> npt.NDArray[np.int64]:
    """Tokens of each pair as an engine with that limit sees them. [N]"""
    tokenizer = _tokenizer(folder)
    tokenizer.enable_truncation(limit)
    return np.array([len(each.ids) for each in tokenizer.encode_batch(list(pairs))], np.int64)


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def described(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What a result line says of its pairs' lengths."""
    return {
        "pairs": len(counts),
        "tokens": int(counts.sum()),
        "mean_tokens": round(float(counts.mean()), 1),
        "median_tokens": float(np.median(counts)),
        "most_tokens": int(counts.max()),
    }


# --- natural-questions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NaturalQuestions:
    """Pairs of natural-questions as far as they are known here, or why they are not (`obstacle`)."""

    pairs: list[Pair]
    obstacle: str = ""


def natural_questions(count: int, datasets: Any) -> NaturalQuestions:
    """The first `count` pairs by `datasets` (a `contracts.Datasets`); where that fails, none and the reason."""
    try:
        from pyarrow import parquet
    except ImportError:
        return NaturalQuestions([], "pyarrow is not installed (pip install 'runoff[search]')")
    try:
        listing = datasets.listing(NATURAL_QUESTIONS, None)
        splits = next(iter(listing.configs.values()), None)
        files = splits.get("train", ()) if splits else ()
        pairs: list[Pair] = []
        for file in files:
            table = parquet.read_table(datasets.fetch(NATURAL_QUESTIONS, file, listing.commit))
            queries, answers = (table.column(name).to_pylist() for name in ("query", "answer"))
            pairs += zip(queries, answers, strict=True)
            if len(pairs) >= count:
                break
    except (RunoffError, OSError, KeyError) as error:
        return NaturalQuestions([], " ".join(str(error).split()))
    except Exception as error:  # what the hub's HTTP client raises depends on its version
        return NaturalQuestions([], f"{type(error).__name__}: {error}")
    return NaturalQuestions(pairs[:count], "" if pairs else "it holds no training rows")


def first_pairs(pairs: Sequence[Pair], count: int, source: str) -> list[Pair]:
    """The first `count` of the pairs; `InputError` where there are fewer."""
    if len(pairs) < count:
        raise InputError(
            f"{source} holds {len(pairs)} pairs, {count} were asked for: give more, or --count {len(pairs)}"
        )
    return list(pairs[:count])
