"""Pairs are scored in chunks, tokenised meanwhile; nobody can tell from the scores."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder, scoring
from runoff.contracts import Batch, FloatArray, InputError, TruncationError

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
    monkeypatch.setattr(scoring, "FIRST_TEXTS", 1000)
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


def test_equal_pairs_tie_whichever_chunks_they_are_in(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's products round a row by its place in the batch: two forwards of a pair could differ."""
    monkeypatch.setenv("RUNOFF_ISA", "numpy")
    model = CrossEncoder(tiny("ettin"))
    wanted = pairs(61)
    wanted[60] = wanted[3]
    scores = model.predict(wanted)
    assert scores[60] == scores[3]


def test_texts_are_tokenised_while_the_engine_computes(tiny: Tiny) -> None:
    """The first batch is not done before a later chunk was tokenised: without overlap it would never be."""

    class Waiting:
        """The result of a forward that ends once the tokenizer was called again."""

        def __init__(self, engine: WaitingEngine, batch: Batch) -> None:
            self.engine, self.batch = engine, batch

        def result(self) -> FloatArray:
            assert self.engine.tokenized_later.wait(20.0), "nothing was tokenised meanwhile"
            return self.engine.forward(self.batch)

    class WaitingEngine:
        name, precision, token_budget = "waiting", "fp32", 8192

        def __init__(self) -> None:
            self.has_started, self.tokenized_later = False, threading.Event()

        def forward(self, batch: Batch) -> FloatArray:
            return np.diff(batch.offsets)[:, None].astype(np.float32)

        def start(self, batch: Batch) -> Waiting:
            self.has_started = True
            return Waiting(self, batch)

    model = CrossEncoder(tiny("bert"))
    native, engine = model._native, WaitingEngine()
    assert native is not None
    encodings = native.tokenizer.encodings

    def watched(texts: Sequence[str], first_row: int = 0) -> Any:
        if engine.has_started:
            engine.tokenized_later.set()
        return encodings(texts, first_row)

    native.tokenizer.encodings = watched  # type: ignore[method-assign]
    model._native = dataclasses.replace(native, engine=engine)
    wanted = pairs(100)
    lengths = [
        len(ids) + len(model.tokenize(["red apple"])[0]) + 3 for ids in model.tokenize([d for _, d in wanted])
    ]
    engine.has_started = False
    engine.tokenized_later.clear()
    assert model.predict(wanted, activation_fn="identity").tolist() == lengths


def test_a_long_input_of_many_chunks_has_the_scores_of_short_ones(tiny: Tiny) -> None:
    """600 pairs: long enough for threads that tokenise ahead."""
    model = CrossEncoder(tiny("bert"), max_length=24)
    wanted = pairs(600)
    parts = [model.predict(wanted[first : first + 50]) for first in range(0, 600, 50)]
    found = model.predict(wanted)
    assert found.tolist() == np.concatenate(parts).tolist()
    assert found.cut.cut_tokens == sum(part.cut.cut_tokens for part in parts)


def test_passages_in_several_chunks_keep_the_best_score_of_each_document(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("bert"), max_length=32, long_documents="passages")
    wanted = pairs(40)
    together = model.predict(wanted)
    assert together.tolist() == [float(model.predict(pair)) for pair in wanted]


def test_the_progress_bar_ends_full(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    model = CrossEncoder(tiny("bert"), max_length=32, long_documents="passages")
    model.predict(pairs(70), show_progress_bar=True)
    assert "100%" in capsys.readouterr().err
