"""The torch engine against sentence-transformers: fp32 within 1e-4, lower precisions within their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import nn

from runoff import CrossEncoder, Embedder
from standin_texts import sample_candidates, tricky_pairs

IDENTITY = nn.Identity()

RERANKERS = [
    "ettin-17m",
    "ettin-150m",
    pytest.param("ettin-32m", marks=pytest.mark.slow),
    "bert",
    "minilm-reranker",
    "roberta",
    pytest.param("xlm-roberta", marks=pytest.mark.slow),
    "modernbert-cls",
    "modernbert-mean",
    "tiny-ettin-3",
]


def on_torch(folder, precision="fp32", **options):
    return CrossEncoder(folder, engine="torch", device="cpu", precision=precision, **options)


def sample_pairs(queries, documents, longest_words, seed=3):
    return [
        pair
        for each in sample_candidates(queries, documents, longest_words=longest_words, seed=seed)
        for pair in each.pairs
    ]


@pytest.mark.parametrize("name", RERANKERS)
def test_scores_in_fp32_are_the_references(name, rerankers):
    model = rerankers(name)
    pairs = sample_pairs(2, 8, 200) + tricky_pairs()[:8]
    theirs = model.reference.predict(pairs, activation_fn=IDENTITY, batch_size=8)
    ours = on_torch(model.folder).predict(pairs, activation_fn=IDENTITY)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_long_documents_go_through_the_band(rerankers):
    """Beyond four windows, local layers compute a band alone; a few thousand tokens cross it many times."""
    model = rerankers("ettin-17m")
    pairs = [("what is a band", "word and " * words) for words in (150, 600, 1100)]
    theirs = model.reference.predict(pairs, activation_fn=IDENTITY, batch_size=1)
    ours = on_torch(model.folder).predict(pairs, activation_fn=IDENTITY)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("budget", [64, 700, 100_000])
def test_a_score_does_not_depend_on_its_batch(budget, rerankers):
    model = on_torch(rerankers("ettin-17m").folder)
    pairs = sample_pairs(2, 12, 120)
    alone = np.array([model.predict([pair], activation_fn=IDENTITY)[0] for pair in pairs])
    model._token_budget = budget
    np.testing.assert_allclose(model.predict(pairs, activation_fn=IDENTITY), alone, rtol=0, atol=3e-5)


# Of a score's spread; measured .001 (fp16), .011 (bf16), .12 (fp8) on random weights, which magnify rounding (trained
# ones have a quarter of it: docs/gpu.md). fp16 has three more bits than bf16.
@pytest.mark.parametrize(("precision", "noise"), [("fp16", 0.01), ("bf16", 0.06), ("fp8", 0.5)])
@pytest.mark.parametrize("name", ["ettin-17m", "bert"])
def test_lower_precisions_differ_by_their_rounding(name, precision, noise, rerankers):
    folder = rerankers(name).folder
    pairs = sample_pairs(3, 10, 120)
    exact = on_torch(folder).predict(pairs, activation_fn=IDENTITY)
    found = on_torch(folder, precision).predict(pairs, activation_fn=IDENTITY)
    assert np.std(found - exact) < noise * np.std(exact)
    assert not np.array_equal(found, exact), "the precision that was asked for is not the one that ran"


def test_fp16_keeps_the_order_of_fp32(rerankers):
    folder = rerankers("ettin-17m").folder
    pairs = sample_pairs(6, 20, 120)
    exact = on_torch(folder).predict(pairs, activation_fn=IDENTITY)
    found = on_torch(folder, "fp16").predict(pairs, activation_fn=IDENTITY)
    assert spearmanr(exact, found).statistic > 0.9995
    assert np.abs(found - exact).max() < 0.05


@pytest.mark.parametrize("name", ["minilm", "bert-cls", "modernbert-embedder"])
def test_vectors_are_the_references(name, embedders):
    model = embedders(name)
    texts = [document for _, document in sample_pairs(2, 8, 120)] + ["", "one"]
    ours = Embedder(model.folder, engine="torch", device="cpu", precision="fp32").encode(texts)
    np.testing.assert_allclose(ours, model.reference.encode(texts), rtol=0, atol=2e-5)


def test_stored_token_ids_give_the_scores_of_their_texts(rerankers):
    model = on_torch(rerankers("ettin-17m").folder)
    documents = [document for _, document in sample_pairs(1, 10, 120)]
    by_text = model.score("a question", documents)
    np.testing.assert_array_equal(model.score("a question", model.tokenize(documents)), by_text)
