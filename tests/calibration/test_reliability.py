"""Errors of probabilities: by hand, and by scikit-learn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from runoff.calibration.reliability import (
    ReliabilityBin,
    Threshold,
    brier_score,
    draw,
    expected_calibration_error,
    reliability_bins,
    threshold_for,
)
from standin_calibration import drawn

PAIRS = drawn(seed=9)
PROBABILITIES = 1.0 / (1.0 + np.exp(-PAIRS.scores))


def test_the_brier_score_is_scikit_learns() -> None:
    assert brier_score(PROBABILITIES, PAIRS.relevant) == pytest.approx(
        brier_score_loss(PAIRS.relevant, PROBABILITIES)
    )


@pytest.mark.parametrize(("equal", "strategy"), [("mass", "quantile"), ("width", "uniform")])
def test_bins_are_scikit_learns(equal: str, strategy: str) -> None:
    shares, means = calibration_curve(PAIRS.relevant, PROBABILITIES, n_bins=15, strategy=strategy)
    found = reliability_bins(PROBABILITIES, PAIRS.relevant, equal=equal)
    assert [each.relevant for each in found] == pytest.approx(shares.tolist(), abs=0.01)
    assert [each.probability for each in found] == pytest.approx(means.tolist(), abs=0.01)
    assert sum(each.pairs for each in found) == len(PROBABILITIES)
    if equal == "mass":
        assert {each.pairs for each in found} == {200}


def test_the_error_by_hand() -> None:
    probabilities, relevant = [0.1, 0.2, 0.6, 0.8], [0, 1, 1, 1]
    assert reliability_bins(probabilities, relevant, bins=2) == [
        ReliabilityBin(2, pytest.approx(0.15), 0.5),
        ReliabilityBin(2, pytest.approx(0.7), 1.0),
    ]
    assert expected_calibration_error(probabilities, relevant, bins=2) == pytest.approx(
        0.5 * 0.35 + 0.5 * 0.3
    )


def test_probabilities_that_come_true_have_no_error() -> None:
    probabilities = np.repeat([0.0, 0.25, 1.0], [100, 100, 50])
    relevant = np.concatenate([np.zeros(100), np.arange(100) < 25, np.ones(50)])
    assert expected_calibration_error(probabilities, relevant) == 0.0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]), st.booleans()), min_size=1))
def test_equal_probabilities_share_a_bin(pairs: list[tuple[float, bool]]) -> None:
    values, flags = (np.array(part) for part in zip(*pairs, strict=True))
    found = reliability_bins(values, flags, bins=4)
    assert sum(each.pairs for each in found) == len(values)
    assert len(found) <= min(4, len(set(values)))
    for low, high in pairwise(found):
        assert low.probability < high.probability


def test_the_lowest_threshold_of_a_precision_by_hand() -> None:
    probabilities = np.repeat([0.9, 0.7, 0.5, 0.1], [20, 20, 20, 40])
    relevant = np.concatenate([np.arange(20) < 18, np.arange(20) < 14, np.arange(20) < 1, np.arange(40) < 3])
    assert threshold_for(probabilities, relevant, 0.9) == Threshold(0.9, 0.9, 20, 0.5)
    assert threshold_for(probabilities, relevant, 0.8) == Threshold(0.7, 0.8, 40, 32 / 36)
    assert threshold_for(probabilities, relevant, 0.5) == Threshold(0.5, 0.55, 60, 33 / 36)
    assert threshold_for(probabilities, relevant, 0.95) is None


def test_a_precision_of_a_handful_of_pairs_is_not_told() -> None:
    assert threshold_for(np.repeat([0.9, 0.1], [19, 400]), np.repeat([1, 0], [19, 400]), 0.9) is None


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_diagram_is_a_picture(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    series = {"before": PROBABILITIES, "after": np.full(len(PROBABILITIES), PAIRS.relevant.mean())}
    draw(series, PAIRS.relevant, tmp_path / "draft", kind)
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert (tmp_path / "draft").read_bytes().startswith(begins[kind])
