"""A server's life: listens, loads, serves, drains when it is told to stop, and says by its exit how that went."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import uvicorn

from runoff.contracts import InputError
from runoff.serve.access import Keys, read_keys
from runoff.serve.app import build_app
from runoff.serve.journal import log_event, start_journal
from runoff.serve.model import Model
from runoff.serve.protocol import protocol_with
from runoff.serve.refusals import UnfinishedError, unhealthy
from runoff.serve.searching import BuildSearch, Searcher
from runoff.serve.service import Service
from runoff.serve.settings import Settings

logger = logging.getLogger(__name__)

HEAD_BYTES = 16_384
"""Most bytes of a request's head; beyond it, 400."""

LAST_WORDS_S = 0.5
"""How long requests that were given up have to take their 503."""


def serve(model: Model, settings: Settings, build_search: BuildSearch | None = None) -> None:
    """Serves until SIGTERM or SIGINT, and then until what was taken is answered.

    Raises `InputError` for an address or a key file that cannot be used, what a worker says that cannot load the
    model, `WorkerError` where workers die again and again, `UnfinishedError` where the time to drain was too short.
    A second signal ends the process at once.
    """
    keys = Keys(read_keys(settings.api_key, settings.api_key_file))
    listener = bound(settings.host, settings.port)
    start_journal(settings.log_format)
    asyncio.run(Server(model, settings, keys, build_search).run(listener))


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; `InputError` where it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # With the protocol named: asyncio turns Nagle's algorithm off only where a socket says that it is TCP's, and
        # with it each answer, head and body in two writes, waits 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen at {host} port {port}: {said}. Choose another --host or --port"
        ) from error
    return listener


class _Quiet(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """The parts of a running server, and the order in which they start and end."""

    def __init__(
        self, model: Model, settings: Settings, keys: Keys, build_search: BuildSearch | None
    ) -> None:
        self.settings = settings
        self.service = Service(model, settings)
        self._has_keys = len(keys) > 0
        self._searcher = None if build_search is None else Searcher(self.service, build_search)
        work = {} if self._searcher is None else {"search": self._searcher.search}
        self._http = _Quiet(
            uvicorn.Config(
                build_app(self.service, keys, work),
                http=protocol_with(settings),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )
        self._stop = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Serves at `listener` until told to stop. Raises what `serve` raises."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped_by, number)
        http = asyncio.create_task(self._http.serve(sockets=[listener]))
        self._say_where(listener)
        team = asyncio.create_task(self.service.team.keep())
        started = asyncio.create_task(self._say_ready())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((team, stop, http), return_when=asyncio.FIRST_COMPLETED)
            self.service.is_draining = True
            unanswered = await self._drained(
                is_hopeless=team.done() or not self.service.team.have_started.is_set()
            )
        finally:
            for task in (started, stop):
                task.cancel()
            self._http.should_exit = True
            await http
            if not team.done():
                team.cancel()
            await asyncio.gather(team, started, stop, return_exceptions=True)
            self.service.end()
            if self._searcher is not None:
                self._searcher.end()
        if team.done() and not team.cancelled() and (error := team.exception()) is not None:
            raise error
        if unanswered:
            raise UnfinishedError(
                f"{unanswered} requests were not answered within {self.settings.drain_timeout:g} s (--drain-timeout)"
            )
        log_event(logger, "stopped")

    def _stopped_by(self, number: int) -> None:
        if self._stop.is_set():
            self._end_at_once(number)
        log_event(
            logger, "stopping", signal=signal.Signals(number).name, pending=self.service.admission.requests
        )
        self.service.is_draining = True
        self._stop.set()

    def _end_at_once(self, number: int) -> NoReturn:
        for replica in self.service.team.replicas:
            replica.kill()
        os._exit(128 + number)

    async def _drained(self, is_hopeless: bool) -> int:
        """How many requests were not answered by the deadline; they are told so."""
        deadline = time.monotonic() + (0.0 if is_hopeless else self.settings.drain_timeout)
        tasks = self._http.server_state.tasks
        while tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        unanswered = len(tasks)
        if unanswered:
            self.service.batcher.fail_all(unhealthy("the server was stopped before it could answer"))
            await asyncio.sleep(LAST_WORDS_S)
        return 0 if is_hopeless else unanswered

    def _say_where(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log_event(logger, "listening", url=f"http://{shown}:{port}", model=self.service.name)
        if host not in ("127.0.0.1", "::1") and not self._has_keys:
            logger.warning("anyone who reaches %s may ask: there is no --api-key", host)

    async def _say_ready(self) -> None:
        began = time.monotonic()
        await self.service.team.have_started.wait()
        log_event(
            logger,
            "ready",
            seconds=round(time.monotonic() - began, 2),
            workers=self.settings.replicas,
            **{name: value for name, value in self.service.facts.items() if name != "reason"},
        )
