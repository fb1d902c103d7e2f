"""Pairs packed a chunk at a time are what pairs encoded one by one are: the readable twin in standin_pairs.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.contracts import (
    Batch,
    CutReport,
    FloatArray,
    InputError,
    LengthRules,
    LongDocuments,
    TruncationError,
)
from runoff.text import pairs as pairs_module
from runoff.text.batching import unpacked
from runoff.text.pairs import EncodedPairs, PairEncoder, cut_report, encode_pairs, scores_of_pairs
from runoff.text.tokenizer import Tokenizer
from standin_pairs import SlowSequence, SlowTokenizer, all_encoded
from standin_words import CLS, SEP, word_ids, words, words_backend, words_tokenizer

# Lone template, pair template, and the same for the twin.
TEMPLATES = (
    (
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        [([CLS], 0), ("query", 0), ([SEP], 0)],
        [([CLS], 0), ("query", 0), ([SEP], 0), ("document", 1), ([SEP], 1)],
    ),
    (
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] [SEP]:1 $B [SEP]",
        [([CLS], 0), ("query", 0), ([SEP], 0)],
        [([CLS], 0), ("query", 0), ([SEP], 0), ([SEP], 1), ("document", 0), ([SEP], 0)],
    ),
    ("$A", "$A $B:1", [("query", 0)], [("query", 0), ("document", 1)]),
    ("$A [SEP]", "$A [SEP] $B", [("query", 0), ([SEP], 0)], [("query", 0), ([SEP], 0), ("document", 0)]),
)

Spec = tuple[int, int, str]
"""Words of the query, words of the document, and how it comes: as text, as token ids, or not at all."""


@st.composite
def tokenizers(draw: st.DrawFn) -> tuple[Tokenizer, SlowTokenizer]:
    lone, pair, slow_lone, slow_pair = draw(st.sampled_from(TEMPLATES))
    limit = draw(st.none() | st.integers(1, 8) | st.integers(30, 70))
    has_segments, cuts_left = draw(st.booleans()), draw(st.booleans())
    tokenizer = Tokenizer(
        words_backend(lone, pair),
        max_length=limit,
        has_segments=has_segments,
        truncation_side="left" if cuts_left else "right",
    )
    return tokenizer, SlowTokenizer(slow_pair, slow_lone, limit, has_segments, cuts_left)


rules = st.builds(
    LengthRules,
    st.sampled_from(["longest_first", "document", "error"]),
    st.sampled_from(["truncate", "passages"]),
    st.none() | st.none() | st.integers(1, 8) | st.integers(30, 70),
)
# Few lengths of queries and many of documents: equal pairs occur, and so do pairs that differ in one part.
specs = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 4, 30]),
        st.integers(0, 5) | st.integers(20, 120),
        st.sampled_from(["text", "ids", "lone"]),
    ),
    min_size=1,
    max_size=14,
)


def pair_of(spec: Spec) -> Any:
    query, document, form = spec
    if form == "lone":
        return words(query)
    return words(query), words(document, first=100) if form == "text" else word_ids(document, first=100)


def slow_pair_of(spec: Spec, prompt: Sequence[int]) -> Any:
    """The pair's ids; the twin tells a text from its ids by the type of the row, as two pairs that are not equal."""
    query, document, form = spec
    ids = [*prompt, *word_ids(query).tolist()]
    if form == "lone":
        return ids, None
    row = word_ids(document, first=100).tolist()
    return ids, row if form == "text" else StoredIds(row)


class StoredIds(list[int]):
    """Ids that are no text's: equal to nothing but their like."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredIds) and list.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]


def values_of(sequence: SlowSequence) -> list[float]:
    """Two numbers that say what a sequence is: small enough to be exact in fp32."""
    places = enumerate(zip(sequence.ids, sequence.type_ids, strict=True), 1)
    return [float(sum(place * (ids + 3 * segment) for place, (ids, segment) in places)), len(sequence.ids)]


def outputs_of(block: Batch) -> FloatArray:
    """What an engine that answers with `values_of` gives, in the order of `rows`."""
    rows = [values_of(SlowSequence(each.ids.tolist(), each.type_ids.tolist())) for each in unpacked(block)]
    return np.array(rows, np.float32).reshape(-1, 2)


def in_chunks(encoder: PairEncoder, tokenizer: Tokenizer, given: list[Any], size: int) -> list[EncodedPairs]:
    found = []
    for first in range(0, len(given), size):
        new = encoder.prepare(given[first : first + size], first)
        found.append(encoder.encode(new, tokenizer.ids_of_texts(new.texts)))
    return found


def refusal_or_result(work: Callable[[], Any]) -> tuple[tuple[type, str] | None, Any]:
    """What an `InputError` was, or what came without one."""
    try:
        return None, work()
    except InputError as error:
        return (type(error), str(error)), None


@settings(max_examples=400)
@given(tokenizers(), rules, specs, st.integers(1, 14), st.booleans())
def test_packed_pairs_are_what_they_are_one_by_one(
    both: tuple[Tokenizer, SlowTokenizer],
    length_rules: LengthRules,
    given_specs: list[Spec],
    size: int,
    has_prompt: bool,
) -> None:
    tokenizer, slow = both
    prompt, prompt_ids = ("w300 w301 ", word_ids(2, first=300).tolist()) if has_prompt else ("", [])
    given_pairs = [pair_of(spec) for spec in given_specs]
    slow_pairs = [slow_pair_of(spec, prompt_ids) for spec in given_specs]
    refusal, expected = refusal_or_result(lambda: all_encoded(slow, slow_pairs, length_rules))
    encoder = PairEncoder(tokenizer, prompt, length_rules)
    found_refusal, parts = refusal_or_result(lambda: in_chunks(encoder, tokenizer, given_pairs, size))
    assert found_refusal == refusal
    if refusal:
        return

    sequences = [each for part in parts for each in part.sequences]
    assert [each.ids.tolist() for each in sequences] == [each.ids for each in expected["sequences"]]
    assert [each.type_ids.tolist() for each in sequences] == [each.type_ids for each in expected["sequences"]]
    numbers = [number for part in parts for number in part.distinct_pairs.tolist()]
    assert numbers == expected["numbers"]

    lost = [expected["lost"][number] for number in numbers]
    limit = slow.max_length if length_rules.max_length is None else length_rules.max_length
    assert cut_report(parts) == CutReport(len(lost), sum(cut > 0 for cut in lost), sum(lost), limit or 0)

    ends = [*expected["first"][1:], len(expected["sequences"])]
    spans = [expected["sequences"][first:end] for first, end in zip(expected["first"], ends, strict=True)]
    best = [np.max([values_of(each) for each in span], axis=0).tolist() for span in spans]
    scores = scores_of_pairs(parts, [outputs_of(part.block) for part in parts if len(part.block)])
    assert scores.tolist() == [best[number] for number in numbers]


@settings(max_examples=100)
@given(tokenizers(), specs)
def test_a_block_is_packed_longest_first(
    both: tuple[Tokenizer, SlowTokenizer], given_specs: list[Spec]
) -> None:
    tokenizer, _ = both
    tokenizer.max_length = None
    block = encode_pairs(tokenizer, [pair_of(spec) for spec in given_specs], "", LengthRules()).block
    lengths = np.diff(block.offsets)
    assert (np.diff(lengths) <= 0).all()
    assert block.positions.tolist() == [place for length in lengths for place in range(length)]
    assert block.offsets[-1] == len(block.ids) == len(block.type_ids)
    equal = np.flatnonzero(np.diff(lengths) == 0)
    assert (block.rows[equal] < block.rows[equal + 1]).all()
    kinds = {array.dtype for array in (block.ids, block.type_ids, block.positions, block.offsets)}
    assert kinds == {np.dtype(np.int32)}


# --- equal pairs of a call ------------------------------------------------------------------------------


def test_a_pair_that_an_earlier_chunk_had_is_no_sequence_again() -> None:
    tokenizer = words_tokenizer(max_length=12)
    given_pairs = [("w0", "w1"), ("w0", word_ids(20)), ("w0", word_ids(20)), ("w0", "w1"), ("w0", "w2")]
    parts = in_chunks(PairEncoder(tokenizer, "", LengthRules()), tokenizer, given_pairs, size=2)
    assert [len(part.block) for part in parts] == [2, 0, 1]
    assert [part.distinct_pairs.tolist() for part in parts] == [[0, 1], [1, 0], [2]]
    scores = scores_of_pairs(parts, [np.array([[1.5], [2.5]], np.float32), np.array([[3.5]], np.float32)])
    assert scores[:, 0].tolist() == [1.5, 2.5, 2.5, 1.5, 3.5]
    # 12 tokens, 9 of them of texts: 1 + 20 loses 12, twice.
    assert cut_report(parts) == CutReport(pairs=5, cut_pairs=2, cut_tokens=24, max_length=12)


def test_documents_whose_hashes_are_equal_are_not_taken_for_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "_hash", lambda _ids: 7)
    given_pairs = [("w0", word_ids(3)), ("w0", word_ids(4)), ("w0", word_ids(3))]
    found = encode_pairs(words_tokenizer(), given_pairs, "", LengthRules())
    assert found.distinct_pairs.tolist() == [0, 1, 0]
    assert [len(each.ids) for each in found.sequences] == [3 + 1 + 3, 3 + 1 + 4]


def test_ids_that_are_views_with_steps_are_read_as_they_are() -> None:
    every_other = word_ids(6)[::2]
    found = encode_pairs(
        words_tokenizer(), [("w0", every_other), ("w0", every_other.copy())], "", LengthRules()
    )
    assert found.distinct_pairs.tolist() == [0, 0]
    assert found.sequences[0].ids.tolist() == [CLS, 3, SEP, 3, 5, 7, SEP]


def test_the_first_bad_document_is_named_whatever_is_wrong_with_the_later_ones() -> None:
    given_pairs: list[Any] = [("w0", word_ids(2)), ("w0", np.array([10**6], np.int32)), (None, "w0")]
    with pytest.raises(InputError, match="document 1: its token ids lie between 1000000 and 1000000"):
        encode_pairs(words_tokenizer(), given_pairs, "", LengthRules())


def test_ids_beyond_32_bits_are_refused_and_not_wrapped() -> None:
    with pytest.raises(InputError, match="document 0: its token ids lie between 4294967300 and 4294967300"):
        encode_pairs(words_tokenizer(), [("w0", np.array([2**32 + 4]))], "", LengthRules())


def test_of_two_kinds_of_refusal_the_first_pairs_is_told() -> None:
    """4 tokens, 3 of them special: no room for a pair, and a lone text of 5 words does not fit either."""
    tokenizer, refusing = words_tokenizer(max_length=4), LengthRules("error")
    with pytest.raises(TruncationError, match="pair 0: a text of 5 tokens is longer than max_length 4"):
        encode_pairs(tokenizer, [words(5), ("w0", "w1")], "", refusing)
    with pytest.raises(InputError, match="max_length 4 leaves no room for a pair"):
        encode_pairs(tokenizer, [("w0", "w1"), words(5)], "", refusing)


@pytest.mark.parametrize("long_documents", ["truncate", "passages"])
def test_a_query_that_just_fills_the_room_leaves_none_for_the_document(long_documents: LongDocuments) -> None:
    """20 tokens, 3 of them special: 17 words of a query are as bad as 18."""
    tokenizer, whole_query = words_tokenizer(max_length=20), LengthRules("document", long_documents)
    for count in (17, 18):
        with pytest.raises(TruncationError, match=f"pair 0: the query alone has {count} tokens"):
            encode_pairs(tokenizer, [(words(count), "w1")], "", whole_query)
