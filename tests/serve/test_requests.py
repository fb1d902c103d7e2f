"""What a server answers, over HTTP: every dialect, every form of wrong input, orders, ties and what was cut."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from standin_served import FIFTY, FORTY, Served, logit
from standin_words import words

ERROR_KEYS = {"error", "error_type", "message", "detail", "id"}
DOCUMENTS = ["w10", "w300", "w20 w40"]
BY_SCORE = [1, 2, 0]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def asked(**changes: Any) -> dict[str, Any]:
    """A body of Cohere's dialect; None takes a field away."""
    body = {"query": "w1", "documents": DOCUMENTS} | changes
    return {name: value for name, value in body.items() if value is not ...}


def indices(served: Served, body: Any) -> list[int]:
    reply = served.post(body)
    assert reply.status == 200, reply.body
    results = reply.json if isinstance(reply.json, list) else reply.json["results"]
    return [result["index"] for result in results]


# --- dialects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "version"), [("/rerank", "2"), ("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_documents_are_answered_in_the_form_that_cohere_jina_vllm_and_infinity_read(
    served: Served, path: str, version: str
) -> None:
    answer = served.post(asked(model="any"), path, x_request_id="mine").json
    assert [each["index"] for each in answer["results"]] == BY_SCORE
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == pytest.approx(
        [sigmoid(logit([300])), sigmoid(logit([20, 40])), sigmoid(logit([10]))], abs=1e-6
    )
    del answer["results"]
    # One word in the query, four in the documents, three special tokens a pair.
    tokens = 3 * (1 + 3) + 4
    assert answer == {
        "id": "mine",
        "model": "words",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens},
        },
    }


def test_texts_are_answered_in_tei_s_form_with_its_headers(served: Served) -> None:
    reply = served.post({"query": "w1", "texts": DOCUMENTS})
    assert [each["index"] for each in reply.json] == BY_SCORE
    assert set(reply.json[0]) == {"index", "score"}
    for name in ("compute-time", "compute-characters", "compute-tokens", "total-time", "tokenization-time"):
        assert int(reply.headers[f"x-{name}"]) >= 0
    assert int(reply.headers["x-compute-tokens"]) == 16
    assert reply.headers["x-compute-type"] == "cpu"


def test_tei_s_texts_come_back_with_return_text(served: Served) -> None:
    reply = served.post({"query": "w1", "texts": DOCUMENTS, "return_text": True})
    assert [each["text"] for each in reply.json] == [DOCUMENTS[place] for place in BY_SCORE]


def test_documents_win_where_both_are_sent(served: Served) -> None:
    assert "results" in served.post(asked(texts=["w5"])).json


def test_voyage_s_top_k_also_gives_its_data(served: Served) -> None:
    answer = served.post(asked(top_k=1, return_documents=True)).json
    assert (answer["object"], len(answer["data"])) == ("list", 1)
    assert answer["data"][0]["document"] == "w300"


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
def test_scores_come_in_the_order_of_the_pairs(served: Served, path: str, first: str, second: str) -> None:
    answer = served.post({first: "w1", second: DOCUMENTS, "use_activation": False}, path).json
    assert [(each["index"], each["object"]) for each in answer["data"]] == [
        (0, "score"),
        (1, "score"),
        (2, "score"),
    ]
    assert [each["score"] for each in answer["data"]] == [logit([10]), logit([300]), logit([20, 40])]
    assert (answer["object"], answer["model"]) == ("list", "words")


def test_as_many_against_as_many_are_scored_in_pairs(served: Served) -> None:
    answer = served.post(
        {"text_1": ["w1", "w2"], "text_2": ["w30", "w40"], "raw_scores": True}, "/score"
    ).json
    assert [each["score"] for each in answer["data"]] == [logit([30]), logit([40])]


def test_two_against_three_are_refused(served: Served) -> None:
    reply = served.post({"text_1": ["w1", "w2"], "text_2": ["w3"] * 3}, "/score")
    assert (reply.status, "text_1: expected one text or 3" in reply.json["detail"]) == (422, True)


# --- fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["top_n", "top_k"])
@pytest.mark.parametrize(("value", "count"), [(None, 3), (0, 3), (1, 1), (2, 2), (9, 3)])
def test_a_limit_of_null_zero_or_more_than_there_are_gives_all(
    served: Served, name: str, value: int | None, count: int
) -> None:
    assert indices(served, asked(**{name: value})) == BY_SCORE[:count]


def test_null_counts_as_absent_in_every_optional_field_and_unknown_fields_are_ignored(served: Served) -> None:
    names = "model top_n return_documents rank_fields max_tokens_per_doc max_chunks_per_doc priority truncate texts"
    names += " truncation_direction raw_scores use_activation truncate_prompt_tokens"
    nulls: dict[str, Any] = dict.fromkeys(names.split())
    assert indices(served, {**nulls, "relevant_spans": {"mode": 1}, **asked()}) == BY_SCORE


def test_raw_scores_are_logits(served: Served) -> None:
    assert served.post({"query": "w1", "texts": ["w30"], "raw_scores": True}).json[0]["score"] == logit([30])
    answer = served.post(asked(documents=["w30"], use_activation=False)).json
    assert answer["results"][0]["relevance_score"] == logit([30])


def test_documents_are_absent_unless_asked_for(served: Served) -> None:
    assert all(set(each) == {"index", "relevance_score"} for each in served.post(asked()).json["results"])


def test_objects_come_back_with_all_their_fields(served: Served) -> None:
    documents = [{"text": "w10", "id": 7}, {"text": "w300", "title": "t"}]
    answer = served.post(asked(documents=documents, return_documents=True)).json
    assert [each["document"] for each in answer["results"]] == [documents[1], documents[0]]


def test_rank_fields_choose_and_order_what_is_scored(served: Served) -> None:
    document = {"text": "w9", "a": "w100", "b": "w300"}
    answer = served.post(asked(documents=[document], rank_fields=["b", "a"], raw_scores=True)).json
    assert answer["results"][0]["relevance_score"] == logit([300, 100])
    assert served.scored[-1] == "300 100"


def test_equal_documents_tie_and_stay_in_their_order(served: Served) -> None:
    answer = served.post(asked(documents=["w5", "w9", "w5", "w9"])).json
    assert [each["index"] for each in answer["results"]] == [1, 3, 0, 2]


def test_scores_that_the_sigmoid_makes_equal_keep_the_order_of_their_logits(served: Served) -> None:
    answer = served.post(asked(documents=[FORTY, FIFTY])).json
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(1, 1.0), (0, 1.0)]


# --- what is too long --------------------------------------------------------------------------------------------


def test_a_pair_that_is_cut_says_so(served: Served) -> None:
    reply = served.post(asked(documents=[words(90, 100), "w5"]))
    assert (reply.status, reply.headers["x-truncated"]) == (200, "1")
    # 64 tokens, 3 of them special and 1 the query's, leave 60 of 90.
    assert reply.json["meta"]["warnings"] == [
        "1 of 2 pairs were longer than 64 tokens and were cut (30 tokens lost)"
    ]
    assert "x-truncated" not in served.post(asked()).headers


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, range(100, 160)),
        ({"truncation_direction": "Right"}, range(100, 160)),
        ({"truncation_direction": "Left"}, range(130, 190)),
        ({"truncation_side": "left"}, range(130, 190)),
        ({"max_tokens_per_doc": 10}, range(100, 110)),
        ({"max_tokens_per_doc": 10, "truncation_direction": "left"}, range(180, 190)),
        ({"truncate_prompt_tokens": 24}, range(100, 120)),
        ({"truncate_prompt_tokens": -1}, range(100, 160)),
    ],
)
def test_a_request_decides_what_is_kept(served: Served, options: dict[str, Any], kept: range) -> None:
    reply = served.post({"query": "w1", "texts": [words(90, 100)], **options})
    assert (reply.status, reply.headers["x-truncated"]) == (200, "1")
    assert served.scored[-1] == " ".join(map(str, kept))


def test_a_pair_that_may_not_be_cut_is_refused_with_its_lengths(served: Served) -> None:
    reply = served.post({"query": "w1", "texts": [words(90, 100)], "truncate": False})
    assert (reply.status, reply.json["error_type"]) == (422, "Validation")
    assert "1 + 90 tokens" in reply.json["error"]


def test_a_query_longer_than_the_model_takes_is_cut_with_its_document(served: Served) -> None:
    reply = served.post({"query": words(90), "texts": [words(90, 100)]})
    # 61 tokens for the two: the shorter keeps 30.
    assert served.scored[-1] == " ".join(map(str, range(100, 131)))
    assert reply.headers["x-truncated"] == "1"


# --- wrong input ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[Any, int, str]] = [
    (b"{", 400, "not valid JSON"),
    (b'{"query": NaN}', 400, "NaN is no JSON value"),
    (b"\xff", 400, "not valid JSON"),
    (b"[" * 100_000, 400, "nested too deeply"),
    ([], 422, "expected a JSON object"),
    ({"documents": ["w1"]}, 422, "query: expected a string, got nothing"),
    (asked(query=None), 422, "query: expected a string, got nothing"),
    (asked(query=5), 422, "query: expected a string, got a number"),
    ({"query": "w1"}, 422, "documents: expected a list"),
    (asked(documents=None), 422, "documents: expected a list"),
    (asked(documents=7), 422, "documents: expected a list of strings or objects, got a number"),
    (asked(documents=["w1", None]), 422, "documents[1]: expected a string or an object, got null"),
    (asked(documents=["w1", 7]), 422, "documents[1]: expected a string or an object, got a number"),
    ({"query": "w1", "texts": ["w1", {"text": "w"}]}, 422, "texts[1]: expected a string, got an object"),
    (asked(documents=[{"title": "w1"}]), 422, "documents[0].text: expected a string"),
    (asked(documents=[{"text": 5}]), 422, "documents[0].text: expected a string"),
    (asked(documents=[{"text": "w"}], rank_fields=["x"]), 422, "documents[0].x: expected a string"),
    (asked(rank_fields=[]), 422, "rank_fields: expected a list"),
    (asked(top_n=-1), 422, "top_n: expected a whole number of 0 or more, got -1"),
    (asked(top_n="2"), 422, "top_n: expected a whole number"),
    (asked(top_n=1.5), 422, "top_n: expected a whole number"),
    (asked(top_n=True), 422, "top_n: expected a whole number"),
    (asked(return_documents="yes"), 422, "return_documents: expected true or false"),
    (asked(truncation_direction="up"), 422, "truncation_direction: expected left or right, got 'up'"),
    (asked(max_tokens_per_doc=0), 422, "max_tokens_per_doc: expected a whole number of 1 or more"),
    (asked(truncate_prompt_tokens=3), 422, "leaves no room for a pair"),
    (asked(documents=[]), 400, "list of documents must not be empty"),
    ({"query": "w1", "texts": []}, 400, "list of texts must not be empty"),
    (asked(query=" \n"), 400, "query must not be empty or be only whitespace"),
    (asked(documents=["w1"] * 1001), 422, "at most 1000 in a request (--max-documents)"),
    (b'{"query": "w1", "documents": ["\\ud800"]}', 422, "lone surrogate"),
    (b'{"query": "\\ud800", "documents": ["w1"]}', 422, "lone surrogate"),
]


@pytest.mark.parametrize(("body", "status", "said"), WRONG, ids=[f"{said[:40]}" for _, _, said in WRONG])
def test_wrong_input_is_refused_in_the_one_form_that_names_it(
    served: Served, body: Any, status: int, said: str
) -> None:
    reply = served.post(body)
    assert (reply.status, set(reply.json)) == (status, ERROR_KEYS)
    assert said in reply.json["detail"]
    assert reply.json["error"] == reply.json["message"] == reply.json["detail"]
    assert (reply.headers["content-type"], reply.headers["x-request-id"]) == (
        "application/json",
        reply.json["id"],
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/rerank", 405), ("POST", "/health", 405), ("GET", "/rerank/", 404)],
)
def test_unknown_paths_and_methods_are_refused_in_the_same_form(
    served: Served, method: str, path: str, status: int
) -> None:
    reply = served.request(method, path)
    assert (reply.status, set(reply.json)) == (status, ERROR_KEYS)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_another_content_type_is_refused(served: Served, kind: str) -> None:
    reply = served.post(asked(), content_type=kind)
    assert (reply.status, "expected application/json" in reply.json["detail"]) == (415, True)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_any_form_of_json_s_content_type_is_taken(served: Served, kind: str) -> None:
    assert served.post(asked(), content_type=kind).status == 200


@pytest.mark.parametrize(
    "document", ["", " ", "\0", "\u202eright to left", "👩‍👩‍👧 zero width joiners", "w1" * 500_000, "\ufffe"]
)
def test_any_text_is_a_document(served: Served, document: str) -> None:
    reply = served.post(asked(documents=[document, "w5"], return_documents=True))
    assert reply.status == 200
    assert {each["document"]["text"] for each in reply.json["results"]} == {document, "w5"}


def test_what_is_no_http_is_refused_as_json(served: Served) -> None:
    with served.open() as connection:
        connection.sendall(b"no http at all\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(body)) == ERROR_KEYS
