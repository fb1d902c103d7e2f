"""Vectors of texts: of length 1, and kept, so that a text that comes again is not embedded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runoff.contracts import FloatArray


def unit_vectors(vectors: Any) -> FloatArray:
    """Rows [N, D] of length 1, fp32; a row of zeros stays one."""
    found = np.asarray(vectors, np.float32)
    norms = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12).astype(np.float32)
    unit: FloatArray = found / norms
    return unit


class KeptVectors:
    """Unit vectors of texts; the newest are kept, `kept_bytes` of them."""

    def __init__(self, embed: Callable[[list[str]], Any], kept_bytes: int) -> None:
        self._embed, self._kept_bytes = embed, kept_bytes
        self._kept: dict[str, FloatArray] = {}

    def of(self, texts: Sequence[str]) -> FloatArray:
        """[N, D]."""
        if fresh := [text for text in dict.fromkeys(texts) if text not in self._kept]:
            self._kept.update(zip(fresh, unit_vectors(self._embed(fresh)), strict=True))
        found: FloatArray = np.stack([self._kept[text] for text in texts])
        room = self._kept_bytes // max(1, found.shape[1] * found.itemsize)
        for text in list(self._kept)[: max(0, len(self._kept) - room)]:
            del self._kept[text]
        return found
