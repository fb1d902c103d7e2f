"""What an operator sees: figures that add up, a description that is the routes', and settings that hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runoff.serve.access import Keys
from runoff.serve.app import OPENAPI, Routes
from runoff.serve.service import Service
from runoff.serve.settings import Settings
from standin_served import GATE, POISON, Served, in_background, wait_for, word_model

Start = Callable[..., Served]
BODY = {"query": "w1", "documents": ["w2", "w3"]}


# --- metrics ---------------------------------------------------------------------------------------------------------


def figures(server: Served) -> dict[str, float]:
    """Every sample of /metrics."""
    page = server.get("/metrics").body.decode()
    pairs = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_requests_are_the_sum_of_successes_and_failures_and_gauges_return_to_zero(start: Start) -> None:
    server = start("--max-pending-requests", 1, "--request-timeout", 5)
    for body in (
        BODY,
        b"{",
        {"query": "w1"},
        {"query": "", "documents": ["w1"]},
        {"query": "w1", "documents": [POISON]},
    ):
        server.post(body)
    server.post({"text_1": "w1", "text_2": "w2"}, "/score")
    server.close_gate()
    with in_background(lambda: server.post({"query": "w1", "documents": [GATE]})) as running:
        server.wait_metric("runoff_pending_requests", 1)
        assert server.post(BODY).status == 429
        server.open_gate()
        assert running.result().status == 200
    leaving = server.post_open({"query": "w1", "documents": [f"w{number}" for number in range(300)]})
    leaving.close()

    def total(name: str) -> float:
        return sum(value for key, value in figures(server).items() if key.startswith(f"{name}{{"))

    wait_for(lambda: total("te_request_success") + total("te_request_failure") == 9, "all to be counted")
    assert total("te_request_count") == 9
    found = figures(server)
    assert found['te_request_failure{err="validation"}'] == 3
    assert found['te_request_failure{err="inference"}'] == 1
    assert found['te_request_failure{err="overloaded"}'] == 1
    assert found['te_request_success{method="score"}'] == 1
    assert (found["te_queue_size"], found["runoff_pending_tokens"]) == (0, 0)
    assert found["te_request_duration_count"] == 9
    assert found["runoff_workers_ready"] == 1


def test_pairs_and_tokens_are_counted_and_cut_ones_too(start: Start) -> None:
    server = start()
    server.post({"query": "w1", "documents": ["w2", "w3 " * 80]})
    found = figures(server)
    assert (found["runoff_pairs"], found["runoff_tokens"], found["runoff_cut_pairs"]) == (2, 5 + 64, 1)
    assert found["te_request_input_length_sum"] == 69
    for name in ("tokenization", "queue", "inference"):
        assert found[f"te_request_{name}_duration_count"] == 1


# --- the description ---------------------------------------------------------------------------------------------

DESCRIPTION = json.loads(OPENAPI.read_text("utf-8"))


def schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]}


def test_the_description_has_every_route_and_no_other(tmp_path: Path) -> None:
    async def search(*_: object) -> Any:
        raise AssertionError("only its route is asked for")

    service = Service(word_model(tmp_path), Settings())
    routes = Routes(service, Keys([]), {"search": search}).table()
    served = {(route.path, method.lower()) for route in routes for method in route.methods - {"HEAD"}}
    described = {(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert described == served


def test_the_description_is_served_and_shown(served: Served) -> None:
    assert served.get("/openapi.json").json == DESCRIPTION
    page = served.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert all(path in page.body.decode() for path in DESCRIPTION["paths"])
    assert b"src=" not in page.body  # nothing is fetched from elsewhere
    assert b"http" not in page.body


EXAMPLES = [
    (path, name, example["value"])
    for path, methods in DESCRIPTION["paths"].items()
    if "post" in methods and path != "/search"
    for name, example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].items()
]


@pytest.mark.parametrize(
    ("path", "name", "body"), EXAMPLES, ids=[f"{path} {name}" for path, name, _ in EXAMPLES]
)
def test_every_example_is_valid_and_its_answer_is_as_described(
    served: Served, path: str, name: str, body: Any
) -> None:
    asked, answered = ("Pairs", "Scored") if path.endswith("score") else ("Rerank", "Reranked")
    jsonschema.validate(body, schema(asked))
    reply = served.post(body, path)
    assert reply.status == 200
    jsonschema.validate(reply.json, schema("TeiReranked" if "texts" in body else answered))


def test_an_error_is_as_described(served: Served) -> None:
    reply = served.post({"query": "w1"})
    jsonschema.validate(reply.json, schema("Error"))
    assert str(reply.status) in DESCRIPTION["paths"]["/rerank"]["post"]["responses"]


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_model_s_name_may_be_another_and_may_be_insisted_on(start: Start) -> None:
    server = start("--served-name", "mine", "--strict-model")
    assert server.post({**BODY, "model": "mine"}).json["model"] == "mine"
    assert server.post(BODY).status == 200
    reply = server.post({**BODY, "model": "other"})
    assert (reply.status, "expected 'mine'" in reply.json["detail"]) == (404, True)


def test_a_cap_on_documents_is_named(start: Start) -> None:
    server = start("--max-documents", 2)
    assert server.post(BODY).status == 200
    reply = server.post({"query": "w1", "documents": ["w1"] * 3})
    assert (reply.status, "at most 2 in a request (--max-documents)" in reply.json["detail"]) == (422, True)
    assert server.get("/info").json["max_client_batch_size"] == 2


@pytest.mark.parametrize(("form", "lines"), [("text", 1), ("none", 0)])
def test_the_log_may_be_text_or_without_requests(start: Start, form: str, lines: int) -> None:
    server = start("--log-format", form, waits=False)
    server.port = _port(server)
    wait_for(lambda: server.get("/ready").status == 200, "it to be ready")
    server.post(BODY, x_request_id="kept")
    assert server.stop() == 0
    assert len([line for line in server.lines if "id=kept" in line]) == lines


def _port(server: Served) -> int:
    line = wait_for(
        lambda: next((each for each in server.lines if "event=listening" in each), None), "the address"
    )
    return int(line.partition("url=")[2].split()[0].rpartition(":")[2])
