"""The figures of the release article "Introducing the Ettin Reranker Family" (May 2026), as data to stand beside ours.

Its protocol: pairs of natural-questions at their natural lengths, max_length 512, the best attention of each model,
batches of 8 doubled until memory runs out, three timed passes per size, median, best size.
"""

from __future__ import annotations

from collections.abc import Mapping

from runoff.bench.shapes import ETTIN

SOURCE = "release article"

H100, RTX_3090, I7 = "H100 80GB", "RTX 3090", "i7-13700K"

_PEERS_H100 = {
    "MiniLM-L4": 4029.0,
    "MiniLM-L6": 3817.0,
    "MiniLM-L12": 3311.0,
    "bge-reranker-base": 2858.0,
    "bge-reranker-large": 1659.0,
    "bge-reranker-v2-m3": 1569.0,
    "gte-reranker-modernbert-base": 1418.0,
    "granite-embedding-reranker-english-r2": 1404.0,
    "mxbai-rerank-xsmall-v1": 2636.0,
    "mxbai-rerank-base-v1": 1953.0,
    "mxbai-rerank-large-v1": 867.0,
    "mxbai-rerank-base-v2": 809.0,
    "mxbai-rerank-large-v2": 387.0,
}


def _sizes(*rates: float) -> dict[str, float]:
    return dict(zip(ETTIN, rates, strict=True))


THROUGHPUT: Mapping[str, Mapping[str, float]] = {
    H100: _sizes(7517, 6602, 4913, 3237, 1738, 928) | _PEERS_H100,
    RTX_3090: _sizes(9008, 4497, 1916, 982, 429, 189),
    I7: _sizes(267.4, 92.5, 31.2, 14.0, 5.2, 2.1)
    | {"MiniLM-L4": 206.2, "MiniLM-L6": 143.9, "MiniLM-L12": 75.9},
}
"""Machine -> model -> pairs a second: bf16 with the best attention on GPUs, fp32 with SDPA on the CPU."""

ABLATION: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
    "st-fp32": (_sizes(4402, 3307, 1364, 671, 266, 112), _sizes(0.8, 1.2, 1.0, 1.6, 2.5, 4.6)),
    "st-bf16": (_sizes(4523, 4357, 2861, 1942, 1113, 630), _sizes(2.2, 1.6, 2.2, 1.8, 1.8, 2.8)),
    "st-bf16-fa2-padded": (_sizes(3744, 3040, 2003, 1396, 864, 522), {}),
    "st-bf16-fa2": (_sizes(7517, 6602, 4913, 3237, 1738, 928), _sizes(1.4, 1.1, 1.5, 1.4, 2.2, 4.5)),
}
"""Engine of ours that means the same -> (pairs a second, peak GB) on the H100."""


def machine_for(device_name: str, device: str) -> str:
    """The article's machine to show beside this one: its CPU, its RTX 3090, or else its H100."""
    if device == "cpu":
        return I7
    return RTX_3090 if "3090" in device_name else H100
