"""How a server starts and stops: ready only when warm, drained when told to stop, and its exit codes."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runoff.serve.run import bound
from standin_served import GATE, Served, wait_for

Start = Callable[..., Served]
BODY = {"query": "w1", "documents": ["w2"]}
GATED = {"query": "w1", "documents": [GATE]}


def status(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(65536).split()[1])


def under_way(server: Served) -> socket.socket:
    """A request that waits in the engine."""
    server.close_gate()
    connection = server.post_open(GATED)
    server.wait_metric("runoff_pending_requests", 1)
    server.wait_metric("te_queue_size", 0)
    return connection


# --- start -----------------------------------------------------------------------------------------------------


def test_it_is_not_ready_before_the_model_is_warm(start: Start) -> None:
    server = start(waits=False, files=["slow start"]).wait_listening()
    replies = [server.get("/ready"), server.get("/health"), server.post(BODY)]
    assert [reply.status for reply in replies] == [503, 503, 503]
    assert {reply.json["error_type"] for reply in replies} == {"Unhealthy"}
    (server.folder / "slow start").unlink()
    server.wait_ready()
    assert [server.get(path).status for path in ("/ready", "/health", "/ping")] == [200, 200, 200]
    assert server.post(BODY).status == 200


def test_a_model_that_cannot_be_loaded_ends_it_with_one_clear_line(start: Start) -> None:
    server = start(waits=False, files=["broken"])
    assert server.process.wait(60) == 2
    wait_for(lambda: server.lines and server.lines[-1].startswith("runoff: "), "its last words")
    assert server.lines[-1] == "runoff: error: the weights are damaged: get them again"
    assert not any("Traceback" in line for line in server.lines)
    assert server.event("ready") is None


def test_a_worker_that_loads_for_too_long_is_given_up(start: Start) -> None:
    server = start("--start-timeout", 0.2, waits=False, files=["slow start"])
    assert server.process.wait(60) == 1
    wait_for(lambda: "--start-timeout" in "".join(server.lines), "its last words")


def test_a_taken_port_is_told_in_a_line(start: Start, served: Served) -> None:
    server = start("--port", served.port, waits=False)
    assert server.process.wait(60) == 2
    wait_for(lambda: server.lines, "its last words")
    assert server.lines[-1].startswith(
        f"runoff: error: cannot listen at 127.0.0.1 port {served.port}: Address already"
    )


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_it_listens_to_this_machine_alone_by_default(served: Served) -> None:
    listening = Path(f"/proc/{served.process.pid}/net/tcp").read_text()
    assert f"0100007F:{served.port:04X} 00000000:0000 0A" in listening


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_its_connections_send_at_once(host: str) -> None:
    with bound(host, 0) as listener:
        # What asyncio asks before it turns Nagle's algorithm off, and what an accepted connection inherits.
        assert listener.proto == socket.IPPROTO_TCP


# --- stop --------------------------------------------------------------------------------------------------------


def test_told_to_stop_it_refuses_what_comes_answers_what_it_has_and_exits_with_0(start: Start) -> None:
    server = start()
    running = under_way(server)
    server.process.send_signal(signal.SIGTERM)
    server.wait_event("stopping")
    assert (server.get("/ready").status, server.post(BODY).status) == (503, 503)
    assert server.get("/health").status == 200
    server.open_gate()
    assert status(running) == 200
    assert server.process.wait(60) == 0
    assert server.event("stopped") is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_it_stops_at_once(start: Start, number: int) -> None:
    server = start()
    idle = server.open()
    assert server.stop(number) == 0
    with idle:
        assert idle.recv(1) == b""


def test_what_is_not_answered_in_time_is_told_so_and_the_exit_code_says_it(start: Start) -> None:
    server = start("--drain-timeout", 0.2)
    running = under_way(server)
    assert server.stop() == 1
    assert status(running) == 503
    wait_for(lambda: "--drain-timeout" in server.lines[-1], "its last words")
    assert server.lines[-1].startswith("runoff: error: 1 requests were not answered within 0.2 s")


def test_told_twice_it_ends_at_once(start: Start) -> None:
    server = start()
    with under_way(server):
        server.process.send_signal(signal.SIGTERM)
        server.wait_event("stopping")
        assert server.stop() == 128 + signal.SIGTERM


def test_it_may_be_stopped_while_it_loads(start: Start) -> None:
    server = start(waits=False, files=["slow start"]).wait_listening()
    assert server.stop() == 0


def test_its_workers_are_gone_when_it_is(start: Start) -> None:
    server = start("--replicas", 2)
    pids = server.worker_pids()
    assert len(pids) == 2
    server.stop()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


# What `site` imports first in every Python process, the workers among them.
WATCH = """
import os, socket
connect = socket.socket.connect
def watched(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        open(os.environ["REACHED_OUT"], "a").write(f"{address}\\n")
    return connect(self, address)
socket.socket.connect = watched
open(os.environ["WATCHED"], "a").write(f"{os.getpid()}\\n")
"""


def test_no_process_of_a_server_reaches_out(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    files = {"REACHED_OUT": str(tmp_path / "reached out"), "WATCHED": str(tmp_path / "watched")}
    server = Served.words(tmp_path, more_path=str(tmp_path), **files)
    try:
        assert server.post(BODY).status == 200
        watched = (tmp_path / "watched").read_text().split()
        assert {str(pid) for pid in (server.process.pid, *server.worker_pids())} <= set(watched)
        assert not (tmp_path / "reached out").exists()
    finally:
        server.end()


def test_the_log_names_address_model_and_engine(served: Served) -> None:
    assert served.event("listening") is not None
    ready = served.wait_event("ready")
    assert (ready["workers"], ready["engine"], ready["precision"]) == (1, "words", "fp32")
    assert all(json.loads(line)["time"] for line in served.lines)
