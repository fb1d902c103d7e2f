"""runoff-nano, as it ships: small, safe, the same in sentence-transformers, and right on the plainest questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
from safetensors import safe_open

from runoff import CrossEncoder
from standin_texts import sample_candidates

MODEL = Path(__file__).resolve().parents[2] / "models" / "runoff-nano"
# Promised in its card and to those who download it.
LARGEST_MEGABYTES = 48

APPLE = (
    "Where was Apple founded?",
    [
        "Apple Inc. was founded in Cupertino, California by Steve Jobs and two friends in 1976.",
        "The Fuji apple is a cultivar that growers in Japan developed in the late 1930s.",
    ],
)
MARS = (
    "Which planet is known as the Red Planet?",
    [
        "Venus is often called the twin of the Earth, since its size is so similar.",
        "Mars is often called the Red Planet, because of its reddish look.",
        "Jupiter, the largest planet of the solar system, has a great red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ],
)


@pytest.fixture(scope="module")
def nano() -> CrossEncoder:
    return CrossEncoder("runoff-nano")


@pytest.mark.parametrize(("question", "right"), [(APPLE, 0), (MARS, 1)], ids=["apple", "mars"])
def test_the_right_document_comes_first(
    question: tuple[str, list[str]], right: int, nano: CrossEncoder
) -> None:
    query, documents = question
    assert nano.rank(query, documents)[0]["corpus_id"] == right
    assert nano.rank(query, documents[::-1])[0]["corpus_id"] == len(documents) - 1 - right


def test_sentence_transformers_loads_it_and_gives_the_same_scores(nano: CrossEncoder) -> None:
    theirs = sentence_transformers.CrossEncoder(str(MODEL), device="cpu")
    assert theirs.max_seq_length == nano.max_seq_length == 512
    pairs = [pair for sample in sample_candidates(3, 8, longest_words=300) for pair in sample.pairs]
    pairs += [(APPLE[0], text) for text in APPLE[1]] + [("", ""), ("a query", "")]
    expected = theirs.predict(pairs)
    assert expected.std() > 0.3, "scores too alike for a mistake to show"
    np.testing.assert_allclose(nano.predict(pairs), expected, rtol=0, atol=1e-4)


def test_a_score_does_not_depend_on_its_batch_mates(nano: CrossEncoder) -> None:
    """To 1e-5, with trained weights, on any processor."""
    pairs = [pair for sample in sample_candidates(2, 15, longest_words=200) for pair in sample.pairs]
    pairs += [(query, text) for query, texts in (APPLE, MARS) for text in texts]
    together = nano.predict(pairs)
    alone = np.array([nano.predict(pair) for pair in pairs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    for budget in (100, 100_000):
        budgeted = CrossEncoder("runoff-nano", token_budget=budget).predict(pairs[::-1])
        np.testing.assert_allclose(budgeted[::-1], together, rtol=0, atol=1e-5)


def test_it_is_small_and_stored_in_bf16_safetensors_alone() -> None:
    files = [file for file in MODEL.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert sum(file.stat().st_size for file in weights) < LARGEST_MEGABYTES * 1e6
    assert not [file for file in files if file.suffix in {".bin", ".pt", ".pkl", ".onnx"}]
    for file in weights:
        with safe_open(str(file), framework="np") as stored:
            kinds = {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
        assert kinds == {"BF16"}, file


def test_the_card_names_the_weights_it_describes() -> None:
    import hashlib

    digest = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in (MODEL / "README.md").read_text("utf-8")
