"""int8 is used by itself only where it gives the scores that bf16 gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder, Embedder, model, selfcheck
from runoff.contracts import Batch, FloatArray
from runoff.engine import choose
from runoff.engine.native import native_module
from runoff.model import ModelOptions, find, load_native_tokenizer
from runoff.selfcheck import LARGEST_NOISE, check_batch, check_pairs, noise

Tiny = Callable[[str], Path]


class Outputs:
    """An engine that gives these outputs."""

    name, precision = "fixed", "none"

    def __init__(self, outputs: Any) -> None:
        self._outputs = np.asarray(outputs, np.float32)

    def forward(self, batch: Batch) -> FloatArray:
        return self._outputs


@pytest.fixture
def reranker(tiny: Tiny) -> tuple[Any, Batch]:
    found = find(tiny("bert"), "reranker", ModelOptions())
    assert found.checkpoint is not None
    return found.checkpoint, check_batch(found.checkpoint, load_native_tokenizer(found, ModelOptions()))


def test_the_pairs_are_answers_near_misses_and_answers_to_other_questions() -> None:
    pairs = check_pairs()
    assert len(pairs) == len(set(pairs)) == 24
    assert len({query for query, _ in pairs}) == 6


def test_noise_is_the_spread_of_the_differences_over_that_of_the_scores(reranker: tuple[Any, Batch]) -> None:
    checkpoint, batch = reranker
    scores = np.array([[0.0], [2.0], [4.0]])
    differences = np.array([[0.1], [-0.2], [0.1]])
    expected = differences.std() / scores.std()
    found = noise(checkpoint, Outputs(scores), Outputs(scores + differences), batch)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_constant_shift_is_no_noise_since_no_order_changes(reranker: tuple[Any, Batch]) -> None:
    checkpoint, batch = reranker
    scores = np.array([[0.0], [2.0], [4.0]])
    assert noise(checkpoint, Outputs(scores), Outputs(scores + 1), batch) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_never_passes(bad: float, reranker: tuple[Any, Batch]) -> None:
    checkpoint, batch = reranker
    scores = np.array([[0.0], [2.0], [4.0]])
    found = noise(checkpoint, Outputs(scores), Outputs([[0.0], [bad], [4.0]]), batch)
    assert found == float("inf")


def has_fast_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best kernels of this processor, as if they had int8 instructions."""
    module = native_module()
    assert module is not None
    can = module.describe("") | {"has_fast_i8": True, "has_fast_i16": True}
    monkeypatch.setattr(choose, "kernels", lambda isa: can)
    monkeypatch.delenv("RUNOFF_PRECISION", raising=False)


@pytest.mark.parametrize(("measured", "precision"), [(LARGEST_NOISE, "int8"), (LARGEST_NOISE * 1.01, "bf16")])
def test_the_measured_noise_decides_between_int8_and_bf16(
    measured: float, precision: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_fast_int8(monkeypatch)
    monkeypatch.setattr(model, "noise", lambda *_arguments: measured)
    choice = CrossEncoder(tiny("bert")).choice
    assert (choice.precision, choice.is_on_trial) == (precision, False)
    assert f"{measured:.1%}" in choice.reason
    assert f"{LARGEST_NOISE:.0%}" in choice.reason


@pytest.mark.parametrize(
    ("kind", "name"), [(CrossEncoder, "bert"), (CrossEncoder, "ettin"), (Embedder, "bert-embedder")]
)
def test_the_self_check_runs_on_a_real_model(
    kind: type, name: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_fast_int8(monkeypatch)
    seen = []

    def watched(*arguments: Any) -> float:
        seen.append(selfcheck.noise(*arguments))
        return seen[-1]

    monkeypatch.setattr(model, "noise", watched)
    choice = kind(tiny(name)).choice
    assert 0 < seen[0] < 1
    assert choice.precision == ("int8" if seen[0] <= LARGEST_NOISE else "bf16")
