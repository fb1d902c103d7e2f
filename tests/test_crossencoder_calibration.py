"""`CrossEncoder` with a calibration beside it: thresholds, probabilities, and nothing else that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from torch import nn

from runoff import CrossEncoder
from runoff.calibration.stored import CALIBRATION
from runoff.contracts import CheckpointError, InputError
from runoff.results import Probabilities
from standin_calibration import STEPS, write_calibration
from standin_texts import sample_candidates

CANDIDATES = sample_candidates(1, 9, longest_words=40)[0]
QUERY, DOCUMENTS, PAIRS = CANDIDATES.query, list(CANDIDATES.documents), CANDIDATES.pairs

Tiny = Callable[[str], Path]


@pytest.fixture
def folder(tiny_copy: Tiny) -> Path:
    """A classic reranker whose scores are shown through a sigmoid, with a calibration whose middle is their median."""
    copy = tiny_copy("roberta")
    write_calibration(copy, 2.0, -2.0 * float(np.median(CrossEncoder(copy).score(QUERY, DOCUMENTS))))
    return copy


@pytest.fixture
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder)


def by_hand(model: CrossEncoder) -> np.ndarray:
    raw = model.score(QUERY, DOCUMENTS).astype(np.float64)
    return 1.0 / (1.0 + np.exp(-2.0 * (raw - np.median(raw))))


def test_without_a_calibration_there_are_no_probabilities(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("roberta"))
    assert model.calibration is None
    for call in (lambda: model.rank(QUERY, DOCUMENTS, threshold=0.5), lambda: model.probabilities(PAIRS)):
        with pytest.raises(InputError, match=r"no calibration .*runoff calibrate .* --judged FOLDER"):
            call()


def test_without_a_threshold_a_ranking_is_what_it_was(model: CrossEncoder, tiny: Tiny) -> None:
    for options in ({}, {"return_documents": True}, {"top_k": 3}):
        assert model.rank(QUERY, DOCUMENTS, **options) == CrossEncoder(tiny("roberta")).rank(
            QUERY, DOCUMENTS, **options
        )


def test_a_threshold_of_0_keeps_all_with_their_probabilities(model: CrossEncoder) -> None:
    hits = model.rank(QUERY, DOCUMENTS, threshold=0)
    plain = model.rank(QUERY, DOCUMENTS)
    assert [{"corpus_id": hit["corpus_id"], "score": hit["score"]} for hit in hits] == plain
    found = [hit["probability"] for hit in hits]
    assert found == pytest.approx([by_hand(model)[hit["corpus_id"]] for hit in hits], abs=1e-9)
    assert found == sorted(found, reverse=True)
    assert {type(value) for value in found} == {float}
    assert hits.cut == plain.cut
    (first, *_) = model.rank(QUERY, DOCUMENTS, threshold=0.0, return_documents=True)
    assert list(first) == ["corpus_id", "score", "probability", "text"]


def test_a_threshold_keeps_what_is_at_least_so_probable(model: CrossEncoder) -> None:
    whole = model.rank(QUERY, DOCUMENTS, threshold=0)
    for place in (0, 3, len(DOCUMENTS) - 1):
        limit = whole[place]["probability"]
        assert model.rank(QUERY, DOCUMENTS, threshold=limit) == whole[: place + 1]
        assert model.rank(QUERY, DOCUMENTS, threshold=float(np.nextafter(limit, 2))) == whole[:place]
    assert model.rank(QUERY, DOCUMENTS, threshold=1) == []
    assert model.rank(QUERY, [], threshold=0.5) == []


@pytest.mark.parametrize("top_k", [0, 1, 2, 100, -1])
def test_top_k_counts_among_those_that_were_kept(model: CrossEncoder, top_k: int) -> None:
    kept = model.rank(QUERY, DOCUMENTS, threshold=0.5)
    assert len(kept) == 5
    assert model.rank(QUERY, DOCUMENTS, threshold=0.5, top_k=top_k) == kept[:top_k]


def test_probabilities_are_of_raw_scores_whatever_is_shown(model: CrossEncoder) -> None:
    expected = model.rank(QUERY, DOCUMENTS, threshold=0.3)
    for activation in ("identity", nn.Tanh()):
        hits = model.rank(QUERY, DOCUMENTS, threshold=0.3, activation_fn=activation)
        assert [hit["probability"] for hit in hits] == [hit["probability"] for hit in expected]
    # An order that the activation turned stays turned, with the same documents.
    turned = model.rank(QUERY, DOCUMENTS, threshold=0.3, activation_fn=torch.neg)
    assert [hit["corpus_id"] for hit in turned] == [hit["corpus_id"] for hit in expected][::-1]
    model.activation_fn = nn.Tanh()
    np.testing.assert_allclose(model.probabilities(PAIRS), by_hand(model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(model: CrossEncoder, threshold: float) -> None:
    with pytest.raises(InputError, match=r"a threshold from 0 to 1, a probability, got"):
        model.rank(QUERY, DOCUMENTS, threshold=threshold)


def test_probabilities_of_pairs(model: CrossEncoder) -> None:
    found = model.probabilities(PAIRS)
    assert isinstance(found, Probabilities)
    assert (found.dtype, found.shape) == (np.float64, (len(PAIRS),))
    np.testing.assert_allclose(found, by_hand(model), rtol=0, atol=1e-9)
    assert found.cut.pairs == len(PAIRS)
    np.testing.assert_array_equal(model.probabilities(PAIRS[1]), found[1:2])
    np.testing.assert_array_equal(model.probabilities(list(PAIRS[1])), found[1:2])
    np.testing.assert_array_equal(model.probabilities(np.array(PAIRS), batch_size=2), found)
    assert model.probabilities([]).shape == (0,)
    prompted = model.probabilities(PAIRS, prompt="query: ")
    assert np.abs(prompted - found).max() > 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"activation_fn": "sigmoid"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"batchsize": 4},
    ],
    ids=str,
)
def test_what_would_make_other_numbers_of_probabilities_is_refused(
    model: CrossEncoder, options: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        model.probabilities(PAIRS, **options)


def test_a_calibration_may_be_set(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("ettin"))
    model.calibration = STEPS
    raw = model.score(QUERY, DOCUMENTS)
    np.testing.assert_array_equal(model.probabilities(PAIRS), STEPS.probabilities(raw))


def test_predict_is_what_it_was(model: CrossEncoder, tiny: Tiny) -> None:
    plain = CrossEncoder(tiny("roberta"))
    for inputs in (PAIRS, PAIRS[0]):
        found, wanted = model.predict(inputs), plain.predict(inputs)
        assert type(found) is type(wanted)
        np.testing.assert_array_equal(found, wanted)


def test_sentence_transformers_leaves_the_file_aside(folder: Path, model: CrossEncoder) -> None:
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(theirs.predict(PAIRS), model.predict(PAIRS), rtol=0, atol=1e-4)
    theirs.save_pretrained(str(folder / "again"))
    assert not (folder / "again" / CALIBRATION).exists()


def test_a_model_that_sentence_transformers_runs_is_calibrated_too(tiny_copy: Tiny) -> None:
    folder = tiny_copy("deberta")
    calibration = write_calibration(folder)
    model = CrossEncoder(folder)
    assert model.choice.engine == "sentence-transformers"
    np.testing.assert_array_equal(
        model.probabilities(PAIRS), calibration.probabilities(model.score(QUERY, DOCUMENTS))
    )


def test_a_damaged_calibration_is_refused_with_the_model(folder: Path) -> None:
    (folder / CALIBRATION).write_text("{")
    with pytest.raises(CheckpointError, match=r"calibration\.json cannot be used"):
        CrossEncoder(folder)


def test_several_labels_have_no_probability(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert-3-labels")
    write_calibration(folder)
    model = CrossEncoder(folder)
    with pytest.raises(InputError, match=r"probabilities\(\) needs a model with one label, this one has 3"):
        model.probabilities(PAIRS)
    with pytest.raises(InputError, match=r"rank\(\) needs a model with one label"):
        model.rank(QUERY, DOCUMENTS, threshold=0.5)
