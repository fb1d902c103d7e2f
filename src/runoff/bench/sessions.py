"""Several engines with one model, asked in turn; one that fails is dropped, and that is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from runoff.bench.models import Entrant
from runoff.bench.plan import Plan, Say, runnable, start
from runoff.bench.process import Peer
from runoff.bench.specs import ENGINES, Settings, UnavailableError


class Session(AbstractContextManager["Session"]):
    """`peers` are the engines that are still in it; they end with the session."""

    def __init__(
        self, plan: Plan, entrant: Entrant, engines: Sequence[str], say: Say, settings: Settings | None = None
    ) -> None:
        self._say = say
        self.peers: dict[str, Peer] = {}
        names, obstacles = runnable(plan, entrant, engines)
        for engine, why in obstacles.items():
            say(f"  left out: {ENGINES[engine].label}: {why}")
        for engine in names:
            try:
                self.peers[engine] = start(plan, entrant, engine, settings)
            except UnavailableError as error:
                say(f"  left out: {ENGINES[engine].label}: {error}")
            except BaseException:
                self.close()
                raise

    def in_turn(self, ask: Callable[[Peer], Any]) -> dict[str, Any]:
        """{engine: its answer} of every engine that gives one."""
        found = {}
        for engine in list(self.peers):
            try:
                found[engine] = ask(self.peers[engine])
            except UnavailableError as error:
                self._say(f"  dropped: {ENGINES[engine].label}: {error}")
                self.peers.pop(engine).close()
        return found

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
