"""Vectors and similarities equal sentence-transformers' within 1e-4, for every kind of embedder."""

from __future__ import annotations

import numpy as np
import pytest

from standin_texts import TRICKY_TEXTS, sample_candidates, sample_text

TOLERANCE = 1e-4
NAMES = [
    "static",
    "static-normalized",
    "model2vec",
    "model2vec-raw",
    "model2vec-clustered",
    "minilm",
    "bert-cls",
    "modernbert-embedder",
]


def sampled_texts() -> list[str]:
    candidates = sample_candidates(1, 20, longest_words=300)[0]
    return [candidates.query, *candidates.documents[1:], *TRICKY_TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_vectors_and_similarities_equal_the_reference(name, embedders):
    model, texts = embedders(name), sampled_texts()
    queries = texts[:5]
    ours, theirs = model.ours.encode_document(texts), model.reference.encode_document(texts, batch_size=8)
    our_queries, their_queries = model.ours.encode_query(queries), model.reference.encode_query(queries)
    assert ours.shape == theirs.shape == (len(texts), model.ours.dimension)
    assert np.median(theirs.std(axis=0)) > 0.005, "vectors too alike for a mistake to show"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(our_queries, their_queries, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        model.ours.similarity(our_queries, ours),
        model.reference.similarity(their_queries, theirs),
        rtol=0,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("name", ["bert-cls", "modernbert-embedder"])
def test_queries_and_documents_get_their_own_prompts(name, embedders):
    model, text = embedders(name), "where the river ends"
    as_query, as_document = model.ours.encode_query(text), model.ours.encode_document(text)
    assert np.abs(as_query - as_document).max() > 0.01
    np.testing.assert_allclose(as_query, model.reference.encode_query(text), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(as_document, model.reference.encode_document(text), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["minilm", "modernbert-embedder", "static"])
def test_a_long_text_gives_the_reference_vector(name, embedders):
    """MiniLM keeps 256 tokens of it, ModernBERT all 2,500, a static table every word."""
    model, text = embedders(name), sample_text(1500, np.random.default_rng(8))
    ours, theirs = model.ours.encode_document(text), model.reference.encode_document(text)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["static", "minilm", "model2vec"])
def test_truncated_dimensions_and_normalising_equal_the_reference(name, embedders):
    model, texts = embedders(name), [text for text in sampled_texts() if text.strip()]
    options = {"normalize_embeddings": True, "truncate_dim": 32}
    ours, theirs = model.ours.encode(texts, **options), model.reference.encode(texts, **options)
    assert ours.shape == (len(texts), 32)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["static", "model2vec", "minilm"])
def test_a_vector_does_not_depend_on_its_batch_mates(name, embedders):
    ours, texts = embedders(name).ours, sampled_texts()
    together, in_threes = ours.encode(texts), ours.encode(texts, batch_size=3)
    alone = np.stack([ours.encode(text) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(together, in_threes, rtol=0, atol=1e-5)
