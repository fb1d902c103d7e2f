"""Requests -> shared batches on the workers -> scores; cancellation, deadlines, and what a bad request breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from runoff.contracts import Batch, FloatArray
from runoff.serve.admission import Admission
from runoff.serve.metrics import Metrics
from runoff.serve.model import Work
from runoff.serve.refusals import RefusedError, backend, overloaded, unhealthy
from runoff.serve.replicas import Team
from runoff.serve.sharing import joined, shared_spans

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Raw scores [N] of a request, how long it waited for its first batch, and the time from there to its last."""

    scores: FloatArray
    queue_s: float
    inference_s: float


class Job:
    """One request on its way: which of its sequences were sent, and the outputs that came back."""

    def __init__(self, work: Work, answer: asyncio.Future[Outcome]) -> None:
        self.work, self.answer = work, answer
        self.block: Batch = work.block
        self.next_sequence = 0
        self.missing = len(work.block)
        self.outputs = np.empty((len(work.block), 1), np.float32)
        self.queued_at = time.perf_counter()
        self.started_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether anyone waits for it."""
        return not self.answer.done()


class Sent(NamedTuple):
    """A request's sequences `first` to `last` in a batch."""

    job: Job
    first: int
    last: int

    @property
    def tokens(self) -> int:
        """The part of the request's tokens that they are."""
        block, offsets = self.job.block, self.job.block.offsets
        share = int(offsets[self.last] - offsets[self.first]) / block.token_count
        return round(share * self.job.work.tokens)


class Batcher:
    """Sends shared batches to the team's workers, oldest requests first, and gives each request its scores."""

    def __init__(self, team: Team, admission: Admission, metrics: Metrics, queue_timeout_s: float) -> None:
        self._team, self._admission, self._metrics = team, admission, metrics
        self._queue_timeout_s = queue_timeout_s
        self._waiting: dict[Job, None] = {}  # in order of arrival
        self._again: deque[list[Sent]] = deque()
        self._sent: dict[int, list[Sent]] = {}
        self._number = 0
        team.listener = self

    @property
    def waiting_sequences(self) -> int:
        """Sequences that no worker has yet."""
        return sum(len(job.block) - job.next_sequence for job in self._waiting)

    async def score(self, work: Work) -> Outcome:
        """Raw scores of a request's pairs. Cancelled, none of its sequences is sent any more.

        Raises `RefusedError`: 429 when nothing of it was begun in time, 424 when the engine fails on it or gives no
        finite score, 503 when a worker died with it.
        """
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future())
        self._waiting[job] = None
        timer = loop.call_later(self._queue_timeout_s, self._expire, job)
        self.dispatch()
        try:
            return await job.answer
        finally:
            timer.cancel()
            job.answer.cancel()  # a no-op for one that is done
            self._waiting.pop(job, None)

    def dispatch(self) -> None:
        """Gives every worker that has room its next batch."""
        while (worker := self._team.free_worker()) is not None:
            sent = self._next()
            if not sent:
                return
            batch = joined([(each.job.block, each.first, each.last) for each in sent])
            now = time.perf_counter()
            for each in sent:
                if each.job.started_at is None:
                    each.job.started_at = now
            self._number += 1
            self._sent[self._number] = sent
            self._metrics.batch(len(batch), batch.token_count)
            worker.send(self._number, batch)

    def _next(self) -> list[Sent]:
        """The next batch's sequences; those of a batch that failed come first."""
        while self._again:
            sent = [each for each in self._again.popleft() if each.job.is_open]
            if sent:
                return sent
        jobs = list(self._waiting)
        found = []
        for span in shared_spans(jobs, self._team.token_budget):
            job = jobs[span.place]
            found.append(Sent(job, span.first, span.last))
            job.next_sequence = span.last
            if job.next_sequence == len(job.block):
                del self._waiting[job]
        return found

    def _expire(self, job: Job) -> None:
        if job.started_at is None and job.is_open:
            waited = (
                f"the request waited for {self._queue_timeout_s:g} s and was not begun (--request-timeout)"
            )
            self._fail(job, overloaded(waited, self._admission.retry_after_s()))

    def _fail(self, job: Job, refusal: RefusedError) -> None:
        self._waiting.pop(job, None)
        if job.is_open:
            job.answer.set_exception(refusal)

    # --- what the team says -----------------------------------------------------------------------

    def scored(self, number: int, scores: FloatArray, seconds: float) -> None:
        """A batch's scores [B]."""
        sent = self._sent.pop(number)
        tokens = sum(each.tokens for each in sent)
        self._admission.learn(tokens, seconds, self._team.ready_count)
        begin = 0
        for job, first, last in sent:
            found = scores[begin : begin + last - first]
            begin += last - first
            if not job.is_open:
                continue
            if not np.isfinite(found).all():
                logger.error("the model gave a score that is not finite; the checkpoint is probably damaged")
                self._fail(job, backend("the model gave a score that is not a finite number"))
                continue
            job.outputs[job.block.rows[first:last], 0] = found
            job.missing -= last - first
            if not job.missing:
                self._finish(job)
        self.dispatch()

    def _finish(self, job: Job) -> None:
        started = job.started_at or job.queued_at
        raw = job.work.encoded.scores_of_pairs(job.outputs)[:, 0]
        job.answer.set_result(Outcome(raw, started - job.queued_at, time.perf_counter() - started))

    def failed(self, number: int, error: str) -> None:
        """A batch on which the engine raised: shared, it is tried again in halves; alone, its request fails."""
        sent = [each for each in self._sent.pop(number) if each.job.is_open]
        if len(sent) > 1:
            middle = len(sent) // 2
            self._again.extend((sent[:middle], sent[middle:]))
        for job, _, _ in sent if len(sent) == 1 else []:
            logger.error("the engine failed on a request: %s", error)
            self._fail(job, backend("the engine failed on this request; the server's log says how"))
        self.dispatch()

    def lost(self, number: int) -> None:
        """A batch whose worker died. It is not tried again: it may be what killed the worker."""
        for job, _, _ in self._sent.pop(number):
            self._fail(job, unhealthy("the worker that scored this request died; another is being started"))

    def freed(self) -> None:
        """A worker is ready for batches."""
        self.dispatch()

    def fail_all(self, refusal: RefusedError) -> None:
        """Answers everything that waits with `refusal`."""
        for job in [*self._waiting, *(each.job for sent in self._sent.values() for each in sent)]:
            self._fail(job, refusal)
