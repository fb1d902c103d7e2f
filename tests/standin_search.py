"""Stand-ins for search: a reranker that counts shared words, an embedder that hashes them. No torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from runoff.contracts import Document, FloatArray, TokenIds


class SharedWords:
    """Scores a document by how many of the query's words it has, over its length: readable by hand."""

    def __init__(self, name: str = "shared-words", fingerprint: str | None = "words-by-crc32") -> None:
        self.name = name
        self.tokenizer_fingerprint = fingerprint
        self.texts_tokenised = 0
        self.documents_scored = 0

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        self.texts_tokenised += len(texts)
        return [
            np.array(
                [zlib.crc32(f"{self.name}{word}".encode()) >> 1 for word in text.lower().split()], np.int32
            )
            for text in texts
        ]

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
        self.documents_scored += len(documents)
        words = set(self.tokenize([query])[0].tolist())
        tokens = [self.tokenize([each])[0] if isinstance(each, str) else each for each in documents]
        shared = [len(words & set(ids.tolist())) - len(ids) / 1000 for ids in tokens]
        return np.array(shared, dtype=np.float32)


class WordHashes:
    """Vectors of word counts, each word in the column its CRC chooses."""

    def __init__(self, name: str = "word-hashes", dimension: int = 16) -> None:
        self.name = name
        self.dimension = dimension

    def encode_query(self, inputs: str) -> FloatArray:
        return self.encode_document([inputs])[0]

    def encode_document(self, inputs: Sequence[str]) -> FloatArray:
        vectors = np.zeros((len(inputs), self.dimension), dtype=np.float32)
        for row, text in enumerate(inputs):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.encode()) % self.dimension] += 1.0
        return vectors


WORDS = [
    "river",
    "harbour",
    "lantern",
    "meadow",
    "copper",
    "violin",
    "glacier",
    "orchard",
    "compass",
    "thunder",
]
WORDS += ["marble", "falcon", "saddle", "whisper", "canyon", "ember", "cradle", "pepper", "anchor", "willow"]


def numbered_documents(count: int, first: int = 0) -> Iterator[Document]:
    """Documents d0, d1, ... whose words follow from their number; year 2000 to 2009, lang en or de."""
    for number in range(first, first + count):
        words = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 7)]
        yield Document(
            id=f"d{number}",
            text=f"{' '.join(words)} number{number}",
            source="numbers",
            place=f"line {number + 1}",
            metadata={"year": 2000 + number % 10, "lang": "en" if number % 3 else "de"},
        )


def worded(count: int, word: str) -> Iterator[Document]:
    """The first `count` numbered documents with `word` at the end of each text."""
    for document in numbered_documents(count):
        yield replace(document, text=f"{document.text} {word}")
