"""Who may ask, what is written down, and clients that send too much, too slowly or nothing."""

from __future__ import annotations

import hmac
import http.client
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runoff.contracts import InputError
from runoff.serve import access
from runoff.serve.access import Keys, read_keys
from runoff.serve.refusals import RefusedError
from standin_served import Served, wait_for

Start = Callable[..., Served]
BODY = {"query": "w1", "documents": ["w2"]}


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text("third-key\n\n")
    keys = folder / "keys"
    server = Served.words(folder, "--api-key-file", keys, RUNOFF_SERVE_API_KEY="first-key,second-key")
    yield server  # type: ignore[misc]
    server.end()


@pytest.mark.parametrize("key", ["first-key", "second-key", "third-key"])
def test_every_key_opens(locked: Served, key: str) -> None:
    assert locked.post(BODY, authorization=f"Bearer {key}").status == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer First-Key",
        "Bearer first-ke",
        "Basic first-key",
        "first-key",
        "Bearer é",
    ],
)
@pytest.mark.parametrize("path", ["/rerank", "/score", "/info", "/v1/models"])
def test_no_key_or_a_wrong_one_is_refused_as_json(locked: Served, path: str, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    method = "POST" if path in ("/rerank", "/score") else "GET"
    reply = locked.request(method, path, BODY if method == "POST" else None, **headers)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert "API key" in reply.json["detail"]


@pytest.mark.parametrize("path", ["/health", "/ping", "/ready", "/metrics", "/docs", "/openapi.json"])
def test_what_balancers_ask_for_needs_no_key(locked: Served, path: str) -> None:
    assert locked.get(path).status == 200


def test_keys_are_compared_in_constant_time_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, real = [], hmac.compare_digest

    def compare(given: bytes, known: bytes) -> bool:
        compared.append((len(given), len(known)))
        return real(given, known)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    Keys(["a", "much-longer-key", "c"]).check("Bearer a")
    assert compared == [(32, 32)] * 3


def test_without_keys_everyone_may_ask() -> None:
    Keys([]).check(None)


def test_a_wrong_scheme_is_refused() -> None:
    with pytest.raises(RefusedError, match="Bearer KEY"):
        Keys(["a"]).check("Token a")


def test_keys_come_from_flags_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(" c \n\nd\n")
    assert read_keys(["a,b", ""], str(tmp_path / "keys")) == ["a", "b", "c", "d"]


def test_a_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(InputError, match="open to all"):
        read_keys([], str(tmp_path / "keys"))


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a text file with a key a line"):
        read_keys([], str(tmp_path / "none"))


@pytest.mark.parametrize("key", ["two words", "clé", "a\tb"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="API key 1 has a space or another character"):
        read_keys([key], "")


# --- the log and the trace -------------------------------------------------------------------------------------------


def test_the_log_holds_ids_times_and_counts_and_no_text_key_or_document(locked: Served) -> None:
    secret = {"query": "w1 querysecret", "documents": [{"text": "w2 documentsecret", "x": "fieldsecret"}]}
    locked.post(secret, authorization="Bearer first-key", x_request_id="kept-id")
    locked.post(secret, authorization="Bearer keysecret")
    locked.post({**secret, "top_n": "numbersecret"}, authorization="Bearer first-key", x_request_id="last-id")
    locked.get("/pathsecret?q=secret")
    wait_for(lambda: any('"unknown"' in line for line in locked.lines), "the last line")
    log = "\n".join(locked.lines)
    assert re.findall(r"\w*secret|first-key", log) == []
    (line,) = [json.loads(each) for each in locked.lines if "kept-id" in each]
    assert (line["method"], line["path"], line["status"], line["pairs"]) == ("POST", "/rerank", 200, 1)
    assert line["tokens"] == 3 + 2 + 2
    assert line["ms"] >= line["inference_ms"] > 0


@pytest.mark.parametrize("given", ["abc-123", "7f6d:1/2+3=_."])
def test_a_request_id_is_echoed(served: Served, given: str) -> None:
    assert served.get("/health", x_request_id=given).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "é"])
def test_a_request_id_that_no_log_line_should_hold_is_replaced(served: Served, given: str) -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", served.get("/health", x_request_id=given).headers["x-request-id"])


def test_a_trace_goes_on_with_a_step_of_its_own(served: Served) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    found = served.post(BODY, traceparent=f"00-{trace}-{parent}-01").headers["traceparent"]
    assert re.fullmatch(rf"00-{trace}-[0-9a-f]{{16}}-01", found)
    assert parent not in found
    wait_for(lambda: any(f'"trace": "{trace}"' in line for line in served.lines), "the trace in the log")


@pytest.mark.parametrize(
    "given", ["", "x", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01"]
)
def test_what_is_no_trace_is_left_out(served: Served, given: str) -> None:
    assert "traceparent" not in served.get("/health", traceparent=given).headers


# --- browsers ----------------------------------------------------------------------------------------------------

PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def test_no_page_may_ask_by_default(served: Served) -> None:
    reply = served.request("OPTIONS", "/rerank", origin="https://a.example", **PREFLIGHT)
    assert (reply.status, "access-control-allow-origin" in reply.headers) == (405, False)
    assert "access-control-allow-origin" not in served.post(BODY, origin="https://a.example").headers


def test_an_allowed_page_may_ask_with_a_key_and_others_may_not(start: Start) -> None:
    server = start("--cors-origin", "https://a.example", "--api-key", "k")
    reply = server.request("OPTIONS", "/rerank", origin="https://a.example", **PREFLIGHT)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://a.example")
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    asked = server.post(BODY, origin="https://a.example", authorization="Bearer k")
    assert asked.headers["access-control-allow-origin"] == "https://a.example"
    for other in ("https://b.example", "https://a.example.org", "null"):
        refused = server.request("OPTIONS", "/rerank", origin=other, **PREFLIGHT)
        assert (refused.status, "access-control-allow-origin" in refused.headers) == (400, False)


# --- too much, too slowly ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Served:
    times = ("--header-timeout", 0.4, "--body-timeout", 0.4, "--keep-alive", 1, "--write-timeout", 0.4)
    server = Served.words(tmp_path_factory.mktemp("narrow"), "--max-body-bytes", 10_000, *times)
    yield server  # type: ignore[misc]
    server.end()


@pytest.mark.parametrize("size", [10_001, 39_000, 10_000_000])
def test_a_body_beyond_the_limit_is_refused_by_its_declared_length(narrow: Served, size: int) -> None:
    connection = narrow.open()
    head = f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    connection.sendall(head.encode() + b"x" * min(size, 39_000))
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert "--max-body-bytes" in json.loads(reply.read())["detail"]
    connection.close()


def test_a_chunked_body_beyond_the_limit_is_refused_before_it_ends(narrow: Served) -> None:
    connection = narrow.open()
    connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(5):
        connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    assert reply.status == 413
    connection.close()


def test_a_body_of_the_very_limit_is_taken(narrow: Served) -> None:
    body = json.dumps(BODY).encode()
    assert narrow.post(body + b" " * (10_000 - len(body))).status == 200


@pytest.mark.parametrize("sent", [b"", b"POST /rerank HT", b"POST /rerank HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_end_is_cut_off(narrow: Served, sent: bytes) -> None:
    with narrow.open() as connection:
        connection.sendall(sent)
        assert _ended(connection)


def test_a_head_that_comes_in_drops_is_cut_off(narrow: Served) -> None:
    with narrow.open() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        assert narrow.get("/health").status == 200

        def drop() -> bool:
            try:
                connection.sendall(b"x: y\r\n")
            except OSError:
                return True
            return False

        wait_for(drop, "the connection to be cut off")


def test_a_second_head_that_does_not_end_is_cut_off(narrow: Served) -> None:
    with narrow.open() as connection:
        _ask_health(connection)
        connection.sendall(b"GET /health HT")
        assert _ended(connection)


def test_an_idle_connection_is_closed(narrow: Served) -> None:
    with narrow.open() as connection:
        _ask_health(connection)
        assert _ended(connection)


def _ask_health(connection: socket.socket) -> None:
    """One whole request and its answer, on a connection that stays open."""
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    assert (reply.status, len(reply.read()) > 0) == (200, True)


def test_a_body_that_does_not_come_is_refused(narrow: Served) -> None:
    with narrow.open() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert "--body-timeout" in json.loads(reply.read())["detail"]


def _ended(connection: socket.socket) -> bool:
    """Whether the server closed the connection: its end, or a reset."""
    try:
        return connection.recv(65536) == b""
    except ConnectionError:
        return True


def test_a_client_that_asks_before_it_sends_too_much_is_refused_at_once(narrow: Served) -> None:
    with narrow.open() as connection:
        connection.sendall(
            b"POST /rerank HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 20000\r\n\r\n"
        )
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 413


def test_a_client_that_does_not_read_its_answer_is_cut_off(start: Start) -> None:
    server = start("--write-timeout", 0.3)
    texts = ["\u00e9" * 600_000, "\u00e9" * 600_000]  # 7 MB as JSON, more than the system keeps for it
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    body = json.dumps({"query": "w1", "documents": texts, "return_documents": True}).encode()
    head = f"POST /rerank HTTP/1.1\r\nhost: x\r\nx-request-id: unread\r\ncontent-length: {len(body)}\r\n\r\n"
    with connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: any("unread" in line for line in server.lines), "the end of the request")
        wait_for(lambda: _count(server) == 1, "the connection to be gone")


def _count(server: Served) -> int:
    """Established connections of the server, this question's own among them."""
    with server.open() as connection:
        _ask_health(connection)
        table = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()
        return sum(f":{server.port:04X}" in line.split()[1] and line.split()[3] == "01" for line in table[1:])


def test_bodies_of_all_requests_together_are_bounded(start: Start) -> None:
    server = start("--max-body-bytes", 5000, "--max-buffered-bytes", 6000)
    with server.open() as half:
        half.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 4500\r\n\r\n" + b" " * 4000)
        body = json.dumps(BODY).encode() + b" " * 3000
        reply = wait_for(lambda: (found := server.post(body)).status == 429 and found, "a refusal")
        assert "--max-buffered-bytes" in reply.json["detail"]
    wait_for(lambda: server.post(body).status == 200, "room again")
