"""What is cut from a pair that is too long, token for token as Hugging Face's tokenizers cut it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sentence_transformers
import transformers
from torch import nn

from runoff import CrossEncoder
from runoff.contracts import TruncationError
from runoff.text.tokenizer import load_tokenizer
from standin_texts import sample_text

# One token a word in MiniLM's vocabulary.
QUERY_WORD, DOCUMENT_WORD = "river", "stone"


def kept_by(tokenizer, query_length, document_length, max_length):
    """(query, document) tokens that our tokenizer keeps of a pair of these lengths."""
    texts = [" ".join([QUERY_WORD] * query_length), " ".join([DOCUMENT_WORD] * document_length)]
    query, document = tokenizer.tokenize(texts)
    assert (len(query), len(document)) == (query_length, document_length)
    ids = tokenizer.encode_pair(query, document, "longest_first", max_length).ids
    words = [tokenizer.token_id(word) for word in (QUERY_WORD, DOCUMENT_WORD)]
    return tuple(int(np.count_nonzero(ids == word)) for word in words)


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load_tokenizer(checkpoint("tiny-bert"), max_length=512, has_segments=True)


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((10, 2000), (10, 499)),
        ((1000, 1000), (254, 255)),
        ((2000, 10), (499, 10)),
        ((300, 2000), (254, 255)),
    ],
)
def test_longest_first_cuts_as_was_executed(lengths, kept, tokenizer):
    assert kept_by(tokenizer, *lengths, 512) == kept


@pytest.mark.parametrize("max_length", [5, 6, 9, 12])
def test_longest_first_keeps_what_transformers_keeps(max_length, tokenizer, checkpoint):
    reference = transformers.AutoTokenizer.from_pretrained(checkpoint("tiny-bert"))
    words = reference.convert_tokens_to_ids([QUERY_WORD, DOCUMENT_WORD])
    lengths = list(itertools.product(range(13), repeat=2))
    # As lists: a lone pair with an empty second text would be encoded as a single text.
    queries = [" ".join([QUERY_WORD] * length) for length, _ in lengths]
    documents = [" ".join([DOCUMENT_WORD] * length) for _, length in lengths]
    rows = reference(queries, documents, truncation="longest_first", max_length=max_length)["input_ids"]
    for pair, ids in zip(lengths, rows, strict=True):
        assert kept_by(tokenizer, *pair, max_length) == tuple(ids.count(word) for word in words), pair


def long_pairs():
    """Pairs of which the query, the document, or both are longer than 40 tokens; and one that fits."""
    generator = np.random.default_rng(5)
    word_counts = [(8, 200), (200, 8), (100, 100), (30, 300), (300, 30), (3, 5)]
    return [
        (sample_text(query, generator), sample_text(document, generator)) for query, document in word_counts
    ]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-ettin", "roberta"])
def test_cut_pairs_score_as_in_the_reference(name, checkpoint):
    ours = CrossEncoder(checkpoint(name), max_length=40, precision="fp32")
    reference = sentence_transformers.CrossEncoder(str(checkpoint(name)), max_length=40, device="cpu")
    scores = ours.predict(long_pairs(), activation_fn=nn.Identity())
    theirs = reference.predict(long_pairs(), activation_fn=nn.Identity())
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-4)
    assert (scores.cut.pairs, scores.cut.cut_pairs, scores.cut.max_length) == (6, 5, 40)


def test_max_seq_length_may_be_changed_as_in_the_reference(checkpoint):
    ours = CrossEncoder(checkpoint("tiny-bert"), precision="fp32")
    reference = sentence_transformers.CrossEncoder(str(checkpoint("tiny-bert")), device="cpu")
    assert ours.max_seq_length == reference.max_seq_length == 512
    ours.max_seq_length = reference.max_seq_length = 24
    scores, theirs = ours.predict(long_pairs()), reference.predict(long_pairs())
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-4)


def test_document_truncation_cuts_the_document_alone(checkpoint):
    ours = CrossEncoder(checkpoint("tiny-bert"), max_length=64, truncation="document", precision="fp32")
    reference = sentence_transformers.CrossEncoder(str(checkpoint("tiny-bert")), max_length=64, device="cpu")
    generator = np.random.default_rng(6)
    pairs = [(sample_text(words, generator), sample_text(300, generator)) for words in (2, 10, 25)]
    only_second = {"text": {"truncation": "only_second"}}
    theirs = reference.predict(pairs, processing_kwargs=only_second)
    np.testing.assert_allclose(ours.predict(pairs), theirs, rtol=0, atol=1e-4)


def test_error_truncation_refuses_a_long_pair_and_scores_a_short_one(checkpoint):
    ours = CrossEncoder(checkpoint("tiny-bert"), max_length=40, truncation="error")
    *long, short = long_pairs()
    for pair in long:
        with pytest.raises(TruncationError, match="40"):
            ours.predict(pair)
    assert np.isfinite(ours.predict(short))


def test_passages_score_as_the_best_of_the_overlapping_pieces(checkpoint):
    ours = CrossEncoder(checkpoint("tiny-bert"), max_length=40, precision="fp32")
    query, document = "river stone", sample_text(120, np.random.default_rng(7))
    ids = ours.tokenize([document])[0]
    room = 40 - 3 - 2
    best = ours.predict((query, document), activation_fn=nn.Identity(), long_documents="passages")
    starts = range(0, len(ids), 1)
    windows = ours.score(query, [ids[start : start + room] for start in starts])
    assert np.abs(windows - best).min() < 1e-5, "the score is that of some window of the document"
    assert best >= ours.predict((query, document), activation_fn=nn.Identity()) - 1e-5
    short = ("river", "stone")
    assert ours.predict(short, long_documents="passages") == ours.predict(short)
