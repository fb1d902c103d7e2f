"""Calls written for older releases of sentence-transformers, and its per-call processing, work unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
from torch import nn

from runoff import CrossEncoder, Embedder, legacy
from runoff.contracts import InputError
from standin_texts import sample_candidates

CANDIDATES = sample_candidates(1, 10, longest_words=90)[0]
PAIRS = CANDIDATES.pairs
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tiny: Callable[[str], Path]) -> Path:
    return tiny("bert")


OLDER: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {"tokenizer_kwargs": {"model_max_length": 30}}),
    ((), {"tokenizer_args": {"model_max_length": 30}, "automodel_args": {}, "config_args": {}}),
    ((), {"default_activation_function": nn.Sigmoid(), "cache_dir": None}),
    ((1, 30), {}),
    ((1, 30, nn.Sigmoid(), "cpu"), {}),
]


@pytest.mark.parametrize(("places", "names"), OLDER)
def test_constructors_take_the_arguments_of_older_releases(
    places: tuple[Any, ...], names: dict[str, Any], folder: Path
) -> None:
    ours = CrossEncoder(str(folder), *places, **names)
    theirs = sentence_transformers.CrossEncoder(str(folder), *places, **names)
    assert ours.max_seq_length == theirs.max_seq_length
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=TOLERANCE)


def test_an_older_name_is_warned_of_once_and_gives_way_to_the_new_one(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "_SAID", set())
    both = {"tokenizer_kwargs": {"model_max_length": 30}, "processor_kwargs": {"model_max_length": 50}}
    with caplog.at_level(logging.WARNING, "runoff.legacy"):
        models = [CrossEncoder(str(folder), **both) for _ in range(2)]  # type: ignore[arg-type]
    assert [model.max_seq_length for model in models] == [50, 50]
    assert [record.getMessage() for record in caplog.records] == [
        "an older form of a sentence-transformers call: the argument tokenizer_kwargs is now called processor_kwargs"
    ]


def test_too_many_arguments_by_position_are_refused(folder: Path) -> None:
    with pytest.raises(TypeError):
        CrossEncoder(str(folder), 1, 30, None, "cpu", "surplus")  # type: ignore[misc]


def test_an_embedder_takes_older_names_too(tiny: Callable[[str], Path]) -> None:
    embedder = Embedder(tiny("bert-embedder"), tokenizer_kwargs={"model_max_length": 20})  # type: ignore[call-arg]
    assert embedder.max_seq_length == 20
    texts = [document for _, document in PAIRS[:3]]
    np.testing.assert_array_equal(embedder.encode(sentences=texts), embedder.encode(texts))  # type: ignore[call-arg]


# --- processing_kwargs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        {"max_length": 40},
        {"max_length": 25, "truncation": True},
        {"max_length": 40, "truncation": "longest_first"},
        {"max_length": 40, "truncation": "only_second"},
    ],
)
def test_a_call_s_own_processing_is_that_of_sentence_transformers(text: dict[str, Any], folder: Path) -> None:
    ours = CrossEncoder(folder)
    expected = sentence_transformers.CrossEncoder(str(folder)).predict(
        PAIRS, processing_kwargs={"text": text}
    )
    found = ours.predict(PAIRS, processing_kwargs={"text": text})
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert found.cut.max_length == text["max_length"]
    assert found.cut.cut_pairs > 0
    assert ours.predict(PAIRS).cut.cut_pairs == 0, "it counts for that call alone"


@pytest.mark.parametrize(
    "given",
    [
        {"image": {}},
        {"text": {"max_length": 40, "stride": 3}},
        {"text": {"truncation": "only_first"}},
        {"text": {"truncation": False}},
    ],
)
def test_processing_that_runoff_has_not_is_refused(given: dict[str, Any], folder: Path) -> None:
    with pytest.raises(InputError, match="processing_kwargs may hold"):
        CrossEncoder(folder).predict(PAIRS, processing_kwargs=given)


def test_a_limit_beyond_the_positions_is_refused_before_it_is_used(folder: Path) -> None:
    with pytest.raises(InputError, match="beyond this model's 512 positions"):
        CrossEncoder(folder).predict(PAIRS, processing_kwargs={"text": {"max_length": 513}})
