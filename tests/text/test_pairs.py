"""What counts as a pair, that equal pairs are scored once, and that every cut token is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runoff.contracts import CutReport, InputError, LengthRules, TruncationError
from runoff.text.pairs import EncodedPairs, as_pairs, encode_pairs
from standin_words import CLS, SEP, word_ids, words, words_tokenizer


def encoded(pairs: list[Any], max_length: int | None = None, **options: Any) -> EncodedPairs:
    """`pairs` over one-token words, cut by `longest_first` unless said otherwise."""
    prompt = options.pop("prompt", "")
    return encode_pairs(words_tokenizer(max_length), pairs, prompt, LengthRules(**options))


def ids_of(found: EncodedPairs) -> list[list[int]]:
    return [sequence.ids.tolist() for sequence in found.sequences]


# --- what is a pair -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "is_single", "pairs"),
    [
        ([("q", "d"), ("q", "e")], False, [("q", "d"), ("q", "e")]),
        ([["q", "d"]], False, [("q", "d")]),
        ((("q", "d"), ["q", "e"]), False, [("q", "d"), ("q", "e")]),
        (("q", "d"), True, [("q", "d")]),
        (["q", "d"], True, [("q", "d")]),
        ("lone", True, ["lone"]),
        (np.array(["q", "d"]), True, [("q", "d")]),
        (np.array([["q", "d"], ["q", "e"]]), False, [("q", "d"), ("q", "e")]),
        (np.array([["q", "d"]], dtype=object), False, [("q", "d")]),
        ([np.array(["q", "d"])], False, [("q", "d")]),
        ([], False, []),
        ((), False, []),
        (np.array([]), False, []),
        (np.empty((0, 2), dtype="U1"), False, []),
        ([["a", "b"], "lone"], False, [("a", "b"), "lone"]),
    ],
)
def test_inputs_are_read_as_sentence_transformers_reads_them(
    inputs: Any, is_single: bool, pairs: list[Any]
) -> None:
    assert as_pairs(inputs) == (is_single, pairs)


def test_any_iterable_of_pairs_is_read_once() -> None:
    assert as_pairs(pair for pair in [("q", "d"), ("q", "e")]) == (False, [("q", "d"), ("q", "e")])
    assert as_pairs(zip(["q"], ["d"], strict=True)) == (False, [("q", "d")])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "inputs is missing"),
        (7, "expected a list of .* pairs, got int: 7"),
        (b"bytes", "got bytes"),
        ({"q": "d"}, "got dict"),
        ({("q", "d")}, "got set"),
        ([("q", None)], "pair 0: Unsupported input type NoneType as document"),
        ([("q", "d"), (None, "d")], "pair 1: Unsupported input type NoneType as query"),
        (("q", 7), r"pair 0: .*int as document"),
        ([("q", b"d")], "pair 0: Unsupported input type bytes as document"),
        ([("q", "d", "e")], r"pair 0: expected \(query, document\), got \('q', 'd', 'e'\)"),
        (["q"], r"pair 0: expected \(query, document\), got \['q'\]"),
        ([("q", "d"), None], r"pair 1: expected \(query, document\), got None"),
        ([("q", "d"), ()], "pair 1: expected"),
    ],
)
def test_what_is_no_pair_of_texts_is_refused_by_its_row(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_pairs(inputs)


# --- pairs -> sequences ---------------------------------------------------------------------------------


def test_pairs_and_lone_texts_get_their_own_templates() -> None:
    found = encoded([("w0", "w5 w6"), "w1"])
    assert ids_of(found) == [[CLS, 3, SEP, 8, 9, SEP], [CLS, 4, SEP]]
    assert found.distinct_pairs.tolist() == [0, 1]
    assert found.cut == CutReport(pairs=2)


def test_a_prompt_goes_before_the_query_and_the_lone_text_alone() -> None:
    found = encoded([("w0", "w5"), "w1"], prompt="w9 ")
    assert ids_of(found) == [[CLS, 12, 3, SEP, 8, SEP], [CLS, 12, 4, SEP]]


def test_equal_pairs_are_scored_once_and_tie_exactly() -> None:
    pairs = [("w0", "w1"), ("w0", "w2"), ("w0", "w1"), ("w1", "w0"), ("w0", "w2"), "w0", "w0"]
    found = encoded(pairs)
    assert len(found.sequences) == 4
    assert found.distinct_pairs.tolist() == [0, 1, 0, 2, 1, 3, 3]
    outputs = np.array([[0.5], [1.5], [2.5], [3.5]], np.float32)
    assert found.scores_of_pairs(outputs)[:, 0].tolist() == [0.5, 1.5, 0.5, 2.5, 1.5, 3.5, 3.5]


def test_token_ids_stand_for_their_text() -> None:
    found = encoded([("w0", "w5 w6"), ("w0", word_ids(2, first=5)), ("w0", word_ids(0))])
    assert ids_of(found) == [[CLS, 3, SEP, 8, 9, SEP]] * 2 + [[CLS, 3, SEP, SEP]]


def test_equal_ids_of_any_integer_type_are_one_pair() -> None:
    ids = word_ids(3)
    found = encoded([("w0", ids.astype(kind)) for kind in ("int32", "int64", "uint16", ">i4")])
    assert found.distinct_pairs.tolist() == [0, 0, 0, 0]
    assert ids_of(found) == [[CLS, 3, SEP, 3, 4, 5, SEP]]


def test_ids_that_only_share_their_bytes_are_different_pairs() -> None:
    """[5] in 64 bits and [5, 0] in 32 are the same eight bytes."""
    one, two = np.array([5], "<i8"), np.array([5, 0], "<i4")
    assert one.tobytes() == two.tobytes()
    assert ids_of(encoded([("w0", one), ("w0", two)])) == [[CLS, 3, SEP, 5, SEP], [CLS, 3, SEP, 5, 0, SEP]]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (np.array([1.0, 2.0]), r"document 1: expected a text, or token ids .* got float64 \[2\]"),
        (np.array([[1, 2]]), r"got int64 \[1, 2\]"),
        ([1, 2], "got list"),
        (None, "got NoneType"),
        (np.array([3, -1]), "between -1 and 3, but the tokenizer has 403 tokens"),
        (np.array([3, 403]), "between 3 and 403, but the tokenizer has 403 tokens"),
    ],
)
def test_what_is_no_id_of_this_tokenizer_is_refused_by_its_row(document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoded([("w0", "w1"), ("w0", document)])


def test_a_query_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="pair 0: Unsupported input type NoneType as query"):
        encoded([(None, word_ids(2))])


# --- what is cut ----------------------------------------------------------------------------------------


def test_every_cut_pair_and_token_is_counted_for_each_of_equal_pairs() -> None:
    """12 tokens, 9 of them of texts: 2 + 10 loses 3, 2 + 7 none, 9 + 9 loses 9."""
    pairs = [(words(2), words(10)), (words(2), words(7)), (words(9), words(9)), (words(2), words(10))]
    found = encoded(pairs, max_length=12)
    assert found.cut == CutReport(pairs=4, cut_pairs=3, cut_tokens=3 + 9 + 3, max_length=12)


def test_a_prompt_counts_as_part_of_the_query() -> None:
    assert encoded([(words(2), words(7))], max_length=12).cut.cut_tokens == 0
    assert encoded([(words(2), words(7))], max_length=12, prompt="w9 ").cut.cut_tokens == 1


def test_a_lone_text_is_counted_too() -> None:
    assert encoded([words(15)], max_length=12).cut == CutReport(1, 1, 5, 12)


@pytest.mark.parametrize("truncation", ["error", "document"])
def test_a_pair_that_cannot_be_cut_is_named(truncation: str) -> None:
    pairs = [("w0", "w1"), ("w2", "w1"), ("w0", "w1"), (words(30), words(30))]
    with pytest.raises(TruncationError, match=r"pair 3: .* 30 "):
        encoded(pairs, max_length=20, truncation=truncation)


def test_a_lone_text_is_refused_too_where_nothing_may_be_cut() -> None:
    assert encoded([words(10)], max_length=12, truncation="error").cut.cut_tokens == 0
    with pytest.raises(TruncationError, match="pair 1: a text of 11 tokens is longer than max_length 12"):
        encoded([words(10), words(11)], max_length=12, truncation="error")


# --- passages -------------------------------------------------------------------------------------------


def test_a_pair_scores_as_the_best_of_its_passages_label_by_label() -> None:
    """Room for 20 tokens of the 45 gives passages 0-19, 15-34, 30-44; the other pairs fit."""
    long, short = (words(2), words(45)), (words(2), words(5))
    found = encoded([short, long, short, long], max_length=25, long_documents="passages")
    assert found.first_sequences.tolist() == [0, 1]
    assert len(found.sequences) == 4
    outputs = np.array([[9, 9], [1, 4], [3, 2], [2, 3]], np.float32)
    assert found.scores_of_pairs(outputs).tolist() == [[9, 9], [3, 4], [9, 9], [3, 4]]


def test_passages_lose_nothing_of_a_document() -> None:
    found = encoded([(words(2), words(45))], max_length=25, long_documents="passages")
    assert found.cut == CutReport(pairs=1, cut_pairs=0, cut_tokens=0, max_length=25)


def test_what_a_long_query_lost_beside_passages_is_counted_once() -> None:
    """53 tokens, 50 of texts: the query keeps 25 of 60, every passage of the document has room for 25."""
    found = encoded([(words(60), words(90))], max_length=53, long_documents="passages")
    assert len(found.sequences) == 5
    assert found.cut == CutReport(pairs=1, cut_pairs=1, cut_tokens=35, max_length=53)
