"""`CrossEncoder` answers as sentence-transformers does, argument by argument (notes C1 to C8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from torch import nn

import standins
from runoff import CrossEncoder
from runoff.contracts import InputError
from standin_texts import sample_candidates

CANDIDATES = sample_candidates(1, 9, longest_words=40)[0]
QUERY, DOCUMENTS, PAIRS = CANDIDATES.query, list(CANDIDATES.documents), CANDIDATES.pairs
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Both:
    """One checkpoint in both libraries."""

    folder: Path
    ours: CrossEncoder
    theirs: sentence_transformers.CrossEncoder

    @property
    def each(self) -> tuple[Any, Any]:
        return self.ours, self.theirs


@pytest.fixture(scope="module")
def load(tiny: Callable[[str], Path]) -> Callable[[str], Both]:
    @cache
    def get(name: str) -> Both:
        theirs = sentence_transformers.CrossEncoder(str(tiny(name)), device="cpu")
        return Both(tiny(name), CrossEncoder(tiny(name), device="cpu"), theirs)

    return get


@pytest.fixture
def ettin(load: Callable[[str], Both]) -> Both:
    """Modular, one label, identity."""
    return load("ettin")


@pytest.fixture
def sigmoid(load: Callable[[str], Both]) -> Both:
    """Classic, one label, a sigmoid."""
    return load("roberta")


@pytest.fixture
def labels(load: Callable[[str], Both]) -> Both:
    """Modular, three labels."""
    return load("ettin-3-labels")


def assert_alike(ours: Any, theirs: Any) -> None:
    """Equal in kind (an array, a tensor, a number, a list), type, shape, and in values within 1e-4."""
    if isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_alike(our_part, their_part)
        return
    if isinstance(theirs, np.ndarray):  # ours is one that also carries its cut report
        assert isinstance(ours, np.ndarray)
    else:
        assert type(ours) is type(theirs)
    assert (ours.dtype, tuple(ours.shape)) == (theirs.dtype, tuple(theirs.shape))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=TOLERANCE)


# --- C2, C3: what predict gives -----------------------------------------------------------------------------

KINDS = [
    {},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": True, "convert_to_tensor": True},
    {"convert_to_numpy": False, "convert_to_tensor": True},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("name", ["ettin", "roberta", "ettin-3-labels"])
def test_scores_come_in_the_kind_that_was_asked_for(
    name: str, options: dict[str, bool], load: Callable[[str], Both]
) -> None:
    both = load(name)
    for inputs in (PAIRS, PAIRS[:1], PAIRS[1], []):
        assert_alike(both.ours.predict(inputs, **options), both.theirs.predict(inputs, **options))


def test_no_pairs_give_an_empty_answer_of_each_kind(ettin: Both) -> None:
    assert ettin.ours.predict([]).dtype == np.float64, "as there"
    assert ettin.ours.predict([], convert_to_numpy=False) == []
    assert ettin.ours.predict([], convert_to_tensor=True).shape == (0,)
    assert ettin.ours.rank(QUERY, []) == ettin.theirs.rank(QUERY, []) == []


# --- C4: what is one pair, what is many ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        [QUERY, DOCUMENTS[1]],
        (QUERY, DOCUMENTS[1]),
        QUERY,
        np.array([QUERY, DOCUMENTS[1]]),
        np.array(PAIRS[:3]),
        np.array(PAIRS[:3], dtype=object),
        np.empty((0, 2), dtype=object),
        tuple(PAIRS[:3]),
        [list(pair) for pair in PAIRS[:3]],
    ],
    ids=lambda inputs: f"{type(inputs).__name__} of {len(inputs)}",
)
def test_one_pair_many_pairs_and_a_lone_text_are_told_apart_as_there(inputs: Any, ettin: Both) -> None:
    assert_alike(ettin.ours.predict(inputs), ettin.theirs.predict(inputs))


@pytest.mark.parametrize("inputs", [[("q", None)], [("q", "d"), (None, "d")], ("q", 7)])
def test_what_is_no_text_in_a_pair_is_a_value_error_in_both(inputs: Any, ettin: Both) -> None:
    for model in ettin.each:
        with pytest.raises(ValueError, match="Unsupported input type"):
            model.predict(inputs)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_is_not_positive_is_a_value_error_in_both(batch_size: int, ettin: Both) -> None:
    for model in ettin.each:
        with pytest.raises(ValueError, match=f"batch_size must be a positive .* got {batch_size}"):
            model.predict(PAIRS, batch_size=batch_size)
        with pytest.raises(ValueError, match="batch_size must be a positive"):
            model.rank(QUERY, DOCUMENTS, batch_size=batch_size)


# --- A14, C5: activation and softmax --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation",
    [nn.Sigmoid(), nn.Tanh(), nn.Identity(), torch.neg],
    ids=["sigmoid", "tanh", "identity", "negative"],
)
@pytest.mark.parametrize("name", ["ettin", "roberta", "ettin-3-labels"])
def test_an_activation_counts_for_its_call_alone(
    name: str, activation: Any, load: Callable[[str], Both]
) -> None:
    both = load(name)
    before = both.ours.predict(PAIRS)
    assert_alike(
        both.ours.predict(PAIRS, activation_fn=activation),
        both.theirs.predict(PAIRS, activation_fn=activation),
    )
    np.testing.assert_array_equal(both.ours.predict(PAIRS), before)


def test_an_activation_of_the_constructor_stays_until_another_is_set(ettin: Both) -> None:
    ours = CrossEncoder(ettin.folder, activation_fn=nn.Sigmoid())
    theirs = sentence_transformers.CrossEncoder(str(ettin.folder), device="cpu", activation_fn=nn.Sigmoid())
    assert_alike(ours.predict(PAIRS), theirs.predict(PAIRS))
    assert_alike(ours.predict(PAIRS, activation_fn=nn.Tanh()), theirs.predict(PAIRS, activation_fn=nn.Tanh()))
    assert_alike(ours.predict(PAIRS), theirs.predict(PAIRS))
    ours.activation_fn = theirs.activation_fn = nn.Tanh()
    assert_alike(ours.predict(PAIRS), theirs.predict(PAIRS))


def test_softmax_is_over_the_labels_of_a_pair(labels: Both) -> None:
    shares = labels.ours.predict(PAIRS, apply_softmax=True)
    assert_alike(shares, labels.theirs.predict(PAIRS, apply_softmax=True))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-6)
    one = labels.ours.predict(PAIRS[1], apply_softmax=True)
    assert_alike(one, labels.theirs.predict(PAIRS[1], apply_softmax=True))


def test_softmax_does_nothing_to_one_label(ettin: Both) -> None:
    both = [model.predict(PAIRS, apply_softmax=True) for model in ettin.each]
    assert_alike(*both)
    np.testing.assert_array_equal(both[0], ettin.ours.predict(PAIRS))


# --- C6: rank -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [None, 0, 1, 4, len(DOCUMENTS), 100, -1, -4, -100])
@pytest.mark.parametrize("returns", [True, False])
def test_rank_gives_the_same_list(top_k: int | None, returns: bool, sigmoid: Both) -> None:
    ours, theirs = (
        model.rank(QUERY, DOCUMENTS, top_k=top_k, return_documents=returns) for model in sigmoid.each
    )
    assert isinstance(ours, list)
    assert [list(hit) for hit in ours] == [list(hit) for hit in theirs]
    assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
    assert [hit.get("text") for hit in ours] == [hit.get("text") for hit in theirs]
    assert {type(value) for hit in ours for value in hit.values()} <= {int, float, str}
    assert [hit["score"] for hit in ours] == pytest.approx([hit["score"] for hit in theirs], abs=TOLERANCE)


def test_rank_refuses_several_labels_in_both(labels: Both) -> None:
    for model in labels.each:
        with pytest.raises(ValueError, match=r"predict\(\)"):
            model.rank(QUERY, DOCUMENTS)


def test_equal_documents_tie_exactly_and_keep_their_order(ettin: Both) -> None:
    documents = ["one of two", DOCUMENTS[2], "one of two", DOCUMENTS[3], "one of two"]
    hits = ettin.ours.rank(QUERY, documents, batch_size=1)
    equal = [hit for hit in hits if hit["corpus_id"] in (0, 2, 4)]
    assert [hit["corpus_id"] for hit in equal] == [0, 2, 4]
    assert len({hit["score"] for hit in equal}) == 1


def test_scores_that_a_sigmoid_squeezes_to_one_keep_their_raw_order(
    ettin: Both, tiny_copy: Callable[[str], Path]
) -> None:
    """A bias of 50 makes every shown score exactly 1.0, which sentence-transformers takes for ties."""
    raw = ettin.ours.score(QUERY, DOCUMENTS)
    folder = tiny_copy("ettin")
    standins.change_tensors(
        folder / "4_Dense" / "model.safetensors",
        lambda tensors: tensors["linear.bias"].fill_(50.0),
    )
    hits = CrossEncoder(folder, activation_fn=nn.Sigmoid()).rank(QUERY, DOCUMENTS)
    assert {hit["score"] for hit in hits} == {1.0}
    expected = np.argsort(-raw, kind="stable").tolist()
    assert expected != sorted(expected)
    assert [hit["corpus_id"] for hit in hits] == expected


def test_an_activation_that_turns_the_order_turns_the_ranking(ettin: Both) -> None:
    ours, theirs = (model.rank(QUERY, DOCUMENTS, activation_fn=torch.neg) for model in ettin.each)
    assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
    best = [hit["corpus_id"] for hit in ettin.ours.rank(QUERY, DOCUMENTS)]
    assert [hit["corpus_id"] for hit in ours] == best[::-1]


def test_documents_may_be_any_iterable(ettin: Both) -> None:
    expected = ettin.ours.rank(QUERY, DOCUMENTS, return_documents=True)
    assert ettin.ours.rank(QUERY, iter(DOCUMENTS), return_documents=True) == expected
    assert ettin.ours.rank(QUERY, tuple(DOCUMENTS), return_documents=True) == expected


# --- C7: prompts ------------------------------------------------------------------------------------------------

PROMPTS = {"query": "query: ", "task": "find the answer: "}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "own: "},
        {"prompt": ""},
        {"prompt_name": "task"},
        {"prompt": "own: ", "prompt_name": "task"},
    ],
    ids=str,
)
@pytest.mark.parametrize("default", [None, "query"])
def test_a_prompt_goes_before_the_query_as_there(
    default: str | None, options: dict[str, str], ettin: Both
) -> None:
    settings: dict[str, Any] = {"prompts": PROMPTS, "default_prompt_name": default, "device": "cpu"}
    ours = CrossEncoder(ettin.folder, **settings)
    theirs = sentence_transformers.CrossEncoder(str(ettin.folder), **settings)
    assert_alike(ours.predict(PAIRS, **options), theirs.predict(PAIRS, **options))
    assert_alike(ours.predict(QUERY, **options), theirs.predict(QUERY, **options))
    hits = [model.rank(QUERY, DOCUMENTS, **options) for model in (ours, theirs)]
    assert [hit["corpus_id"] for hit in hits[0]] == [hit["corpus_id"] for hit in hits[1]]


def test_a_prompt_is_part_of_the_query_and_of_nothing_else(ettin: Both) -> None:
    prompted = ettin.ours.predict(PAIRS, prompt="query: ")
    by_hand = ettin.ours.predict([(f"query: {query}", document) for query, document in PAIRS])
    np.testing.assert_array_equal(prompted, by_hand)
    assert np.abs(prompted - ettin.ours.predict(PAIRS)).max() > 1e-2


def test_the_default_prompt_counts_for_score_too(ettin: Both) -> None:
    ours = CrossEncoder(ettin.folder, prompts=PROMPTS, default_prompt_name="query")
    by_hand = ettin.ours.score(f"query: {QUERY}", DOCUMENTS)
    np.testing.assert_array_equal(ours.score(QUERY, DOCUMENTS), by_hand)


def test_an_unknown_prompt_name_is_a_value_error_in_both(ettin: Both) -> None:
    for model in ettin.each:
        with pytest.raises(ValueError, match="task"):
            model.predict(PAIRS, prompt_name="task")
    for build in (CrossEncoder, sentence_transformers.CrossEncoder):
        with pytest.raises(ValueError, match="task"):
            build(str(ettin.folder), default_prompt_name="task")


# --- older names, devices ---------------------------------------------------------------------------------------


def test_arguments_of_older_releases_are_taken(ettin: Both) -> None:
    expected = ettin.ours.predict(PAIRS, activation_fn=nn.Sigmoid())
    older: dict[str, Any] = {"activation_fct": nn.Sigmoid(), "num_workers": 2}
    np.testing.assert_array_equal(ettin.ours.predict(sentences=PAIRS, **older), expected)
    assert_alike(expected, ettin.theirs.predict(sentences=PAIRS, **older))
    older |= {"apply_softmax": True, "convert_to_numpy": False, "convert_to_tensor": True}
    hits = [model.rank(QUERY, DOCUMENTS, **older) for model in ettin.each]
    assert [hit["corpus_id"] for hit in hits[0]] == [hit["corpus_id"] for hit in hits[1]]


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_an_argument_that_no_release_knew_is_refused(method: str, ettin: Both) -> None:
    inputs: Sequence[Any] = [PAIRS] if method == "predict" else [QUERY, DOCUMENTS]
    with pytest.raises(TypeError, match="batchsize"):
        getattr(ettin.ours, method)(*inputs, batchsize=4)
    with pytest.raises(InputError, match="worker processes; Runoff needs none"):
        getattr(ettin.ours, method)(*inputs, pool={"input": 1})


def test_a_list_of_its_own_device_changes_nothing_and_another_device_is_refused(ettin: Both) -> None:
    expected = ettin.ours.predict(PAIRS)
    for device in ("cpu", ["cpu"], ["cpu", "cpu"], torch.device("cpu")):
        np.testing.assert_array_equal(ettin.ours.predict(PAIRS, device=device), expected)
    for other in ("cuda", ["cpu", "cuda:1"]):
        with pytest.raises(InputError, match="this model runs on cpu"):
            ettin.ours.rank(QUERY, DOCUMENTS, device=other)


def test_a_number_of_labels_that_the_head_has_not_is_refused(ettin: Both, labels: Both) -> None:
    assert CrossEncoder(labels.folder, num_labels=3).num_labels == 3
    with pytest.raises(InputError, match="num_labels=2 was asked for, but this checkpoint's head gives 1"):
        CrossEncoder(ettin.folder, num_labels=2)
