"""A request's body -> JSON: bounded, in time, never held beyond its limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from typing import Any, NoReturn

from runoff.serve.refusals import RefusedError, invalid, overloaded, too_large
from runoff.serve.settings import Settings

DRAINED_BYTES_TIMES = 4
"""A body of up to so many times the limit is read and thrown away before it is refused: most clients read an answer
only once they have sent everything, and a closed connection would hide the reason from them."""


class Disconnected(Exception):  # noqa: N818 - no error: the client has gone
    """Nobody waits for the answer any more."""


class Buffered:
    """How many bytes of bodies are held now, of all requests."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def hold(self, size: int) -> None:
        """Raises `RefusedError` 429 where the bodies of all requests are more than the limit."""
        if self.held + size > self.limit:
            raise overloaded(f"{self.held} bytes of requests are being read (--max-buffered-bytes)", 1)
        self.held += size


class Body:
    """The body of one request, counted among the buffered until its `with` block ends."""

    def __init__(
        self, receive: Any, headers: Mapping[str, str], settings: Settings, buffered: Buffered
    ) -> None:
        self._receive, self._headers = receive, headers
        self._settings, self._buffered = settings, buffered
        self._held = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffered.held -= self._held
        self._held = 0

    async def json(self) -> Any:
        """The value that the body holds. Raises `RefusedError`: 415 for another content type, 413 beyond the limit,
        408 for a client that is too slow, 429 where too much is being read, 400 for what is no JSON."""
        kind = self._headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise invalid(f"content-type: expected application/json, got {kind!r:.80}", 415)
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                whole = await self._read()
        except TimeoutError:
            raise RefusedError(
                408,
                "Validation",
                "timeout",
                f"the body did not arrive within {self._settings.body_timeout:g} s (--body-timeout)",
            ) from None
        return parsed(whole)

    async def _read(self) -> bytes:
        limit = self._settings.max_body_bytes
        # A chunked body has no length; h11 has refused one that is no number.
        declared = int(self._headers.get("content-length", "0"))
        is_large = declared > limit
        if is_large and ("expect" in self._headers or declared > DRAINED_BYTES_TIMES * limit):
            self._refuse_size(limit)  # a client that asks first has not sent it yet
        chunks: list[bytes] = []
        size = 0
        has_more = True
        while has_more:
            message: MutableMapping[str, Any] = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk, has_more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            is_large |= size > limit
            if is_large:
                chunks.clear()
                if size > DRAINED_BYTES_TIMES * limit:
                    break
            elif chunk:
                self._buffered.hold(len(chunk))
                self._held += len(chunk)
                chunks.append(chunk)
        if is_large:
            self._refuse_size(limit)
        return b"".join(chunks)

    def _refuse_size(self, limit: int) -> NoReturn:
        raise too_large(
            f"the request is larger than {limit} bytes (--max-body-bytes): send fewer or shorter documents"
        )


def parsed(body: bytes) -> Any:
    """The JSON value. Raises `RefusedError` 400 for what is none: NaN, Infinity and too deep a nesting among it."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid(
            "the body is nested too deeply; expected an object with a query and documents", 400
        ) from None
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}", 400) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
