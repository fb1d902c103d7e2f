"""uvicorn's HTTP/1.1 protocol with what it leaves open: slow heads, clients that do not read, too many connections."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runoff.serve.refusals import error_body
from runoff.serve.settings import Settings


class BoundedProtocol(H11Protocol):  # type: ignore[misc]
    """A connection that is closed when the head of a request takes too long, or its answer is not taken."""

    settings: ClassVar[Settings]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.settings.max_connections:
            transport.abort()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_arrived()
        elif self._head_timer is None and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        self._head_arrived()
        super().on_response_complete()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.header_timeout, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # `close` waits for what a client does not read.
        self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as JSON, as everything else is."""
        body = json.dumps(error_body(msg, "Validation", "")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def protocol_with(settings: Settings) -> type[BoundedProtocol]:
    """The protocol class that keeps these limits."""
    return type("ConfiguredProtocol", (BoundedProtocol,), {"settings": settings})
