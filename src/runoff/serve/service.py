"""The service behind the routes: takes a request, has it scored, and says how it went. Knows no HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from runoff import __version__
from runoff.contracts import CutReport, FloatArray, InputError, TokenIds, TruncationError
from runoff.ranking import rank_scores
from runoff.serve.admission import Admission
from runoff.serve.batcher import Batcher
from runoff.serve.dialects import Pairs, Usage, pairs_answer, pairs_of, rerank_answer, rerank_of
from runoff.serve.metrics import Metrics
from runoff.serve.model import Cutting, Model, Work
from runoff.serve.refusals import RefusedError, invalid, unhealthy
from runoff.serve.replicas import Team
from runoff.serve.settings import Settings

TOKENIZING_THREADS = 2
"""Requests tokenised at once. The tokenizers library spreads each one over all cores; the second is for small requests
that come while a large one is tokenised."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A payload for JSON, headers, and what the log and the metrics say of it."""

    payload: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """Raw scores [N] of a request, and what they took."""

    raw: FloatArray
    work: Work
    queue_s: float
    inference_s: float

    @property
    def tokens(self) -> int:
        return self.work.tokens


class Service:
    """A model that is served: what a request passes on its way to scores."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.name = settings.served_name or model.name
        self.metrics = Metrics()
        self.admission = Admission(settings.max_pending_requests, settings.max_pending_tokens)
        self.team = Team(model, settings)
        self.batcher = Batcher(self.team, self.admission, self.metrics, settings.request_timeout)
        self.is_draining = False
        self._tokenizers = ThreadPoolExecutor(TOKENIZING_THREADS, "tokenizer")
        for name, text, value in (
            ("te_queue_size", "sequences that no worker has yet", lambda: self.batcher.waiting_sequences),
            (
                "runoff_pending_requests",
                "requests taken and not yet answered",
                lambda: self.admission.requests,
            ),
            ("runoff_pending_tokens", "their tokens", lambda: self.admission.tokens),
            ("runoff_workers_ready", "workers that score", lambda: self.team.ready_count),
            ("runoff_worker_deaths", "workers that died since the start", lambda: self.team.deaths),
        ):
            self.metrics.gauge(name, text, value)

    # --- scoring ------------------------------------------------------------------------------------

    async def rerank(self, body: Any, request_id: str, api_version: str) -> Answer:
        """The answer to a reranking request of any dialect. Raises `RefusedError`."""
        began = time.perf_counter()
        asked = rerank_of(body)
        self._check(asked.model, len(asked.documents), "documents")
        scored = await self.scored([(asked.query, document) for document in asked.documents], asked.cutting)
        order = rank_scores(scored.raw).rows.tolist()
        usage = Usage(request_id, self.name, scored.tokens, scored.work.cut, api_version)
        payload = rerank_answer(asked, order, self._shown(scored.raw, asked.is_raw), usage)
        return Answer(payload, self._headers(scored, began), _facts(scored))

    async def score(self, body: Any, request_id: str, _api_version: str) -> Answer:
        """The answer to a scoring request. Raises `RefusedError`."""
        began = time.perf_counter()
        asked: Pairs = pairs_of(body)
        self._check(asked.model, len(asked.pairs), "pairs")
        scored = await self.scored(asked.pairs, asked.cutting)
        usage = Usage(request_id, self.name, scored.tokens, scored.work.cut)
        payload = pairs_answer(self._shown(scored.raw, asked.is_raw), int(time.time()), usage)
        return Answer(payload, self._headers(scored, began), _facts(scored))

    async def scored(self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting) -> Scored:
        """Raw scores of the pairs, admitted as a whole. Raises `RefusedError`."""
        with self.admission.admit(self.model.estimated_tokens(pairs)) as ticket:
            work = await self._tokenized(pairs, cutting)
            ticket.correct(work.tokens)
            outcome = await self.batcher.score(work)
        scored = Scored(outcome.scores, work, outcome.queue_s, outcome.inference_s)
        self.metrics.duration("tokenization_duration", work.tokenization_s)
        self.metrics.duration("queue_duration", scored.queue_s)
        self.metrics.duration("inference_duration", scored.inference_s)
        self.metrics.answered(len(pairs), scored.tokens, work.cut.cut_pairs)
        return scored

    async def _tokenized(self, pairs: Sequence[tuple[str, str | TokenIds]], cutting: Cutting) -> Work:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._tokenizers, self.model.work, pairs, cutting)
        except TruncationError as error:
            raise invalid(str(error)) from None
        except InputError as error:
            raise RefusedError(422, "Tokenizer", "tokenization", str(error)) from None

    def _check(self, model: str | None, count: int, what: str) -> None:
        if self.settings.strict_model and model not in (None, self.name):
            raise invalid(f"model: expected {self.name!r}, got {model!r:.120}", 404)
        if count > self.settings.max_documents:
            raise RefusedError(
                422,
                "Validation",
                "batch_size",
                f"{count} {what}: at most {self.settings.max_documents} in a request (--max-documents)",
            )

    def _shown(self, raw: FloatArray, is_raw: bool) -> list[float]:
        """Scores [N] as they are answered."""
        return [float(score) for score in (raw if is_raw else self.model.shown(raw))]

    def _headers(self, scored: Scored, began: float) -> dict[str, str]:
        """TEI's headers, in milliseconds, and how many pairs were cut."""
        total = math.ceil((time.perf_counter() - began) * 1e3)
        headers = {
            "x-compute-type": str(self.facts.get("device", "cpu")),
            "x-compute-time": str(math.ceil(scored.inference_s * 1e3)),
            "x-compute-characters": str(scored.work.characters),
            "x-compute-tokens": str(scored.tokens),
            "x-total-time": str(total),
            "x-tokenization-time": str(math.ceil(scored.work.tokenization_s * 1e3)),
            "x-queue-time": str(math.ceil(scored.queue_s * 1e3)),
            "x-inference-time": str(math.ceil(scored.inference_s * 1e3)),
        }
        cut: CutReport = scored.work.cut
        return headers | ({"x-truncated": str(cut.cut_pairs)} if cut.cut_pairs else {})

    # --- what it is, and how it is --------------------------------------------------------------------

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the workers say of their engine; empty before the first is ready."""
        return self.team.replicas[0].facts

    @property
    def is_ready(self) -> bool:
        """Whether a balancer should send requests here."""
        return self.team.have_started.is_set() and self.team.is_healthy and not self.is_draining

    def check_open(self) -> None:
        """Raises `RefusedError` 503 while the model is loaded, and once the server is stopping."""
        if self.is_draining:
            raise unhealthy("the server is stopping; send the request to another")
        if not self.team.have_started.is_set():
            raise unhealthy("the model is being loaded")

    def info(self) -> dict[str, Any]:
        """TEI's description of a server, and ours of the engine, the limits and the workers."""
        settings = self.settings
        return {
            "model_id": self.model.name,
            "model_sha": None,
            "model_dtype": self.facts.get("precision"),
            "served_model_name": self.name,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": settings.max_pending_requests,
            "max_input_length": self.model.max_length,
            "max_batch_tokens": self.team.token_budget,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_documents,
            "auto_truncate": True,
            "tokenization_workers": TOKENIZING_THREADS,
            "version": __version__,
            "engine": dict(self.facts),
            "scores": settings.scores,
            "limits": {
                "documents": settings.max_documents,
                "body_bytes": settings.max_body_bytes,
                "pending_requests": settings.max_pending_requests,
                "pending_tokens": settings.max_pending_tokens,
            },
            "workers": {"wanted": len(self.team.replicas), "ready": self.team.ready_count},
        }

    def models(self) -> dict[str, Any]:
        """The one model, in the form of OpenAI's list."""
        return {"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "runoff"}]}

    def end(self) -> None:
        """Ends the workers and the threads."""
        self.team.end()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)


def _facts(scored: Scored) -> dict[str, Any]:
    """What the log says of an answered request: counts and milliseconds, no text."""
    return {
        "pairs": scored.work.cut.pairs,
        "tokens": scored.tokens,
        "cut_pairs": scored.work.cut.cut_pairs,
        "queue_ms": round(scored.queue_s * 1e3, 2),
        "inference_ms": round(scored.inference_s * 1e3, 2),
    }
