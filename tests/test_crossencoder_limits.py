"""What `CrossEncoder` adds: truncation rules, passages, the report of what was cut, token ids, threads; its limits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import standins
from runoff import CrossEncoder
from runoff.contracts import CutReport, InputError, ScoreError, Scorer, TruncationError
from standin_texts import sample_candidates, sample_text

# The same sequences in other batches: rounding alone.
TOLERANCE = 1e-5
LIMIT = 40
SPECIAL = 3
ROOM = LIMIT - SPECIAL


@pytest.fixture(scope="module")
def folder(tiny: Callable[[str], Path]) -> Path:
    """A BERT with segments and 512 positions."""
    return tiny("bert")


@pytest.fixture(scope="module")
def short(folder: Path) -> CrossEncoder:
    """It, limited to 40 tokens."""
    return CrossEncoder(folder, max_length=LIMIT)


def text(words: int, seed: int = 0) -> str:
    return sample_text(words, np.random.default_rng(seed))


LONG, QUERY = text(120), "river stone"


# --- the report ---------------------------------------------------------------------------------------------


def test_the_report_counts_what_the_reference_tokenizer_drops(folder: Path, short: CrossEncoder) -> None:
    pairs = [(QUERY, LONG), (LONG, QUERY), (text(60, 1), text(60, 2)), (QUERY, "a short one"), (QUERY, "")]
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    whole, kept = (
        [len(ids) for ids in reference([q for q, _ in pairs], [d for _, d in pairs], **options)["input_ids"]]
        for options in ({}, {"truncation": True, "max_length": LIMIT})
    )
    expected = CutReport(5, 3, sum(whole) - sum(kept), LIMIT)
    assert short.predict(pairs).cut == expected
    assert short.predict(pairs, convert_to_numpy=True, batch_size=1).cut == expected


def test_rank_and_score_carry_the_report_too(short: CrossEncoder) -> None:
    documents = ["a short one", LONG, LONG]
    lost = len(short.tokenize([LONG])[0]) + 2 - ROOM
    expected = CutReport(pairs=3, cut_pairs=2, cut_tokens=2 * lost, max_length=LIMIT)
    assert short.rank(QUERY, documents, top_k=1).cut == expected
    assert short.score(QUERY, documents).cut == expected


def test_what_fits_is_reported_as_whole(short: CrossEncoder) -> None:
    assert short.predict([(QUERY, "short")]).cut == CutReport(1, 0, 0, LIMIT)
    assert short.rank(QUERY, []).cut == CutReport()


def test_the_first_cut_is_warned_of_and_no_other(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CrossEncoder(folder, max_length=LIMIT)
    model.predict([(QUERY, "short")])
    assert caplog.records == []
    model.rank(QUERY, [LONG, "short"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{folder}: 1 of 2 pairs were longer than {LIMIT} tokens and were cut" in record.getMessage()
    model.predict([(QUERY, LONG)])
    model.score(QUERY, [LONG])
    assert len(caplog.records) == 1
    CrossEncoder(folder, max_length=LIMIT).predict((QUERY, LONG))
    assert len(caplog.records) == 2, "another model says it for itself"


# --- truncation rules ----------------------------------------------------------------------------------------


def test_document_truncation_scores_the_whole_query_and_the_documents_beginning(short: CrossEncoder) -> None:
    query = text(14, 3)
    query_ids, document_ids = short.tokenize([query, LONG])
    kept = document_ids[: ROOM - len(query_ids)]
    found = short.predict([(query, LONG)], truncation="document", activation_fn="identity")
    np.testing.assert_allclose(found, short.score(query, [kept]), rtol=0, atol=TOLERANCE)
    assert found.cut.cut_tokens == len(document_ids) - len(kept)
    # A query of more than half of the room is what the two rules differ in.
    query = text(24, 3)
    assert ROOM / 2 < len(short.tokenize([query])[0]) < ROOM
    by_rule = [short.predict((query, LONG), truncation=rule) for rule in ("document", "longest_first")]
    assert abs(by_rule[0] - by_rule[1]) > 1e-3


@pytest.mark.parametrize("truncation", ["error", "document"])
def test_a_pair_that_cannot_be_cut_is_named_by_its_place(truncation: Any, short: CrossEncoder) -> None:
    pairs = [(QUERY, "short"), (text(60, 4), LONG), (QUERY, "short")]
    with pytest.raises(TruncationError, match=r"pair 1: "):
        short.predict(pairs, truncation=truncation)


def test_the_rule_of_a_call_goes_before_the_constructors(folder: Path) -> None:
    strict = CrossEncoder(folder, max_length=LIMIT, truncation="error", long_documents="truncate")
    with pytest.raises(TruncationError, match="pair 0"):
        strict.predict((QUERY, LONG))
    with pytest.raises(TruncationError, match="pair 1"):
        strict.score(QUERY, ["short", LONG])
    by_call = strict.rank(QUERY, [LONG, "short"], truncation="longest_first")
    assert by_call == CrossEncoder(folder, max_length=LIMIT).rank(QUERY, [LONG, "short"])


@pytest.mark.parametrize("inputs", [[(QUERY, LONG)], []])
def test_an_unknown_rule_is_refused_even_for_no_pairs(inputs: Any, short: CrossEncoder) -> None:
    with pytest.raises(
        InputError, match="truncation must be one of longest_first, document, error; got 'only"
    ):
        short.predict(inputs, truncation="only_second")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="long_documents must be one of truncate, passages; got 'chunks'"):
        short.predict(inputs, long_documents="chunks")  # type: ignore[arg-type]


def test_an_unknown_rule_is_refused_by_the_constructor(folder: Path) -> None:
    with pytest.raises(InputError, match="truncation must be one of"):
        CrossEncoder(folder, truncation="middle")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="long_documents must be one of"):
        CrossEncoder(folder, long_documents="windows")  # type: ignore[arg-type]


# --- passages --------------------------------------------------------------------------------------------------


def windows(ids: np.ndarray, room: int) -> list[np.ndarray]:
    """Passages by hand: three quarters of `room` apart, until one holds the last token."""
    found, start = [], 0
    while True:
        found.append(ids[start : start + room])
        if start + room >= len(ids):
            return found
        start += room - room // 4


@pytest.mark.parametrize("name", ["bert", "ettin"])
def test_a_long_document_scores_as_its_best_passage(name: str, tiny: Callable[[str], Path]) -> None:
    model = CrossEncoder(tiny(name), max_length=LIMIT, activation_fn="identity")
    query_ids, ids = model.tokenize([QUERY, LONG])
    parts = model.score(QUERY, windows(ids, ROOM - len(query_ids)))
    assert len(parts) > 3
    assert parts.argmax() > 0, "the first passage is the best: what truncation gives too"
    found = model.predict([(QUERY, "short"), (QUERY, LONG)], long_documents="passages")
    expected = [model.predict((QUERY, "short")), parts.max()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert found.cut == CutReport(2, 0, 0, LIMIT)


def test_passages_of_the_constructor_count_in_every_method(folder: Path, short: CrossEncoder) -> None:
    model = CrossEncoder(folder, max_length=LIMIT, long_documents="passages")
    documents = [LONG, "short", text(200, 5)]
    expected = short.predict(
        [(QUERY, each) for each in documents], long_documents="passages", activation_fn="identity"
    )
    np.testing.assert_array_equal(model.score(QUERY, documents), expected)
    np.testing.assert_array_equal(model.score(QUERY, model.tokenize(documents)), expected)
    assert [hit["score"] for hit in model.rank(QUERY, documents, activation_fn="identity")] == sorted(
        expected.tolist(), reverse=True
    )
    cut = model.predict([(QUERY, LONG)], long_documents="truncate").cut
    assert cut.cut_pairs == 1


def test_a_query_cut_beside_passages_is_reported(short: CrossEncoder) -> None:
    query = text(60, 6)
    found = short.predict([(query, LONG)], long_documents="passages")
    kept = ROOM // 2  # the shorter of two long texts gets the smaller half
    assert len(short.tokenize([query])[0]) < len(short.tokenize([LONG])[0])
    assert found.cut == CutReport(1, 1, len(short.tokenize([query])[0]) - kept, LIMIT)


# --- token ids and threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"truncation": "document"}, {"long_documents": "passages"}, {"prompts": {"q": "find: "}}],
    ids=str,
)
def test_token_ids_score_as_their_texts_under_every_rule(options: dict[str, Any], folder: Path) -> None:
    default = {"default_prompt_name": "q"} if "prompts" in options else {}
    model = CrossEncoder(folder, max_length=LIMIT, **options, **default)
    documents = ["", "short", LONG, text(30, 7), "na\u00efve \U0001f600 [SEP]"]
    from_text, from_ids = model.score(QUERY, documents), model.score(QUERY, model.tokenize(documents))
    np.testing.assert_array_equal(from_ids, from_text)
    assert from_ids.cut == from_text.cut
    np.testing.assert_array_equal(
        from_text, model.predict([(QUERY, each) for each in documents], activation_fn="identity")
    )


def test_what_is_neither_text_nor_ids_is_refused(short: CrossEncoder) -> None:
    for document in (None, [1, 2], np.array([0.5]), np.array([10**6])):
        with pytest.raises(InputError, match="document 1: "):
            short.score(QUERY, ["short", document])  # type: ignore[list-item]
    with pytest.raises(InputError, match="as query"):
        short.score(None, ["short"])  # type: ignore[arg-type]


def test_a_cross_encoder_is_a_scorer(short: CrossEncoder, tiny: Callable[[str], Path]) -> None:
    assert isinstance(short, Scorer)
    assert short.tokenizer_fingerprint == CrossEncoder(tiny("bert-3-labels")).tokenizer_fingerprint
    assert short.tokenizer_fingerprint != CrossEncoder(tiny("ettin")).tokenizer_fingerprint


def test_threads_that_ask_different_things_of_one_model_get_their_own_answers(folder: Path) -> None:
    model = CrossEncoder(folder, max_length=LIMIT)
    sample = sample_candidates(1, 12, longest_words=90)[0]
    query, documents = sample.query, list(sample.documents)
    calls: list[Callable[[], Any]] = [
        lambda: model.predict(sample.pairs),
        lambda: model.predict(sample.pairs, long_documents="passages", batch_size=3),
        lambda: model.predict(sample.pairs, prompt="find: ", activation_fn="sigmoid"),
        lambda: [hit["score"] for hit in model.rank(query, documents)],
        lambda: model.score(query, model.tokenize(documents)),
        lambda: model.predict(sample.pairs, truncation="document"),
    ]
    expected = [call() for call in calls]
    found: dict[tuple[int, int], Any] = {}
    barrier = threading.Barrier(len(calls))

    def work(row: int) -> None:
        barrier.wait()
        for turn in range(8):
            found[row, turn] = calls[row]()

    threads = [threading.Thread(target=work, args=(row,)) for row in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 * len(calls), "a thread died"
    for (row, _), scores in found.items():
        np.testing.assert_allclose(scores, expected[row], rtol=0, atol=TOLERANCE)


# --- limits and damage ----------------------------------------------------------------------------------------


def test_a_limit_of_a_processor_option_is_the_same_limit(folder: Path, short: CrossEncoder) -> None:
    other = CrossEncoder(folder, processor_kwargs={"model_max_length": LIMIT})
    assert other.max_seq_length == other.max_length == LIMIT
    np.testing.assert_array_equal(other.predict([(QUERY, LONG)]), short.predict([(QUERY, LONG)]))
    both = CrossEncoder(folder, max_length=50, processor_kwargs={"model_max_length": LIMIT})
    assert both.max_seq_length == 50


@pytest.mark.parametrize(
    ("limit", "message"), [(3, "more than the 3 special tokens"), (513, "512 positions")]
)
def test_a_limit_that_the_model_cannot_keep_is_refused(limit: int, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        CrossEncoder(folder, max_length=limit)
    model = CrossEncoder(folder)
    with pytest.raises(InputError, match=message):
        model.max_seq_length = limit
    assert model.max_seq_length == 512


def test_options_that_would_change_nothing_here_are_refused_or_harmless(folder: Path) -> None:
    harmless = {"torch_dtype": "bfloat16", "attn_implementation": "flash_attention_2"}
    exact = CrossEncoder(folder).predict([(QUERY, LONG)])
    np.testing.assert_array_equal(CrossEncoder(folder, model_kwargs=harmless).predict([(QUERY, LONG)]), exact)
    for option in ("model_kwargs", "processor_kwargs", "config_kwargs"):
        with pytest.raises(InputError, match=rf"{option} \['odd'\] means nothing"):
            CrossEncoder(folder, **{option: {"odd": 1}})


@pytest.mark.parametrize("token_budget", [0, -1])
def test_a_token_budget_that_is_not_positive_is_refused(token_budget: int, folder: Path) -> None:
    with pytest.raises(InputError, match=f"token_budget must be .* got {token_budget}"):
        CrossEncoder(folder, token_budget=token_budget).predict((QUERY, LONG))


def test_weights_that_give_no_number_are_an_error_and_not_a_score(tiny_copy: Callable[[str], Path]) -> None:
    folder = tiny_copy("ettin")
    standins.change_tensors(
        folder / "4_Dense" / "model.safetensors",
        lambda tensors: tensors["linear.bias"].fill_(float("nan")),
    )
    model = CrossEncoder(folder)
    for call in (
        lambda: model.predict([(QUERY, "short")]),
        lambda: model.rank(QUERY, ["short"]),
        lambda: model.score(QUERY, ["short"]),
    ):
        with pytest.raises(ScoreError, match="1 of 1 scores are not finite"):
            call()
