"""Texts become ids, ids become pairs, and what is cut is cut as Hugging Face's tokenizers cut it."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

import standin_tokenizers
from runoff.contracts import CheckpointError, InputError, TruncationError
from runoff.text.tokenizer import Tokenizer, load_tokenizer
from runoff.text.truncation import MIN_PASSAGE_TOKENS, longest_first
from standin_texts import TRICKY_TEXTS, prose
from standin_tokenizers import minilm_folder
from standin_words import CLS, SEP, UNKNOWN, word_ids, words, words_backend, words_tokenizer

# --- texts -> ids -------------------------------------------------------------------------------------


def test_a_text_becomes_its_ids_without_special_tokens() -> None:
    ids = words_tokenizer().tokenize(["w0 w7", "", "w1 nothing"])
    assert [row.tolist() for row in ids] == [[3, 10], [], [4, UNKNOWN]]
    assert {row.dtype for row in ids} == {np.dtype(np.int32)}
    assert words_tokenizer().tokenize([]) == []


def test_a_saved_truncation_and_padding_change_no_ids() -> None:
    backend = words_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    tokenizer = Tokenizer(backend, max_length=None, has_segments=True)
    assert [row.tolist() for row in tokenizer.tokenize([words(6), ""])] == [word_ids(6).tolist(), []]
    assert tokenizer.encode_single(word_ids(6)).ids.tolist() == [CLS, *word_ids(6), SEP]
    assert tokenizer.saved_limit == 4, "a static table honours it"


@pytest.mark.parametrize(("texts", "message"), [(["w0", 7], "text 1 must be a string, got int: 7")])
def test_what_is_no_text_is_refused_by_its_row(texts: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        words_tokenizer().tokenize(texts)


def test_a_lone_surrogate_is_refused_by_its_row() -> None:
    with pytest.raises(InputError, match="text 2 holds a lone surrogate"):
        words_tokenizer().tokenize(["w0", "\U0001f600", "half of an emoji: \ud83d"])


def test_many_threads_tokenise_as_one() -> None:
    tokenizer = words_tokenizer(max_length=20)
    texts = [words(length, first=length) for length in range(60)]
    expected = [row.tolist() for row in tokenizer.tokenize(texts)]
    pairs = [tokenizer.encode_pair(word_ids(9), word_ids(length)).ids.tolist() for length in range(60)]
    found: dict[tuple[int, int], Any] = {}
    barrier = threading.Barrier(8)

    def work(row: int) -> None:
        barrier.wait()
        for turn in range(20):
            ids = tokenizer.tokenize(texts)
            joined = [tokenizer.encode_pair(word_ids(9), word_ids(length)) for length in range(60)]
            found[row, turn] = [each.tolist() for each in ids], [each.ids.tolist() for each in joined]

    threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert all(each == (expected, pairs) for each in found.values())


# --- ids -> sequences ---------------------------------------------------------------------------------


def test_a_pair_gets_its_special_tokens_and_segments() -> None:
    encoded = words_tokenizer().encode_pair(word_ids(2), word_ids(3, first=5))
    assert encoded.ids.tolist() == [CLS, 3, 4, SEP, 8, 9, 10, SEP]
    assert encoded.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert encoded.cut_tokens == 0
    assert (encoded.ids.dtype, encoded.type_ids.dtype) == (np.int32, np.int32)


def test_a_model_without_segments_gets_segment_0_everywhere() -> None:
    encoded = words_tokenizer(has_segments=False).encode_pair(word_ids(2), word_ids(3))
    assert encoded.type_ids.tolist() == [0] * 8


def test_a_single_text_gets_its_own_template() -> None:
    tokenizer = words_tokenizer(max_length=5)
    assert tokenizer.encode_single(word_ids(2)).ids.tolist() == [CLS, 3, 4, SEP]
    cut = tokenizer.encode_single(word_ids(7))
    assert (cut.ids.tolist(), cut.cut_tokens) == ([CLS, 3, 4, 5, SEP], 4)
    assert tokenizer.encode_single(word_ids(0)).ids.tolist() == [CLS, SEP]


@pytest.mark.parametrize(
    ("pair_template", "ids"),
    [
        ("[CLS] $A [SEP] [SEP] $B [SEP]", [CLS, 3, SEP, SEP, 8, 9, SEP]),  # RoBERTa
        ("$A [SEP] $B", [3, SEP, 8, 9]),
        ("$A $B:1", [3, 8, 9]),
    ],
)
def test_the_template_is_read_from_the_tokenizer(pair_template: str, ids: list[int]) -> None:
    tokenizer = Tokenizer(words_backend(pair=pair_template), max_length=None, has_segments=True)
    assert tokenizer.encode_pair(word_ids(1), word_ids(2, first=5)).ids.tolist() == ids
    assert tokenizer.special_token_count == len(ids) - 3


@pytest.mark.parametrize("pair_template", ["[CLS] $B [SEP] $A", "[CLS] $A [SEP] $B $A"])
def test_a_template_that_puts_the_second_text_first_is_refused(pair_template: str) -> None:
    with pytest.raises(CheckpointError, match="its pairs would be misread"):
        Tokenizer(words_backend(pair=pair_template), max_length=None, has_segments=True)


# --- what is cut --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((10, 2000), (10, 499)),
        ((1000, 1000), (254, 255)),
        ((2000, 10), (499, 10)),
        ((300, 2000), (254, 255)),
        ((2000, 300), (255, 254)),
        ((254, 255), (254, 255)),
        ((0, 2000), (0, 509)),
        ((2000, 0), (509, 0)),
    ],
)
def test_longest_first_leaves_of_512_what_was_executed(
    lengths: tuple[int, int], kept: tuple[int, int]
) -> None:
    """The first four rows were executed with transformers; three tokens of 512 are special ones."""
    assert tuple(int(length) for length in longest_first(*lengths, 509)) == kept


lengths = st.integers(0, 40)


@given(lengths, lengths, st.integers(5, 45), st.sampled_from(["right", "left"]))
def test_any_pair_is_cut_as_the_tokenizers_library_cuts_it(
    query_length: int, document_length: int, limit: int, side: str
) -> None:
    backend = words_backend()
    backend.enable_truncation(limit, strategy="longest_first", direction=side)
    texts = words(query_length), words(document_length, first=100)
    expected = backend.encode(*texts)
    ours = words_tokenizer(max_length=limit, truncation_side=side).encode_pair(
        word_ids(query_length), word_ids(document_length, first=100)
    )
    assert ours.ids.tolist() == expected.ids
    assert ours.type_ids.tolist() == expected.type_ids
    assert ours.cut_tokens == query_length + document_length + 3 - len(expected.ids)


@given(lengths, lengths, st.integers(5, 45), st.sampled_from(["right", "left"]))
def test_document_truncation_is_only_second_of_the_tokenizers_library(
    query_length: int, document_length: int, limit: int, side: str
) -> None:
    tokenizer = words_tokenizer(max_length=limit, truncation_side=side)
    ids = word_ids(query_length), word_ids(document_length, first=100)
    if query_length + 3 >= limit and query_length + document_length + 3 > limit:
        with pytest.raises(TruncationError, match=f"the query alone has {query_length} tokens"):
            tokenizer.encode_pair(*ids, "document")
        return
    backend = words_backend()
    backend.enable_truncation(limit, strategy="only_second", direction=side)
    expected = backend.encode(words(query_length), words(document_length, first=100))
    assert tokenizer.encode_pair(*ids, "document").ids.tolist() == expected.ids


def test_left_truncation_keeps_the_ends() -> None:
    tokenizer = words_tokenizer(max_length=7, truncation_side="left")
    encoded = tokenizer.encode_pair(word_ids(5), word_ids(5, first=100))
    assert encoded.ids.tolist() == [CLS, 6, 7, SEP, 106, 107, SEP]
    assert encoded.cut_tokens == 6
    assert tokenizer.encode_single(word_ids(9)).ids.tolist() == [CLS, 7, 8, 9, 10, 11, SEP]


def test_error_truncation_takes_a_pair_that_just_fits_and_refuses_one_token_more() -> None:
    tokenizer = words_tokenizer(max_length=10)
    assert len(tokenizer.encode_pair(word_ids(3), word_ids(4), "error").ids) == 10
    with pytest.raises(TruncationError, match=r"a pair of 3 \+ 5 tokens and 3 special ones .* max_length 10"):
        tokenizer.encode_pair(word_ids(3), word_ids(5), "error")


def test_without_a_limit_nothing_is_cut() -> None:
    encoded = words_tokenizer().encode_pair(word_ids(300), word_ids(300), "error")
    assert (len(encoded.ids), encoded.cut_tokens) == (603, 0)


def test_the_limit_of_a_call_goes_before_the_tokenizers_own() -> None:
    tokenizer = words_tokenizer(max_length=10)
    assert len(tokenizer.encode_pair(word_ids(9), word_ids(9), max_length=6).ids) == 6
    assert len(tokenizer.encode_pair(word_ids(9), word_ids(9), max_length=100).ids) == 21
    assert len(tokenizer.encode_single(word_ids(9), max_length=4).ids) == 4


def test_a_limit_without_room_for_a_pair_is_refused() -> None:
    with pytest.raises(InputError, match="max_length 4 leaves no room for a pair: 3 are special tokens"):
        words_tokenizer(max_length=4).encode_pair(word_ids(5), word_ids(5))


# --- passages -----------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 300), st.integers(40, 80))
def test_passages_keep_the_query_and_every_token_of_the_document(
    query_length: int, document_length: int, limit: int
) -> None:
    query, document = word_ids(query_length), word_ids(document_length, first=100)
    passages = words_tokenizer(max_length=limit).encode_passages(query, document, "document")
    room = limit - 3 - query_length
    parts = [passage.ids[query_length + 2 : -1] for passage in passages]
    for passage, part in zip(passages, parts, strict=True):
        assert passage.ids[: query_length + 2].tolist() == [CLS, *query, SEP]
        assert 0 < len(passage.ids) <= limit
        assert passage.cut_tokens == 0
        assert (np.diff(part) == 1).all()
    assert sorted({int(token) for part in parts for token in part}) == document.tolist()
    # Only the last passage may be short, and each begins a quarter of a passage before the last one ended.
    assert all(len(part) == room for part in parts[:-1])
    overlaps = [int(first[-1]) + 1 - int(second[0]) for first, second in itertools.pairwise(parts)]
    assert set(overlaps) <= {room // 4}
    assert len(parts) == 1 or len(parts[-1]) > room // 4, "a passage that says nothing new"


def test_passages_by_hand() -> None:
    """Room for 20 tokens of 45, a step of 15: tokens 0-19, 15-34, 30-44."""
    passages = words_tokenizer(max_length=25).encode_passages(
        word_ids(2), word_ids(45, first=100), "document"
    )
    spans = [(int(passage.ids[4]) - 103, int(passage.ids[-2]) - 103) for passage in passages]
    assert spans == [(0, 19), (15, 34), (30, 44)]


def test_a_pair_that_fits_is_one_passage() -> None:
    tokenizer = words_tokenizer(max_length=25)
    (passage,) = tokenizer.encode_passages(word_ids(2), word_ids(20), "error")
    assert passage.ids.tolist() == tokenizer.encode_pair(word_ids(2), word_ids(20)).ids.tolist()


@pytest.mark.parametrize("document_length", [0, 1, MIN_PASSAGE_TOKENS - 1, MIN_PASSAGE_TOKENS])
def test_a_short_document_beside_a_long_query_is_one_whole_passage(document_length: int) -> None:
    """The query alone gives way: nothing of the document needs a passage of its own."""
    tokenizer = words_tokenizer(max_length=50)
    (passage,) = tokenizer.encode_passages(
        word_ids(90), word_ids(document_length, first=100), "longest_first"
    )
    expected = [CLS, *word_ids(47 - document_length), SEP, *word_ids(document_length, first=100), SEP]
    assert passage.ids.tolist() == expected
    assert passage.cut_tokens == 90 - (47 - document_length), "tokens of the query, which are lost"


def test_passages_count_what_the_query_lost_in_each() -> None:
    passages = words_tokenizer(max_length=53).encode_passages(word_ids(60), word_ids(90), "longest_first")
    assert [passage.cut_tokens for passage in passages] == [60 - 25] * 5
    assert all(len(passage.ids) <= 53 for passage in passages)


def test_a_query_that_leaves_too_little_for_a_passage_is_refused() -> None:
    tokenizer = words_tokenizer(max_length=20)
    assert len(tokenizer.encode_passages(word_ids(1), word_ids(50), "document")) > 1
    with pytest.raises(TruncationError, match="a query of 2 tokens leaves 15 of 20 tokens for a passage"):
        tokenizer.encode_passages(word_ids(2), word_ids(50), "document")


# --- fingerprint ---------------------------------------------------------------------------------------


def fingerprint(**changes: Any) -> str:
    """Of the words tokenizer whose saved JSON has `changes` at its top level."""
    rules = json.loads(words_backend().to_str()) | changes
    backend = type(words_backend()).from_str(json.dumps(rules))
    return Tokenizer(backend, max_length=None, has_segments=True).fingerprint


def test_a_fingerprint_is_equal_where_every_text_gets_the_same_ids() -> None:
    first = words_tokenizer().fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert fingerprint() == first
    backend = words_backend(pair="[CLS] $A [SEP] [SEP] $B [SEP]")
    backend.enable_truncation(7)
    backend.enable_padding()
    other = Tokenizer(backend, max_length=9, has_segments=False, truncation_side="left")
    assert other.fingerprint == first


def test_a_fingerprint_differs_where_some_text_gets_other_ids() -> None:
    model = json.loads(words_backend().to_str())["model"]
    swapped = model["vocab"] | {"w0": model["vocab"]["w1"], "w1": model["vocab"]["w0"]}
    added = words_backend()
    added.add_tokens(["two words"])
    prints = [
        fingerprint(),
        fingerprint(model=model | {"vocab": swapped}),
        fingerprint(model=model | {"unk_token": "[SEP]"}),
        fingerprint(normalizer={"type": "Lowercase"}),
        fingerprint(pre_tokenizer={"type": "Whitespace"}),
        Tokenizer(added, max_length=None, has_segments=True).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


# --- files ----------------------------------------------------------------------------------------------


def test_a_tokenizer_that_gives_no_token_for_a_letter_is_refused() -> None:
    backend = words_backend()
    backend.normalizer = normalizers.Replace("a", " ")
    with pytest.raises(CheckpointError, match="no token for the letter 'a'"):
        Tokenizer(backend, max_length=None, has_segments=True)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path, max_length=None)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("[1]", "must hold a JSON object, got list")]
)
def test_a_damaged_tokenizer_config_is_refused(content: str, message: str, tmp_path: Path) -> None:
    words_backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path, max_length=None)


def test_lower_casing_asked_for_beside_the_tokenizer_changes_case_alone(tmp_path: Path) -> None:
    words_backend().save(str(tmp_path / "tokenizer.json"))
    plain, lowercasing = (
        load_tokenizer(tmp_path, max_length=None, lowercases=each) for each in (False, True)
    )
    assert plain.tokenize(["W0 w0"])[0].tolist() == [UNKNOWN, 3]
    assert lowercasing.tokenize(["W0 w0 \u00c9"])[0].tolist() == [3, 3, UNKNOWN]
    assert plain.fingerprint != lowercasing.fingerprint


@pytest.mark.parametrize("class_name", ["BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"])
def test_a_named_class_brings_its_own_rules(class_name: str, tmp_path: Path) -> None:
    """transformers keeps only the vocabulary of tokenizer.json and builds the rest anew, the template too."""
    build = {
        "BertTokenizer": standin_tokenizers.wordpiece_tokenizer,
        "RobertaTokenizer": standin_tokenizers.roberta_tokenizer,
        "XLMRobertaTokenizer": standin_tokenizers.xlm_roberta_tokenizer,
    }[class_name]
    build().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    rules = json.loads(file.read_text("utf-8"))
    rules["normalizer"] = {"type": "Lowercase"}
    rules["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    rules["post_processor"] = None
    file.write_text(json.dumps(rules), "utf-8")
    texts = [*TRICKY_TEXTS, *prose()[:40]]
    reference = getattr(transformers, class_name).from_pretrained(tmp_path)
    expected = reference(texts, add_special_tokens=False)
    tokenizer = load_tokenizer(tmp_path, max_length=None, has_segments=True, class_name=class_name)
    ours = tokenizer.tokenize(texts)
    generic = load_tokenizer(tmp_path, max_length=None).tokenize(texts)
    assert [row.tolist() for row in ours] == expected["input_ids"]
    pair = reference([texts[4]], [texts[7]], return_token_type_ids=True)
    assert tokenizer.encode_pair(ours[4], ours[7]).ids.tolist() == pair["input_ids"][0]
    assert tokenizer.encode_pair(ours[4], ours[7]).type_ids.tolist() == pair["token_type_ids"][0]
    assert tokenizer.encode_single(ours[4]).ids.tolist() == reference([texts[4]])["input_ids"][0]
    assert [row.tolist() for row in generic] != expected["input_ids"], "the rules make no difference"


def test_a_vocabulary_file_alone_tokenises_as_its_tokenizer_json(tmp_path: Path) -> None:
    source = load_tokenizer(minilm_folder(), max_length=None, class_name="BertTokenizer")
    vocabulary = json.loads((minilm_folder() / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    loaded = load_tokenizer(tmp_path, max_length=None, has_segments=True, class_name="BertTokenizer")
    texts = [*TRICKY_TEXTS, *prose()[:40]]
    for ours, expected in zip(loaded.tokenize(texts), source.tokenize(texts), strict=True):
        np.testing.assert_array_equal(ours, expected)
    first, second = loaded.tokenize(["a query", "a document"])
    encoded = loaded.encode_pair(first, second)
    assert encoded.ids[0] == loaded.token_id("[CLS]")
    assert encoded.type_ids.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
