"""`Embedder` answers as sentence-transformers' SentenceTransformer does, argument by argument."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch

import standins
from runoff import Embedder
from runoff.contracts import InputError, TextEmbedder
from standin_texts import TRICKY_TEXTS, sample_text

TEXTS = ["the river ends here", "", "a harbour", "stones", *TRICKY_TEXTS[4:8]]
TOLERANCE = 1e-5
NAMES = ["static", "bert-embedder", "modernbert-embedder"]


@dataclass(frozen=True)
class Both:
    """One checkpoint in both libraries."""

    folder: Path
    ours: Embedder
    theirs: sentence_transformers.SentenceTransformer

    @property
    def each(self) -> tuple[Any, Any]:
        return self.ours, self.theirs


def both(folder: Path, **options: Any) -> Both:
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", **options)
    return Both(folder, Embedder(folder, device="cpu", **options), theirs)


@pytest.fixture(scope="module")
def load(tiny: Callable[[str], Path]) -> Callable[[str], Both]:
    return cache(lambda name: both(tiny(name)))


def assert_alike(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """Equal in kind (an array, a tensor, a list of them), type, shape, and in values."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_alike(our_part, their_part, tolerance)
        return
    assert (ours.dtype, tuple(ours.shape)) == (theirs.dtype, tuple(theirs.shape))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=tolerance)


# --- what encode gives --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"convert_to_tensor": True, "convert_to_numpy": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_come_in_the_kind_that_was_asked_for(
    name: str, method: str, options: dict[str, bool], load: Callable[[str], Both]
) -> None:
    model = load(name)
    for inputs in (TEXTS, TEXTS[:1], TEXTS[0], "", tuple(TEXTS), np.array(TEXTS[2:4])):
        ours, theirs = (getattr(each, method)(inputs, **options) for each in model.each)
        assert_alike(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_no_texts_give_no_vectors_of_the_right_size(name: str, load: Callable[[str], Both]) -> None:
    model = load(name).ours
    assert model.encode([]).shape == (0, model.dimension)
    assert model.encode([], truncate_dim=5).shape == (0, 5)
    assert model.encode([], convert_to_tensor=True).shape == (0, model.dimension)
    assert model.encode([], convert_to_numpy=False) == []


def test_any_iterable_of_texts_is_read(load: Callable[[str], Both]) -> None:
    model = load("static").ours
    np.testing.assert_array_equal(model.encode(iter(TEXTS)), model.encode(TEXTS))


@pytest.mark.parametrize("name", NAMES)
def test_an_embedder_says_what_it_is_as_the_reference_does(name: str, load: Callable[[str], Both]) -> None:
    model = load(name)
    assert isinstance(model.ours, TextEmbedder)
    assert model.ours.dimension == model.theirs.get_embedding_dimension()
    assert model.ours.get_sentence_embedding_dimension() == model.ours.get_embedding_dimension()
    assert model.ours.prompts == model.theirs.prompts
    assert model.ours.default_prompt_name == model.theirs.default_prompt_name
    assert model.ours.similarity_fn_name == model.theirs.similarity_fn_name
    assert model.ours.name == str(model.folder)
    assert model.ours.choice.engine != "sentence-transformers"
    limit = model.theirs.max_seq_length
    assert model.ours.max_seq_length == (None if limit == float("inf") else limit)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", None], "text 1 must be a string, got NoneType"),
        ([["a", "b"]], "text 0 must be a string, got list"),
        (7, "expected a text or a list of texts, got int: 7"),
        (None, "got NoneType"),
        ({"text": "a"}, "got dict"),
        (b"bytes", "got bytes"),
        (["a", "half an emoji: \ud83d"], "text 1 holds a lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused(inputs: Any, message: str, load: Callable[[str], Both]) -> None:
    with pytest.raises(InputError, match=message):
        load("static").ours.encode(inputs)


def test_a_batch_size_that_is_not_positive_is_a_value_error_in_both(load: Callable[[str], Both]) -> None:
    for model in load("static").each:
        for batch_size in (0, -3):
            with pytest.raises(ValueError, match=f"batch_size must be a positive .* got {batch_size}"):
                model.encode(TEXTS, batch_size=batch_size)


def test_its_own_device_changes_nothing_and_another_is_refused(load: Callable[[str], Both]) -> None:
    model = load("static").ours
    np.testing.assert_array_equal(model.encode(TEXTS, device="cpu"), model.encode(TEXTS))
    with pytest.raises(InputError, match="this model runs on cpu; to run it on cuda, load it there"):
        model.encode(TEXTS, device="cuda")


# --- prompts --------------------------------------------------------------------------------------------------

PROMPTS = {"query": "find: ", "document": "text: ", "task": "do it: "}


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
@pytest.mark.parametrize("default", [None, "task"])
def test_a_prompt_is_chosen_as_there(
    default: str | None, options: dict[str, str], tiny: Callable[[str], Path]
) -> None:
    model = both(tiny("bert-embedder"), prompts=PROMPTS, default_prompt_name=default)
    for method in ("encode", "encode_query", "encode_document"):
        assert_alike(*(getattr(each, method)(TEXTS, **options) for each in model.each))


@pytest.mark.parametrize(
    "prompts",
    [{"passage": "passage: "}, {"corpus": "corpus: "}, {"query": "q: "}, {"query": None, "document": ""}, {}],
    ids=str,
)
@pytest.mark.parametrize("name", ["static", "bert-embedder"])
def test_prompts_of_any_names_go_before_the_same_texts_as_there(
    name: str, prompts: dict[str, Any], tiny: Callable[[str], Path]
) -> None:
    model = both(tiny(name), prompts=prompts)
    assert model.ours.prompts == model.theirs.prompts
    for method in ("encode", "encode_query", "encode_document"):
        assert_alike(*(getattr(each, method)(TEXTS) for each in model.each))


def test_a_prompt_is_part_of_the_text(load: Callable[[str], Both]) -> None:
    model = load("bert-embedder").ours
    prompted = model.encode(TEXTS, prompt="find: ")
    np.testing.assert_array_equal(prompted, model.encode([f"find: {text}" for text in TEXTS]))
    assert np.abs(prompted - model.encode(TEXTS)).max() > 1e-2


def test_an_unknown_prompt_name_is_a_value_error_in_both(load: Callable[[str], Both]) -> None:
    for model in load("bert-embedder").each:
        with pytest.raises(ValueError, match="task"):
            model.encode(TEXTS, prompt_name="task")
    for build in (Embedder, sentence_transformers.SentenceTransformer):
        with pytest.raises(ValueError, match="task"):
            build(str(load("bert-embedder").folder), default_prompt_name="task")


# --- dimensions, normalising, similarity ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 16, 100])
@pytest.mark.parametrize("normalises", [True, False])
@pytest.mark.parametrize("name", ["static", "modernbert-embedder"])
def test_vectors_are_cut_and_then_normalised_as_there(
    name: str, normalises: bool, size: int, load: Callable[[str], Both]
) -> None:
    options = {"truncate_dim": size, "normalize_embeddings": normalises}
    ours, theirs = (each.encode(TEXTS, **options) for each in load(name).each)
    assert_alike(ours, theirs)
    if normalises:
        lengths = np.linalg.norm(ours, axis=1)
        np.testing.assert_allclose(lengths[np.abs(ours).max(axis=1) > 0], 1, rtol=0, atol=1e-6)


def test_a_size_of_the_constructor_is_the_dimension_until_a_call_says_otherwise(
    tiny: Callable[[str], Path],
) -> None:
    model = both(tiny("bert-embedder"), truncate_dim=7)
    assert model.ours.dimension == model.theirs.get_embedding_dimension() == 7
    assert_alike(*(each.encode(TEXTS) for each in model.each))
    assert_alike(*(each.encode(TEXTS, truncate_dim=20) for each in model.each))
    assert model.ours.encode([]).shape == (0, 7)
    assert Embedder(tiny("bert-embedder"), truncate_dim=1000).dimension == 32


def test_a_saved_size_and_similarity_are_used(tiny_copy: Callable[[str], Path]) -> None:
    folder = tiny_copy("bert-embedder")
    standins.edit_json(
        folder / "config_sentence_transformers.json", truncate_dim=9, similarity_fn_name="euclidean"
    )
    model = both(folder)
    assert (model.ours.dimension, model.ours.similarity_fn_name) == (9, "euclidean")
    assert_alike(*(each.encode(TEXTS) for each in model.each))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_a_similarity_is_the_one_of_its_name(name: str, tiny: Callable[[str], Path]) -> None:
    model = both(tiny("bert-embedder"), similarity_fn_name=name)
    vectors = model.ours.encode(TEXTS)
    pairs = [
        (vectors, vectors[:3]),
        (vectors[0], vectors),
        (vectors[0], vectors[1]),
        (torch.from_numpy(vectors), torch.from_numpy(vectors[:2])),
        ([torch.from_numpy(row) for row in vectors], torch.from_numpy(vectors[0])),
    ]
    for first, second in pairs:
        theirs = model.theirs.similarity(first, second)
        ours = model.ours.similarity(first, second)
        is_tensor = not isinstance(first, np.ndarray)
        assert isinstance(ours, torch.Tensor if is_tensor else np.ndarray)
        assert tuple(ours.shape) == tuple(theirs.shape)
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-5, atol=TOLERANCE)


def test_the_zero_vector_has_similarity_zero_and_no_nan(load: Callable[[str], Both]) -> None:
    model = load("static").ours
    vectors = model.encode(["", "a harbour"])
    assert (vectors[0] == 0).all()
    np.testing.assert_allclose(model.similarity(vectors, vectors), [[0, 0], [0, 1]], rtol=0, atol=1e-6)


def test_an_unknown_similarity_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(
        InputError, match="similarity_fn_name must be one of cosine, dot, euclidean, manhattan"
    ):
        Embedder(tiny("static"), similarity_fn_name="jaccard")


# --- limits and threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert-embedder", "modernbert-embedder"])
def test_a_limit_cuts_as_there(name: str, tiny: Callable[[str], Path]) -> None:
    texts = [sample_text(60, np.random.default_rng(1)), "short"]
    theirs = sentence_transformers.SentenceTransformer(str(tiny(name)), device="cpu")
    theirs.max_seq_length = 12
    limited, later = Embedder(tiny(name), max_length=12), Embedder(tiny(name))
    whole = later.encode(texts)
    later.max_seq_length = 12
    for ours in (limited, later):
        assert ours.max_seq_length == 12
        assert_alike(ours.encode(texts), theirs.encode(texts))
    assert np.abs(whole - later.encode(texts))[0].max() > 1e-3
    with pytest.raises(InputError, match="max_length must be more than"):
        later.max_seq_length = 1


def test_a_static_table_may_be_limited_too(tiny: Callable[[str], Path]) -> None:
    limited = Embedder(tiny("static"), max_length=2)
    whole = Embedder(tiny("static"))
    np.testing.assert_array_equal(limited.encode("river stone harbour"), whole.encode("river stone"))


def test_threads_share_one_embedder(load: Callable[[str], Both]) -> None:
    model = load("bert-embedder").ours
    texts = [[sample_text(length, np.random.default_rng(row)) for length in (3, 30, 9)] for row in range(6)]
    expected = [model.encode(each) for each in texts]
    found: dict[tuple[int, int], Any] = {}
    barrier = threading.Barrier(6)

    def work(row: int) -> None:
        barrier.wait()
        for turn in range(10):
            found[row, turn] = model.encode(texts[row], batch_size=1 + turn % 3)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60, "a thread died"
    for (row, _), vectors in found.items():
        np.testing.assert_allclose(vectors, expected[row], rtol=0, atol=TOLERANCE)


def test_another_architecture_is_delegated_with_equal_vectors(tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "num_attention_heads": 2}
    config = transformers.MPNetConfig(vocab_size=30527, **shape)
    model = transformers.MPNetModel(config)
    standins.spread_weights(model, 3)
    model.save_pretrained(tmp_path / "backbone")
    standins.wordpiece_tokenizer().save_pretrained(tmp_path / "backbone")
    modules = [
        standins.Transformer(str(tmp_path / "backbone")),
        standins.Pooling(32, pooling_mode="mean"),
    ]
    saved = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", prompts={"query": "q: "})
    saved.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    found = both(tmp_path / "model", truncate_dim=11)
    assert found.ours.choice.engine == "sentence-transformers"
    assert found.ours.dimension == 11
    assert found.ours.prompts == found.theirs.prompts
    for options in ({}, {"truncate_dim": 20}, {"normalize_embeddings": True}, {"prompt": "own: "}):
        for method in ("encode", "encode_query"):
            assert_alike(*(getattr(each, method)(TEXTS, **options) for each in found.each))
    assert found.ours.encode([]).shape == (0, 11)
