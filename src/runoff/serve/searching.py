"""POST /search: an index's hits, reranked in the batches that all requests share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from runoff.contracts import FloatArray, Hit, IndexStoreError, InputError, Scorer, TokenIds
from runoff.serve.fields import body_object, optional_text, text, whole
from runoff.serve.model import Cutting
from runoff.serve.refusals import backend, empty, invalid, overloaded
from runoff.serve.service import Answer, Scored, Service

if TYPE_CHECKING:
    from runoff.search.pipeline import Search, SearchResult

BuildSearch = Callable[[Scorer], "Search"]
"""A search whose reranker is the given scorer; cheap, since each request has its own."""

SEARCHING_THREADS, MOST_SEARCHES = 4, 64
"""Searches at work, and those with the waiting ones; beyond it, 429."""

TOP_K = 10


class ServedScorer:
    """The service as a `Scorer` for one search, which runs in a thread; `leave` has what it waits for end."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service, self._loop = service, loop
        self._is_left = threading.Event()
        self._scoring: Future[Scored] | None = None

    @property
    def name(self) -> str:
        return self._service.name

    @property
    def tokenizer_fingerprint(self) -> str | None:
        return self._service.model.tokenizer_fingerprint

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text."""
        return self._service.model.tokenize(texts)

    def score(self, query: str, documents: Sequence[str | TokenIds]) -> FloatArray:
        """Raw scores [N], by the shared batches. Raises `RefusedError`."""
        pairs = [(query, document) for document in documents]
        self._scoring = asyncio.run_coroutine_threadsafe(self._service.scored(pairs, Cutting()), self._loop)
        if self._is_left.is_set():
            self._scoring.cancel()
        return self._scoring.result().raw

    def leave(self) -> None:
        """Nobody waits for this search any more."""
        self._is_left.set()
        if self._scoring is not None:
            self._scoring.cancel()


class Searcher:
    """Answers searches, a few at a time."""

    def __init__(self, service: Service, build: BuildSearch) -> None:
        self._service, self._build = service, build
        self._threads = ThreadPoolExecutor(SEARCHING_THREADS, "search")
        self._count = 0

    async def search(self, body: Any, request_id: str, _api_version: str) -> Answer:
        """The hits of a query. Raises `RefusedError`."""
        body = body_object(body)
        query, where = text(body, "query"), optional_text(body, "where")
        top_k = whole(body, "top_k", "top_n", least=1) or TOP_K
        if top_k > self._service.settings.max_documents:
            raise invalid(f"top_k: expected at most {self._service.settings.max_documents}, got {top_k}")
        if not query.strip():
            raise empty("invalid request: query must not be empty or be only whitespace")
        if self._count >= MOST_SEARCHES:
            raise overloaded(f"{self._count} searches are waiting", self._service.admission.retry_after_s())
        loop = asyncio.get_running_loop()
        scorer = ServedScorer(self._service, loop)
        self._count += 1
        try:
            found = await loop.run_in_executor(
                self._threads, lambda: self._build(scorer).search(query, top_k, where)
            )
        except (InputError, IndexStoreError) as error:
            raise invalid(str(error)) if isinstance(error, InputError) else backend(str(error)) from None
        finally:
            scorer.leave()
            self._count -= 1
        return Answer(_payload(found, request_id, self._service.name), facts={"hits": len(found.hits)})

    def end(self) -> None:
        """Ends the threads once their searches have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _payload(found: SearchResult, request_id: str, model: str) -> dict[str, Any]:
    timings = {stage: round(milliseconds, 2) for stage, milliseconds in found.timings.items()}
    return {
        "id": request_id,
        "model": model,
        "hits": [_hit(hit) for hit in found.hits],
        "timings_ms": timings,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    """A hit as JSON; what it has not is absent."""
    record = {"id": hit.id, "rank": hit.rank, "score": hit.score, "text": hit.text, "title": hit.title}
    record |= {"source": hit.source, "place": hit.place, "metadata": dict(hit.metadata) or None}
    record |= {"scores": dict(hit.scores), "ranks": dict(hit.ranks)}
    return {name: value for name, value in record.items() if value is not None}
