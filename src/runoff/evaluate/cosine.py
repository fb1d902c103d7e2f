"""An embedder as a reranker: what a reranker has to beat, since its vectors are there anyway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runoff.contracts import FloatArray, TokenIds
from runoff.evaluate.stages import TextVectors
from runoff.text.vectors import KeptVectors, unit_vectors

KEPT_BYTES = 1 << 30
"""Vectors of documents that are kept: 700,000 of 384 numbers."""


class CosineScorer:
    """Scores documents by the cosine of their vector and the query's; a document is embedded once as long as its vector
    is kept."""

    tokenizer_fingerprint = None

    def __init__(self, embedder: TextVectors, name: str) -> None:
        self.name, self.embedder = name, embedder
        self._documents = KeptVectors(embedder.encode_document, KEPT_BYTES)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        raise NotImplementedError(f"an embedder is given texts, it was to tokenise {len(texts)}")

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
        """Cosines, [N]."""
        if not documents:
            return np.empty(0, np.float32)
        vectors = self._documents.of([str(document) for document in documents])
        found: FloatArray = vectors @ unit_vectors(self.embedder.encode_query([query]))[0]
        return found
