"""Which checkpoints benchmarks/parity.py measures, and the queries and documents of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import standins
from standin_texts import Candidates, sample_candidates, sample_text

# The prose makes about 1.65 tokens a word with the stand-ins' byte-level pieces.
UP_TO_4K_TOKENS = (0, 150, 300, 600, 1000, 1500, 2500)
UP_TO_8K_TOKENS = (*UP_TO_4K_TOKENS, 4850)


@dataclass(frozen=True)
class Case:
    """One checkpoint: how it is built, what it scores, and whether `--quick` includes it."""

    name: str
    build: Callable[[Path], Path]
    query_count: int = 20
    document_count: int = 25
    longest_words: int = 200
    climbing_words: tuple[int, ...] = UP_TO_4K_TOKENS
    has_tricky_pairs: bool = True
    is_small: bool = True
    is_quick: bool = False
    is_embedder: bool = False

    def settings(self, is_quick: bool) -> dict[str, Any]:
        """What must be equal for a recorded line to be this measurement."""
        return {
            "form": "quick" if is_quick else "full",
            "queries": self.query_count,
            "documents": self.document_count,
            "longest_words": self.longest_words,
            "climbing_words": list(self.climbing_words),
        }

    def in_quick_form(self) -> Case:
        return Case(
            self.name, self.build, 4, 10, 200, self.climbing_words and (0, 600), is_embedder=self.is_embedder
        )

    def candidates(self) -> list[Candidates]:
        """The queries and their documents, the climbing ones last."""
        sampled = sample_candidates(self.query_count, self.document_count, longest_words=self.longest_words)
        generator = np.random.default_rng(21)
        texts = tuple(sample_text(words, generator) for words in self.climbing_words)
        return [*sampled, Candidates(sample_text(12, generator), texts)] if texts else sampled


def _ettin(size: str, **options: Any) -> Case:
    return Case(f"ettin-reranker-{size}", partial(standins.build_ettin_reranker, size=size), **options)


_FEW = {"query_count": 3, "document_count": 10, "climbing_words": (), "has_tricky_pairs": False}

CASES = (
    _ettin("17m", longest_words=2400, climbing_words=UP_TO_8K_TOKENS, is_quick=True),
    _ettin("32m", longest_words=2400, climbing_words=UP_TO_8K_TOKENS),
    _ettin("68m", longest_words=600, climbing_words=UP_TO_8K_TOKENS),
    _ettin("150m", climbing_words=UP_TO_8K_TOKENS),
    _ettin("400m", is_small=False, **_FEW),
    _ettin("1b", is_small=False, **_FEW),
    Case("bert, ms-marco-MiniLM-L6 shape", standins.build_bert_classifier, is_quick=True),
    Case("all-MiniLM-L6-v2 (real) with a random head", standins.build_minilm_reranker, is_quick=True),
    Case(
        "roberta, 6 layers of 768",
        partial(standins.build_roberta_classifier, shape=standins.EncoderShape(768, 6, 3072, 12)),
    ),
    Case(
        "xlm-roberta, bge-reranker-base shape",
        partial(standins.build_xlm_roberta_classifier, vocab_size=250002),
    ),
    Case("modernbert classifier, cls, 150m shape", standins.build_modernbert_classifier),
    Case(
        "modernbert classifier, mean, 32m shape",
        partial(standins.build_modernbert_classifier, size="32m", pooling="mean"),
        longest_words=600,
        climbing_words=UP_TO_8K_TOKENS,
    ),
    Case("static-retrieval-mrl-en-v1 shape", standins.build_static_embedder, is_embedder=True, is_quick=True),
    Case(
        "model2vec, 256 dimensions",
        partial(standins.build_model2vec_embedder, dimension=256),
        is_embedder=True,
    ),
    Case("all-MiniLM-L6-v2 (real)", lambda _: standins.minilm_folder(), is_embedder=True, is_quick=True),
    Case(
        "bge-small-en-v1.5 shape",
        partial(
            standins.build_encoder_embedder,
            kind="bert",
            pooling="cls",
            shape=standins.EncoderShape(384, 12, 1536, 12),
        ),
        is_embedder=True,
    ),
    Case(
        "modernbert embedder, mean, 32m shape",
        partial(
            standins.build_encoder_embedder,
            kind="modernbert",
            pooling="mean",
            shape=standins.ETTIN_SHAPES["32m"],
        ),
        climbing_words=UP_TO_8K_TOKENS,
        is_embedder=True,
    ),
)
