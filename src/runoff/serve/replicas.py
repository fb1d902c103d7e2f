"""The worker processes: started, watched, replaced when they die, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import socket
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from runoff import contracts
from runoff.contracts import Batch, FloatArray, RunoffError
from runoff.serve.frames import LENGTHS, Frame, batch_frame, encoded, scores_of
from runoff.serve.model import Model
from runoff.serve.refusals import WorkerError
from runoff.serve.settings import Settings
from runoff.serve.worker import run_worker

logger = logging.getLogger(__name__)

IN_FLIGHT = {"cpu": 1}
"""Batches that a worker has at once, by device. On a CPU one: what waits here may still be dropped, and be shared with
what comes meanwhile, and the way between two batches is under a thousandth of a batch."""

IN_FLIGHT_ELSEWHERE = 2
"""On a GPU, whose batches take a few milliseconds, one more lies ready, so that it never waits for the server."""

CPU_BATCH_TOKENS = 1024, 4096
"""Tokens of a batch on a CPU where none are asked for: as many as take `CPU_BATCH_S`, within these. A thread takes 512
at a time, so that more make nothing faster."""

CPU_BATCH_S = 0.5
"""Seconds that a request waits at most behind the batch of a large one."""

SLOWEST = 10
"""Times that a batch may take as long as the warm-up's, which was a full one, before its worker is killed."""

PING_S, DEAF_S = 1.0, 4.0
"""An idle worker is pinged so often, and counts as unhealthy when a ping stays unanswered for so long."""

PROBE = 0
"""The number of a batch of one warm-up pair: the first that a worker gets, and what it gets after one that failed."""

MOST_STARTS = 5
"""Workers that die one after the other, none of them having scored a batch, before the server gives up."""


class Listener(Protocol):
    """Who hears of batches."""

    def scored(self, number: int, scores: FloatArray, seconds: float) -> None: ...
    def failed(self, number: int, error: str) -> None: ...
    def lost(self, number: int) -> None: ...
    def freed(self) -> None: ...


class Replica:
    """One worker process after another, and the batches that the present one has."""

    def __init__(self, team: Team, number: int) -> None:
        self._team, self.number = team, number
        self.is_ready = False
        self.facts: Mapping[str, Any] = {}
        self.in_flight: dict[int, float] = {}
        self.pinged_at: float | None = None
        self.heard_at = time.monotonic()
        self._deaths = 0
        self._batch_timeout_s = team.settings.batch_timeout
        self._process: BaseProcess | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_healthy(self) -> bool:
        """Whether it is ready and answers."""
        is_deaf = self.pinged_at is not None and time.monotonic() - self.pinged_at > DEAF_S
        return self.is_ready and not is_deaf

    def send(self, number: int, batch: Batch) -> None:
        """Gives the worker a batch; its scores, or its end, come to the listener."""
        assert self._writer is not None, "only ready workers are given batches"
        self.in_flight[number] = time.monotonic()
        self._writer.write(batch_frame(number, batch))

    async def keep(self) -> None:
        """Has a worker run until the team closes. Raises what a worker says that cannot load the model, and
        `WorkerError` where workers die again and again."""
        while True:
            try:
                reader = await self._start()
                await self._listen(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                self._forget()
            self._deaths += 1
            code = await asyncio.to_thread(self._reap)
            logger.error("worker %d died (%s); starting another", self.number, _ending(code))
            self._team.deaths += 1
            if self._deaths >= MOST_STARTS:
                raise WorkerError(
                    f"{self._deaths} workers died one after the other and scored nothing ({_ending(code)}): "
                    "the machine may lack memory for the model, or the engine crashes here; try --precision fp32"
                )
            await asyncio.sleep(min(10.0, 0.5 * 2 ** (self._deaths - 2)) if self._deaths > 1 else 0.0)

    async def _start(self) -> asyncio.StreamReader:
        """A new worker that has loaded the model and scored a batch to warm up."""
        ours, theirs = socket.socketpair()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=run_worker,
            args=(self._team.model.build, theirs),
            name=f"runoff-worker-{self.number}",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(self._team.settings.start_timeout):
                await self._warm_up(reader)
        except TimeoutError:
            self.kill()
            raise WorkerError(
                f"a worker did not load the model within {self._team.settings.start_timeout:g} s (--start-timeout)"
            ) from None
        self.is_ready = True
        self.heard_at = time.monotonic()
        self._team.heard_of_start()
        return reader

    async def _warm_up(self, reader: asyncio.StreamReader) -> None:
        frame = await received(reader)
        if frame.head["kind"] == "refused":
            kind = (
                getattr(contracts, frame.head["error"], WorkerError) if frame.head["error"] else WorkerError
            )
            raise kind(frame.head["message"])
        self.facts = frame.head["facts"]
        self._team.learn_engine(frame.head["token_budget"], str(self.facts.get("device", "cpu")))
        assert self._writer is not None
        batch = self._team.model.warm_up(self._team.token_budget)
        self._writer.write(batch_frame(PROBE, batch))
        frame = await received(reader)
        if frame.head["kind"] != "scores":
            raise WorkerError(f"the engine failed on its first batch: {frame.head.get('error')}")
        seconds = frame.head["seconds"]
        self._team.learn_speed(batch.token_count, seconds)
        self._batch_timeout_s = max(self._team.settings.batch_timeout, SLOWEST * seconds)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            frame = await received(reader)
            self.heard_at, self.pinged_at = time.monotonic(), None
            if frame.head["kind"] != "pong":
                self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        """What became of a batch. After one that failed the worker is probed: an engine that fails even there (a GPU
        whose context is broken fails for ever) is replaced with its process."""
        number, has_failed = frame.head["number"], frame.head["kind"] == "failed"
        if number == PROBE:
            if has_failed:
                logger.error("worker %d fails on every batch (%s): killed", self.number, frame.head["error"])
                self.kill()
            return
        self.in_flight.pop(number)
        if has_failed:
            assert self._writer is not None
            self._writer.write(batch_frame(PROBE, self._team.model.warm_up(1)))
            self._team.listener.failed(number, frame.head["error"])
        else:
            self._deaths = 0
            self._team.listener.scored(number, scores_of(frame), frame.head["seconds"])

    def watch(self) -> None:
        """Kills a worker that computes too long, or does not answer; pings one that is idle."""
        if not self.is_ready:
            return
        now = time.monotonic()
        since = [max(begun, self.heard_at) for begun in self.in_flight.values()]
        since += [] if self.pinged_at is None else [self.pinged_at]
        if since and now - min(since) > self._batch_timeout_s:
            what = "computes at a batch" if self.in_flight else "has not answered"
            logger.error(
                "worker %d %s for %.1f s (--batch-timeout): killed", self.number, what, now - min(since)
            )
            self.kill()
        elif not since and now - self.heard_at > PING_S:
            assert self._writer is not None
            self.pinged_at = now
            self._writer.write(encoded({"kind": "ping"}))

    def _forget(self) -> None:
        """The worker is gone, and its batches with it."""
        self.is_ready, self.pinged_at = False, None
        if self._writer is not None:
            self._writer.close()
        lost, self.in_flight = self.in_flight, {}
        for number in lost:
            self._team.listener.lost(number)

    def _reap(self) -> int | None:
        """The exit code of the process, which is ended if it has not."""
        assert self._process is not None
        self._process.join(1.0)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def end(self) -> None:
        """Has the process end by itself, which it does when the socket closes; after two seconds, by force."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.join(2.0)
            self.kill()


class Team:
    """All replicas. `listener` hears of their batches; `failure` is what ended them, if they could not go on."""

    listener: Listener

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.token_budget = settings.batch_tokens or CPU_BATCH_TOKENS[1]
        self._is_on_cpu = True
        self.most_in_flight = 1
        self.deaths = 0
        self.replicas = [Replica(self, number) for number in range(settings.replicas)]
        self.have_started = asyncio.Event()
        """All replicas are warm, for the first time."""

    @property
    def ready_count(self) -> int:
        return sum(replica.is_ready for replica in self.replicas)

    @property
    def is_healthy(self) -> bool:
        """Whether a worker is there that scores."""
        return any(replica.is_healthy for replica in self.replicas)

    def free_worker(self) -> Replica | None:
        """The ready worker with the fewest batches, if it has room for one more."""
        ready = [
            each for each in self.replicas if each.is_ready and len(each.in_flight) < self.most_in_flight
        ]
        return min(ready, key=lambda replica: len(replica.in_flight), default=None)

    def learn_engine(self, token_budget: int, device: str) -> None:
        """Hears of the batches that the engine likes best, and where it runs."""
        self._is_on_cpu = device.startswith("cpu")
        self.most_in_flight = IN_FLIGHT.get(device, IN_FLIGHT_ELSEWHERE)
        if not self.settings.batch_tokens:
            self.token_budget = min(token_budget, CPU_BATCH_TOKENS[1]) if self._is_on_cpu else token_budget

    def learn_speed(self, tokens: int, seconds: float) -> None:
        """Hears how long the warm-up's batch took; where the engine is slow, batches become smaller."""
        if self._is_on_cpu and not self.settings.batch_tokens:
            fitting = max(CPU_BATCH_TOKENS[0], int(CPU_BATCH_S * tokens / max(seconds, 1e-6)))
            self.token_budget = min(self.token_budget, fitting)

    def heard_of_start(self) -> None:
        if self.ready_count == len(self.replicas):
            self.have_started.set()
        self.listener.freed()

    async def keep(self) -> None:
        """Keeps all replicas running until cancelled. Raises what `Replica.keep` raises."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for replica in self.replicas:
                    tasks.create_task(replica.keep())
                tasks.create_task(self._watch())
        except ExceptionGroup as group:
            raise next((each for each in group.exceptions if isinstance(each, RunoffError)), group) from None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            for replica in self.replicas:
                replica.watch()

    def end(self) -> None:
        """Ends every worker."""
        for replica in self.replicas:
            replica.end()


async def received(reader: asyncio.StreamReader) -> Frame:
    """The next frame; raises `IncompleteReadError` where the worker is gone."""
    head_size, payload_size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    head = json.loads(await reader.readexactly(head_size))
    return Frame(head, await reader.readexactly(payload_size))


def _ending(code: int | None) -> str:
    """An exit code in words."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
