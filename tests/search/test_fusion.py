"""Fusion: the sums, by hand."""

from __future__ import annotations

import math

import pytest

from runoff.contracts import InputError
from runoff.search.fusion import Fusion, z_scores

WORDS = {"a": 9.0, "b": 6.0, "c": 3.0}
VECTORS = {"c": 0.9, "d": 0.5}


def test_reciprocal_rank_fusion_adds_one_over_k_plus_rank() -> None:
    assert Fusion("rrf").fused([WORDS, VECTORS]) == {
        "a": 1 / 61,
        "b": 1 / 62,
        "c": 1 / 63 + 1 / 61,
        "d": 1 / 62,
    }


def test_rrf_weights_and_k_are_used() -> None:
    fused = Fusion("rrf", weights=(2.0, 0.5), rrf_k=0).fused([WORDS, VECTORS])
    assert fused == {"a": 2.0, "b": 1.0, "c": 2 / 3 + 0.5, "d": 0.25}


def test_z_scores_are_in_standard_deviations() -> None:
    # Mean 6, standard deviation sqrt((9 + 0 + 9) / 3) = sqrt(6).
    assert z_scores([9.0, 6.0, 3.0]).tolist() == pytest.approx([3 / math.sqrt(6), 0.0, -3 / math.sqrt(6)])
    assert z_scores([5.0, 5.0]).tolist() == [0.0, 0.0]
    assert z_scores([]).tolist() == []
    # Equal but for rounding: nothing to blow up.
    assert z_scores([1e8, 1e8 + 1e-8]).tolist() == [0.0, 0.0]


def test_z_score_fusion_gives_a_missing_document_the_lowest_z_of_the_list() -> None:
    high = 3 / math.sqrt(6)
    fused = Fusion("zscore").fused([WORDS, VECTORS])
    assert fused == pytest.approx({"a": high - 1, "b": -1.0, "c": -high + 1, "d": -high - 1})


def test_an_empty_list_adds_nothing() -> None:
    assert Fusion("zscore").fused([{}, {"a": 2.0, "b": 1.0}]) == pytest.approx({"a": 1.0, "b": -1.0})
    assert Fusion("rrf").fused([{}, {}]) == {}


def test_an_unknown_rule_and_a_wrong_number_of_weights_are_refused() -> None:
    with pytest.raises(InputError, match="zscore"):
        Fusion("sum")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 2 fusion weights, one per retriever, got 1"):
        Fusion("rrf", weights=(1.0,)).fused([WORDS, VECTORS])
