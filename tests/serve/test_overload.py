"""More work than there is room for: what is refused, what is taken, what is dropped, and in which order things go."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from standin_served import GATE, GATE_2, Served, in_background, logit, wait_for
from standin_words import words

Start = Callable[..., Served]


def body(*documents: str) -> dict[str, Any]:
    return {"query": "w1", "documents": list(documents)}


def occupy(server: Served) -> Any:
    """A request that waits in the engine; the gate is closed."""
    server.close_gate()
    connection = server.post_open(body(GATE))
    server.wait_metric("runoff_pending_requests", 1)
    server.wait_metric("te_queue_size", 0)
    return connection


def status(connection: Any) -> int:
    """The status of the answer that comes on it."""
    with connection:
        return int(connection.recv(65536).split()[1])


def test_the_request_over_capacity_is_refused_at_once_and_unscored_while_those_taken_succeed(
    start: Start,
) -> None:
    server = start("--max-pending-requests", 3)
    taken = [occupy(server), *(server.post_open(body(f"w{number}")) for number in (11, 12))]
    server.wait_metric("runoff_pending_requests", 3)
    began = time.perf_counter()
    reply = server.post(body("w13"))
    seconds = time.perf_counter() - began
    assert (reply.status, reply.json["error_type"]) == (429, "Overloaded")
    assert int(reply.headers["retry-after"]) >= 1
    # 50 ms are promised; on a machine whose cores are all busy the best of five tries counts.
    for _ in range(4):
        began = time.perf_counter()
        assert server.post(body("w13")).status == 429
        seconds = min(seconds, time.perf_counter() - began)
    assert seconds < 0.05
    server.open_gate()
    assert [status(connection) for connection in taken] == [200, 200, 200]
    assert sorted(server.scored) == ["11", "12", "393"]
    assert server.post(body("w13")).status == 200


def test_a_request_whose_tokens_are_beyond_what_is_left_is_refused_whole(start: Start) -> None:
    server = start("--max-pending-tokens", 200)
    waiting = occupy(server)
    large = body(*(words(30, 100) for _ in range(8)))  # each at most 64 tokens: about 8 * 42
    assert server.post(large).status == 413
    fitting = body(words(30, 100), words(30, 140), words(30, 180))  # about 3 * 43 of 200
    first = server.post_open(fitting)
    server.wait_metric("runoff_pending_requests", 2)
    assert server.post(fitting).status == 429
    server.open_gate()
    assert [status(waiting), status(first)] == [200, 200]
    assert server.post(fitting).status == 200
    assert len(server.scored) == 1 + 2 * 3


def test_a_request_that_can_never_fit_is_refused_for_good_and_named(start: Start) -> None:
    server = start("--max-pending-tokens", 100)
    reply = server.post(body(*(words(30, 100) for _ in range(8))))
    assert (reply.status, "retry-after" in reply.headers) == (413, False)
    assert "--max-pending-tokens" in reply.json["detail"]


def test_a_client_that_leaves_while_it_waits_is_never_scored(start: Start) -> None:
    server = start("--max-pending-requests", 2)
    running = occupy(server)
    server.post_open(body("w77", "w78")).close()
    server.wait_metric('te_request_failure{err="dropped"}', 1)
    server.wait_metric("runoff_pending_requests", 1)
    after = server.post_open(body("w79"))
    server.open_gate()
    assert [status(running), status(after)] == [200, 200]
    assert sorted(server.scored) == ["393", "79"]


def test_a_client_that_leaves_while_it_is_scored_disturbs_nobody_in_its_batch(start: Start) -> None:
    server = start()
    server.close_gate(GATE_2)
    waiting = occupy(server)
    leaving, staying = server.post_open(body("w50")), server.post_open(body(f"w60 {GATE_2}"))
    server.wait_metric("te_queue_size", 2)
    before = server.metric("te_batch_next_size_count")
    server.open_gate()
    server.wait_metric("te_queue_size", 0)
    assert server.metric("te_batch_next_size_count") == before + 1
    leaving.close()
    server.wait_metric('te_request_failure{err="dropped"}', 1)
    server.open_gate(GATE_2)
    assert [status(waiting), status(staying)] == [200, 200]
    server.wait_metric("runoff_pending_requests", 0)


def test_a_request_that_waits_too_long_is_refused_unscored(start: Start) -> None:
    server = start("--request-timeout", 0.2)
    running = occupy(server)
    reply = server.post(body("w88"))
    assert (reply.status, reply.json["error_type"]) == (429, "Overloaded")
    assert "--request-timeout" in reply.json["detail"]
    assert int(reply.headers["retry-after"]) >= 1
    server.open_gate()
    assert status(running) == 200
    assert "88" not in server.scored


def test_a_small_request_does_not_wait_for_the_end_of_a_large_one(start: Start) -> None:
    server = start("--batch-tokens", 128)
    waiting = occupy(server)
    large = server.post_open(body(*(f"{words(20, 100)} w{number}" for number in range(60))))
    wait_for(lambda: server.metric("runoff_pending_requests") == 2, "the large request")
    wait_for(lambda: server.metric("te_queue_size") > 0, "the large request's tokens")
    small = server.post_open(body("w7"))
    server.wait_metric("runoff_pending_requests", 3)
    server.open_gate()
    assert [status(each) for each in (small, waiting, large)] == [200, 200, 200]
    # It is in the next batch that is made once it is there, behind the one that was.
    assert server.scored.index("7") < 20


def test_requests_share_batches_and_scores_do_not_depend_on_it(start: Start) -> None:
    server = start()
    running = occupy(server)
    before = server.metric("te_batch_next_size_count")
    with (
        in_background(lambda: server.post(body("w30") | {"raw_scores": True})) as first,
        in_background(lambda: server.post(body("w40", "w20") | {"raw_scores": True})) as second,
    ):
        server.wait_metric("te_queue_size", 3)
        server.open_gate()
        answers = [future.result().json["results"] for future in (first, second)]
    assert server.metric("te_batch_next_size_count") == before + 1
    assert [[each["relevance_score"] for each in answer] for answer in answers] == [
        [logit([30])],
        [logit([40]), logit([20])],
    ]
    assert status(running) == 200


def test_a_burst_far_beyond_capacity_is_refused_or_served_and_nothing_else(start: Start) -> None:
    server = start("--max-pending-requests", 4)
    connections = [server.post_open(body(f"w{number % 300}")) for number in range(200)]
    counts = {200: 0, 429: 0}
    for connection in connections:
        counts[status(connection)] += 1
    assert counts[200] >= 4
    assert sum(counts.values()) == 200
    server.wait_metric("runoff_pending_requests", 0)
    assert (server.metric("runoff_pending_tokens"), server.metric("te_queue_size")) == (0, 0)
    assert server.post(body("w1")).status == 200


def test_many_times_more_clients_than_capacity_leave_it_as_it_was(start: Start) -> None:
    server = start("--max-pending-requests", 4)
    assert server.post(body("w1")).status == 200
    memory = server.metric("process_resident_memory_bytes")

    def ask(client: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        found = []
        for number in range(25):
            documents = [f"w{(client + number + place) % 300}" for place in range(1 + 7 * (number % 8))]
            connection.request("POST", "/rerank", json.dumps(body(*documents)))
            with connection.getresponse() as reply:
                answer = json.load(reply)
            found.append(reply.status)
            if reply.status == 200:
                scores = {each["index"]: each["relevance_score"] for each in answer["results"]}
                assert len(scores) == len(documents)
        connection.close()
        return found

    with ThreadPoolExecutor(40) as pool:
        statuses = [status for found in pool.map(ask, range(40)) for status in found]
    assert len(statuses) == 40 * 25
    assert set(statuses) == {200, 429}
    assert server.get("/health").status == 200
    gauges = ("runoff_pending_requests", "runoff_pending_tokens", "te_queue_size")
    wait_for(lambda: not any(server.metric(name) for name in gauges), "all to be answered")
    assert server.metric("runoff_worker_deaths") == 0
    # The largest request has 50 short documents: megabytes would be something that is kept.
    assert server.metric("process_resident_memory_bytes") - memory < 50e6
    assert server.post(body("w1")).status == 200


def test_more_connections_than_are_allowed_are_closed(start: Start) -> None:
    server = start("--max-connections", 4)
    held = [server.open() for _ in range(4)]
    with server.open() as further:
        assert further.recv(1) == b""
    for connection in held:
        connection.close()
    wait_for(lambda: _answers(server), "a connection to be taken again")


def _answers(server: Served) -> bool:
    try:
        return server.get("/health").status == 200
    except (ConnectionError, OSError):
        return False
