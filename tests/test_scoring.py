"""Pairs are scored in chunks, tokenised meanwhile; nobody can tell from the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder, scoring
from runoff.contracts import InputError, TruncationError

Tiny = Callable[[str], Path]

WORDS = "the fuji apple was founded in a garden by many small red cars".split()  # noqa: SIM905


def pairs(count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [("red apple", " ".join(rng.choice(WORDS, rng.integers(1, 40)))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 48, 49, 130, 300])
@pytest.mark.parametrize("name", ["bert", "ettin"])
def test_scores_are_those_of_one_pair_at_a_time_bit_for_bit(name: str, count: int, tiny: Tiny) -> None:
    model = CrossEncoder(tiny(name))
    wanted = pairs(count)
    alone = [model.predict(pair) for pair in wanted[:: max(1, count // 8)]]
    assert model.predict(wanted)[:: max(1, count // 8)].tolist() == [float(score) for score in alone]


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_chunks_come_together_in_order_with_their_cuts(
    engine: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNOFF_ISA", "" if engine == "native" else "numpy")
    model = CrossEncoder(tiny("bert"), max_length=24)
    wanted = pairs(100)
    chunked = model.predict(wanted)
    monkeypatch.setattr(scoring, "FIRST_CHUNK", 1000)
    whole = model.predict(wanted)
    # numpy's products round a row by its place in the batch; the native ones do not
    np.testing.assert_allclose(chunked, whole, atol=3e-5 if engine == "numpy" else 0.0)
    assert chunked.cut == whole.cut
    assert chunked.cut.cut_pairs > 0
    assert chunked.cut.pairs == 100


def test_an_error_in_a_later_chunk_names_the_callers_row(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("bert"), max_length=32, truncation="error")
    wanted = [("red", "apple")] * 60
    wanted[57] = ("red", "apple " * 50)
    with pytest.raises(TruncationError, match="pair 57:"):
        model.predict(wanted)
    documents: list[Any] = ["apple"] * 60
    documents[41] = np.array([10**9])
    with pytest.raises(InputError, match="document 41:"):
        model.score("red", documents)
    assert np.isfinite(model.predict([("red", "apple")])).all()


def test_passages_in_several_chunks_keep_the_best_score_of_each_document(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("bert"), max_length=32, long_documents="passages")
    wanted = pairs(40)
    together = model.predict(wanted)
    assert together.tolist() == [float(model.predict(pair)) for pair in wanted]


def test_the_progress_bar_ends_full(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    model = CrossEncoder(tiny("bert"), max_length=32, long_documents="passages")
    model.predict(pairs(70), show_progress_bar=True)
    assert "100%" in capsys.readouterr().err
