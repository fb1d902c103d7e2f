"""What a worker process does: builds its engine, scores batches, ends when the server's end of the socket closes."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import time
from collections.abc import Callable, Mapping
from socket import socket
from typing import Any

import numpy as np

from runoff.contracts import PackedEngine, RunoffError
from runoff.serve.frames import LENGTHS, Frame, batch_of, encoded
from runoff.text.batching import forward_chunks

BuildEngine = Callable[[], tuple[PackedEngine, Mapping[str, Any]]]
"""An engine, and what `/info` says of it (device, precision, why). Called once in each worker."""


def run_worker(build: BuildEngine, connection: socket) -> None:
    """Answers frames until the server is gone."""
    # Signals of a terminal or a service manager reach the whole group; when to end is the server's decision.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="runoff: worker: %(message)s")
    try:
        engine, facts = build()
    except Exception as error:
        kind = type(error).__name__ if isinstance(error, RunoffError) else ""
        said = str(error) if kind else f"{type(error).__name__}: {error}"
        connection.sendall(encoded({"kind": "refused", "error": kind, "message": said}))
        return
    with contextlib.suppress(ConnectionError):  # the server is gone
        connection.sendall(
            encoded({"kind": "built", "token_budget": engine.token_budget, "facts": dict(facts)})
        )
        while (frame := received(connection)) is not None:
            connection.sendall(answer(engine, frame))


def answer(engine: PackedEngine, frame: Frame) -> bytes:
    """Scores of a batch, or what the engine raised; a ping's echo."""
    number = frame.head.get("number")
    if frame.head["kind"] == "ping":
        return encoded({"kind": "pong"})
    began = time.perf_counter()
    try:
        batch = batch_of(frame)
        (outputs,) = forward_chunks(engine, [batch], token_budget=max(1, engine.token_budget))
        scores = np.ascontiguousarray(outputs[:, 0], np.float32)
    except Exception as error:
        return encoded({"kind": "failed", "number": number, "error": f"{type(error).__name__}: {error}"})
    return encoded(
        {"kind": "scores", "number": number, "seconds": time.perf_counter() - began}, scores.tobytes()
    )


def received(connection: socket) -> Frame | None:
    """The next frame; None where the other end has closed."""
    lengths = _exactly(connection, LENGTHS.size)
    if lengths is None:
        return None
    head_size, payload_size = LENGTHS.unpack(lengths)
    body = _exactly(connection, head_size + payload_size)
    return None if body is None else Frame(json.loads(body[:head_size]), bytes(body[head_size:]))


def _exactly(connection: socket, count: int) -> bytearray | None:
    """So many bytes; None where the other end closed before."""
    whole = bytearray(count)
    view = memoryview(whole)
    while view:
        try:
            size = connection.recv_into(view)
        except ConnectionError:
            return None
        if not size:
            return None
        view = view[size:]
    return whole
