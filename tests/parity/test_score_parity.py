"""Raw scores equal sentence-transformers' within 1e-4, whatever the texts and whatever the batch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from torch import nn

from runoff import CrossEncoder
from runoff.ranking import rank_scores
from standin_texts import sample_candidates, sample_text, tricky_pairs

IDENTITY = nn.Identity()
TOLERANCE = 1e-4
BATCH_TOLERANCE = 1e-5
# Random layers of full gain magnify the last bits: there sentence-transformers differs from itself by up to 2e-5
# between batch sizes, and from float64 by as much (benchmarks/results/parity.jsonl); so does a product on a
# processor without AVX-512, whose rows round by their place. Trained weights do not: tests/flows/test_runoff_nano.py.
NOISY_BATCH_TOLERANCE = 3e-5
FIVE_HUNDRED_SEED = 20

ALL_SHAPES = [
    "ettin-17m",
    "ettin-32m",
    "ettin-68m",
    "ettin-150m",
    pytest.param("ettin-400m", marks=pytest.mark.slow),
    pytest.param("ettin-1b", marks=pytest.mark.slow),
    "bert",
    "minilm-reranker",
    "roberta",
    "xlm-roberta",
    "modernbert-cls",
    "modernbert-mean",
]


def assert_scores_and_order_equal(model, samples):
    """Runs `predict` of both libraries over all pairs and `rank` of both over every query's documents.

    The order is compared strictly, but for documents whose scores in the reference are closer than the promised
    precision: their order is another one on another processor, in the reference too.
    """
    pairs = [pair for candidates in samples for pair in candidates.pairs]
    ours = model.ours.predict(pairs, activation_fn=IDENTITY)
    theirs = model.reference.predict(pairs, activation_fn=IDENTITY, batch_size=8)
    assert theirs.std() > 0.5, "the stand-in's scores are too alike for a mistake to show"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    for candidates in samples:
        ranked = model.ours.rank(candidates.query, candidates.documents, activation_fn=IDENTITY)
        reference_ranked = model.reference.rank(
            candidates.query, list(candidates.documents), activation_fn=IDENTITY, batch_size=8
        )
        expected = [hit["corpus_id"] for hit in reference_ranked]
        score_of = {hit["corpus_id"]: hit["score"] for hit in reference_ranked}
        found = [hit["corpus_id"] for hit in ranked]
        if found == expected:
            continue
        assert sorted(found) == sorted(expected)
        for place, (ours_there, theirs_there) in enumerate(zip(found, expected, strict=True)):
            gap = abs(score_of[ours_there] - score_of[theirs_there])
            assert gap < TOLERANCE, f"another document in place {place}, {gap} apart"


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_scores_and_order_equal_the_reference(name, rerankers):
    assert_scores_and_order_equal(rerankers(name), sample_candidates(3, 8, longest_words=200))


@pytest.mark.parametrize("name", ["ettin-17m", "minilm-reranker"])
def test_five_hundred_pairs_score_and_rank_as_in_the_reference(name, rerankers):
    samples = sample_candidates(25, 20, longest_words=400, seed=FIVE_HUNDRED_SEED)
    assert sum(len(candidates.documents) for candidates in samples) == 500
    assert_scores_and_order_equal(rerankers(name), samples)


@pytest.mark.parametrize("name", ["ettin-17m", "bert", "roberta", "xlm-roberta", "modernbert-mean"])
def test_tricky_texts_score_as_in_the_reference(name, rerankers):
    model = rerankers(name)
    ours = model.ours.predict(tricky_pairs(), activation_fn=IDENTITY)
    theirs = model.reference.predict(tricky_pairs(), activation_fn=IDENTITY)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["tiny-bert-3", "tiny-ettin-3"])
def test_several_labels_score_as_in_the_reference(name, rerankers):
    model = rerankers(name)
    pairs = sample_candidates(1, 12, longest_words=60)[0].pairs
    ours, theirs = model.ours.predict(pairs), model.reference.predict(pairs)
    assert ours.shape == theirs.shape == (12, 3)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("words", [2500, 4850], ids=["4,000 tokens", "8,000 tokens"])
def test_long_pairs_score_as_in_the_reference(words, rerankers):
    model = rerankers("tiny-ettin")
    generator = np.random.default_rng(3)
    pair = (sample_text(12, generator), sample_text(words, generator))
    token_count = sum(len(ids) for ids in model.ours.tokenize(list(pair)))
    assert token_count > 1.5 * words
    ours = model.ours.predict(pair, activation_fn=IDENTITY)
    theirs = model.reference.predict(pair, activation_fn=IDENTITY)
    assert float(ours) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("ettin-17m", NOISY_BATCH_TOLERANCE),
        ("minilm-reranker", BATCH_TOLERANCE),
        ("modernbert-mean", BATCH_TOLERANCE),
        ("bert", NOISY_BATCH_TOLERANCE),
        ("roberta", NOISY_BATCH_TOLERANCE),
    ],
)
def test_a_score_does_not_depend_on_its_batch_mates(name, tolerance, rerankers):
    model = rerankers(name)
    pairs = sample_candidates(1, 30, longest_words=200)[0].pairs
    together = model.ours.predict(pairs, activation_fn=IDENTITY)
    alone = np.array([model.ours.predict(pair, activation_fn=IDENTITY) for pair in pairs])
    order = np.random.default_rng(4).permutation(len(pairs))
    shuffled = model.ours.predict([pairs[row] for row in order], activation_fn=IDENTITY)
    in_threes = model.ours.predict(pairs, activation_fn=IDENTITY, batch_size=3)
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance)
    np.testing.assert_allclose(together[order], shuffled, rtol=0, atol=tolerance)
    np.testing.assert_allclose(together, in_threes, rtol=0, atol=tolerance)


@pytest.mark.parametrize("token_budget", [1, 100, 100_000])
def test_a_score_does_not_depend_on_the_token_budget(token_budget, rerankers):
    model = rerankers("ettin-17m")
    pairs = sample_candidates(1, 30, longest_words=200)[0].pairs
    budgeted = CrossEncoder(model.folder, precision="fp32", token_budget=token_budget)
    np.testing.assert_allclose(
        budgeted.predict(pairs, activation_fn=IDENTITY),
        model.ours.predict(pairs, activation_fn=IDENTITY),
        rtol=0,
        atol=NOISY_BATCH_TOLERANCE,
    )


@pytest.mark.parametrize("name", ["ettin-17m", "bert", "roberta", "xlm-roberta"])
def test_token_ids_score_exactly_as_their_texts(name, rerankers):
    ours = rerankers(name).ours
    candidates = sample_candidates(1, 12, longest_words=500)[0]
    documents = [*candidates.documents, "", "na\u00efve \U0001f600"]
    from_text = ours.score(candidates.query, documents)
    from_ids = ours.score(candidates.query, ours.tokenize(documents))
    np.testing.assert_array_equal(from_text, from_ids)
    mixed = [*documents[:5], *ours.tokenize(documents[5:])]
    # Here "" comes both as text and as ids, two sequences where there was one: other batches, other last bits.
    np.testing.assert_allclose(
        from_text, ours.score(candidates.query, mixed), rtol=0, atol=NOISY_BATCH_TOLERANCE
    )


def test_score_gives_raw_scores_whatever_the_activation(rerankers):
    model = rerankers("roberta")
    candidates = sample_candidates(1, 8, longest_words=30)[0]
    raw = model.ours.predict(candidates.pairs, activation_fn=IDENTITY)
    np.testing.assert_array_equal(model.ours.score(candidates.query, candidates.documents), raw)
    assert not np.allclose(model.ours.predict(candidates.pairs), raw)


def test_eight_threads_score_as_one(rerankers):
    ours = rerankers("tiny-bert").ours
    candidates = sample_candidates(8, 20, longest_words=60)
    expected = [ours.predict(one.pairs) for one in candidates]
    found: dict[tuple[int, int], np.ndarray] = {}
    barrier = threading.Barrier(8)

    def work(row: int) -> None:
        barrier.wait()
        for turn in range(5):
            found[row, turn] = ours.predict(candidates[row].pairs, batch_size=4 + turn)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for (row, _), scores in found.items():
        np.testing.assert_allclose(scores, expected[row], rtol=0, atol=NOISY_BATCH_TOLERANCE)


def test_identical_documents_rank_by_their_place(rerankers):
    ours = rerankers("ettin-17m").ours
    documents = ["the same words", "other words here", "the same words"] * 5
    order = [hit["corpus_id"] for hit in ours.rank("which words", documents, batch_size=4)]
    same = [row for row in order if row % 3 != 1]
    assert same == sorted(same)
    assert order == rank_scores(ours.score("which words", documents)).rows.tolist()
