"""An engine that raises, gives NaN, hangs or dies: who is told what, and that the next request succeeds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from standin_served import CRASH, GATE, HANG, NAN, POISON, Served, in_background, logit, wait_for

Start = Callable[..., Served]


def body(*documents: str) -> dict[str, Any]:
    return {"query": "w1", "documents": list(documents), "raw_scores": True}


def healthy(server: Served) -> bool:
    return server.get("/health").status == 200


@pytest.mark.parametrize("word", [POISON, NAN])
def test_a_request_on_which_the_engine_fails_gets_424_and_the_next_succeeds(
    served: Served, word: str
) -> None:
    reply = served.post(body(f"w2 {word}"))
    assert (reply.status, reply.json["error_type"]) == (424, "Backend")
    assert b"NaN" not in reply.body
    assert "no engine bears" not in reply.json["detail"]
    assert served.post(body("w2")).status == 200
    assert healthy(served)
    assert served.metric("runoff_worker_deaths") == 0


@pytest.mark.parametrize("word", [POISON, NAN])
def test_a_poison_pair_in_a_shared_batch_fails_its_own_request_alone(start: Start, word: str) -> None:
    server = start()
    server.close_gate()
    running = server.post_open(body(GATE))
    server.wait_metric("runoff_pending_requests", 1)
    server.wait_metric("te_queue_size", 0)
    before = server.metric("te_batch_next_size_count")
    with (
        in_background(lambda: server.post(body("w10", "w11"))) as first,
        in_background(lambda: server.post(body("w20", word))) as poisoned,
        in_background(lambda: server.post(body("w30"))) as last,
    ):
        server.wait_metric("te_queue_size", 5)
        server.open_gate()
        assert first.result().json["results"][0]["relevance_score"] == logit([11])
        assert (poisoned.result().status, last.result().status) == (424, 200)
    # They were one batch; where the engine raised, parts of it were tried again.
    assert (server.metric("te_batch_next_size_count") == before + 1) is (word == NAN)
    running.close()


def test_a_worker_that_dies_fails_what_it_had_turns_health_red_and_is_replaced(start: Start) -> None:
    server = start("--port", 0)
    (pid,) = server.worker_pids()
    server.close_gate()
    with in_background(lambda: server.post(body(GATE))) as running:
        server.wait_metric("runoff_pending_requests", 1)
        server.wait_metric("te_queue_size", 0)
        (server.folder / "slow start").touch()  # the next worker waits, so that red can be seen
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not healthy(server), "health to turn red")
        assert time.monotonic() - began < 2
        reply = running.result()
        assert (reply.status, reply.json["error_type"]) == (503, "Unhealthy")
    assert server.get("/ready").status == 503
    server.open_gate()
    with in_background(lambda: server.post(body("w5"))) as waiting:
        server.wait_metric("runoff_pending_requests", 1)
        (server.folder / "slow start").unlink()
        assert waiting.result().status == 200
    assert healthy(server)
    assert server.worker_pids() != [pid]
    assert server.metric("runoff_worker_deaths") == 1


def test_a_request_that_kills_its_worker_fails_once_and_others_go_on(start: Start) -> None:
    server = start("--replicas", 2)
    assert server.post(body(CRASH)).status == 503
    assert server.post(body("w5")).status == 200
    wait_for(lambda: server.metric("runoff_workers_ready") == 2, "the worker's replacement")


def test_a_worker_whose_engine_fails_on_everything_is_replaced(start: Start) -> None:
    server = start()
    (server.folder / "sour").touch()
    assert server.post(body("w5")).status == 424
    wait_for(lambda: server.metric("runoff_worker_deaths") == 1, "the worker to be replaced")
    assert server.post(body("w5")).status == 200


def test_a_worker_that_hangs_is_killed_and_replaced(start: Start) -> None:
    server = start("--batch-timeout", 0.3)
    assert server.post(body(HANG)).status == 503
    assert server.post(body("w5")).status == 200


def test_a_worker_that_is_stopped_while_idle_turns_health_red_and_green_again(start: Start) -> None:
    server = start()
    (pid,) = server.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not healthy(server), "health to turn red")
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: healthy(server), "health to turn green")


def test_workers_that_die_again_and_again_end_the_server(start: Start) -> None:
    server = start()
    for _ in range(5):
        wait_for(
            lambda: _crashed(server) or server.process.poll() is not None, "a worker to take the request"
        )
    assert server.process.wait(60) == 1
    assert any("5 workers died one after the other" in line for line in server.lines)


def _crashed(server: Served) -> bool:
    try:
        return server.post(body(CRASH)).status == 503
    except OSError:
        return False


def test_two_workers_share_what_comes(start: Start) -> None:
    server = start("--replicas", 2, "--batch-tokens", 64)
    assert len(server.worker_pids()) == 2
    server.close_gate()
    # One document a batch.
    with in_background(
        lambda: server.post(body(*(f"w{number} {GATE} " + "w1 " * 40 for number in range(4))))
    ) as all_four:
        wait_for(lambda: server.metric("te_batch_next_size_count") == 2, "two batches under way")
        server.open_gate()
        assert len(all_four.result().json["results"]) == 4


def test_killing_the_server_ends_its_workers(start: Start) -> None:
    server = start("--replicas", 2)
    pids = server.worker_pids()
    server.process.kill()
    wait_for(lambda: not any(_lives(pid) for pid in pids), "the workers to end")


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
