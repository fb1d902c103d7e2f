"""Several ranked lists -> one: reciprocal rank fusion and z-score fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runoff.contracts import InputError
from runoff.ranking import z_scores

FusionRule = Literal["rrf", "zscore"]

Scores = Mapping[str, float]
"""One retriever's list: id -> score, best first."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How lists become one. `weights`: one per list, None for equal; `rrf_k`: as in Cormack et al., 2009."""

    rule: FusionRule = "rrf"
    weights: tuple[float, ...] | None = None
    rrf_k: int = 60

    def __post_init__(self) -> None:
        if self.rule not in ("rrf", "zscore"):
            raise InputError(f'expected fusion "rrf" or "zscore", got {self.rule!r}')

    def fused(self, lists: Sequence[Scores]) -> dict[str, float]:
        """id -> fused score, in the order of first appearance: rank them with `ranking.rank_scores`."""
        weights = self.weights or (1.0,) * len(lists)
        if len(weights) != len(lists):
            raise InputError(f"expected {len(lists)} fusion weights, one per retriever, got {len(weights)}")
        fused = {id: 0.0 for each in lists for id in each}
        for scores, weight in zip(lists, weights, strict=True):
            if scores:
                shares = self._rank_shares(scores) if self.rule == "rrf" else _z_shares(scores, fused)
                for id, share in shares.items():
                    fused[id] += weight * share
        return fused

    def _rank_shares(self, scores: Scores) -> dict[str, float]:
        return {id: 1.0 / (self.rrf_k + rank) for rank, id in enumerate(scores, start=1)}


def _z_shares(scores: Scores, all_ids: Mapping[str, float]) -> dict[str, float]:
    """A document that the list lacks gets the list's lowest z: it scored at most that, since the list is
    the top K; zero would place it above half of the documents that were found."""
    z = dict(zip(scores, z_scores(list(scores.values())), strict=True))
    lowest = min(z.values())
    return {id: float(z.get(id, lowest)) for id in all_ids}
