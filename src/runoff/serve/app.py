"""HTTP: routes -> the service. Every answer is JSON (but for metrics and the page of docs) and carries a request id."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runoff.serve.access import Keys
from runoff.serve.docs_page import docs_page
from runoff.serve.intake import Body, Buffered, Disconnected
from runoff.serve.journal import child_of, log_request, request_id
from runoff.serve.refusals import RefusedError, error_body
from runoff.serve.service import Answer, Service

logger = logging.getLogger(__name__)

OPENAPI = Path(__file__).with_name("openapi.json")
"""The description of the routes; tests/serve compares it with them."""

CLIENT_GONE = 499
"""The status that logs give a request whose client left; nobody receives it."""

Answering = Callable[[Any, str, str], Coroutine[Any, Any, Answer]]


def json_response(payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON without NaN; non-ASCII is escaped, so that a lone surrogate of a client's own field cannot break it."""
    return Response(json.dumps(payload, allow_nan=False), status, headers, "application/json")


def refused(refusal: RefusedError, request: Request) -> Response:
    """The one error body, with what its status asks for in headers."""
    headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.status in (408, 413):  # the rest of the body is not wanted
        headers["connection"] = "close"
    body = error_body(str(refusal), refusal.kind, request.state.request_id)
    return json_response(body, refusal.status, headers)


class Routes:
    """The handlers, by what they do."""

    def __init__(self, service: Service, keys: Keys, more_work: Mapping[str, Answering]) -> None:
        self._service, self._keys = service, keys
        self._buffered = Buffered(service.settings.max_buffered_bytes)
        self._more_work = more_work

    def table(self) -> list[Route]:
        """Every route."""
        service = self._service
        posts: list[tuple[str, tuple[str, ...], Answering]] = [
            ("rerank", ("/rerank", "/v1/rerank", "/v2/rerank"), service.rerank),
            ("score", ("/score", "/v1/score"), service.score),
            *((name, (f"/{name}",), work) for name, work in self._more_work.items()),
        ]
        return [
            *(
                Route(path, self._scoring(name, work), methods=["POST"])
                for name, paths, work in posts
                for path in paths
            ),
            *(Route(path, self._health) for path in ("/health", "/ping")),
            Route("/ready", self._ready),
            Route("/info", self._locked(service.info)),
            *(Route(path, self._locked(service.models)) for path in ("/v1/models", "/models")),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            Route("/docs", self._docs),
        ]

    def _scoring(self, name: str, work: Answering) -> Callable[[Request], Awaitable[Response]]:
        """The handler of a route that scores: counted, timed, refused in the one form, dropped with its client."""

        async def handle(request: Request) -> Response:
            began = time.perf_counter()
            metrics = self._service.metrics
            metrics.count("te_request_count", method=name)
            failure = ""
            try:
                return await self._answered(request, work)
            except RefusedError as refusal:
                failure = refusal.cause
                return refused(refusal, request)
            except (Disconnected, asyncio.CancelledError) as error:
                failure = "dropped"
                if isinstance(error, asyncio.CancelledError):
                    raise
                return Response(status_code=CLIENT_GONE)
            except Exception:
                failure = "internal"
                logger.exception("request %s failed", request.state.request_id)
                said = error_body(
                    "a mistake in the server; its log says more", "Backend", request.state.request_id
                )
                return json_response(said, 500)
            finally:
                metrics.duration("duration", time.perf_counter() - began)
                if failure:
                    metrics.count("te_request_failure", err=failure)
                else:
                    metrics.count("te_request_success", method=name)

        return handle

    async def _answered(self, request: Request, work: Answering) -> Response:
        self._keys.check(request.headers.get("authorization"))
        self._service.check_open()
        with Body(request.receive, request.headers, self._service.settings, self._buffered) as body:
            value = await body.json()
            version = "1" if request.url.path.startswith("/v1/") else "2"
            answer = await while_connected(request, work(value, request.state.request_id, version))
        request.state.facts.update(answer.facts)
        return json_response(answer.payload, headers=dict(answer.headers))

    def _locked(self, tell: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        """The handler of a page that needs a key."""

        async def handle(request: Request) -> Response:
            try:
                self._keys.check(request.headers.get("authorization"))
            except RefusedError as refusal:
                return refused(refusal, request)
            return json_response(tell())

        return handle

    async def _health(self, request: Request) -> Response:
        service = self._service
        workers = {"wanted": len(service.team.replicas), "ready": service.team.ready_count}
        if service.team.is_healthy:
            return json_response({"status": "healthy", "workers": workers})
        said = error_body("no worker is there that scores", "Unhealthy", request.state.request_id)
        return json_response(said | {"workers": workers}, 503)

    async def _ready(self, request: Request) -> Response:
        service = self._service
        if service.is_ready:
            return json_response({"status": "ready"})
        why = (
            "the server is stopping"
            if service.is_draining
            else "the model is being loaded, or its workers are down"
        )
        return json_response(error_body(why, "Unhealthy", request.state.request_id), 503)

    async def _metrics(self, _request: Request) -> Response:
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _request: Request) -> Response:
        return Response(OPENAPI.read_bytes(), media_type="application/json")

    async def _docs(self, _request: Request) -> Response:
        return HTMLResponse(docs_page(json.loads(OPENAPI.read_text("utf-8"))))


async def while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What `work` answers; raises `Disconnected`, with the work cancelled, where the client goes before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Disconnected
    finally:
        for task in (working, leaving):
            task.cancel()
        # The work's share of the budget is given back before the request counts as over.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Envelope:
    """What every request gets, whatever answers it: an id, its place in the caller's trace, and a line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        id = request_id(given.get(b"x-request-id"))
        trace = child_of(given.get(b"traceparent"))
        facts: dict[str, Any] = {}
        scope["state"] |= {"request_id": id, "facts": facts}
        status = CLIENT_GONE
        marks = [(b"x-request-id", id.encode())] + ([(b"traceparent", trace.encode())] if trace else [])

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *marks]}
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            traced = {"trace": trace.split("-")[1]} if trace else {}
            milliseconds = round((time.perf_counter() - began) * 1e3, 2)
            # The path as it was asked for may hold anything a client made up: only one that is served is written.
            path = scope["path"] if "endpoint" in scope else "unknown"
            log_request(
                {
                    "id": id,
                    **traced,
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "ms": milliseconds,
                    **facts,
                }
            )


async def _http_error(request: Request, error: Exception) -> Response:
    """What no route answers: an unknown path, a method it lacks."""
    assert isinstance(error, HTTPException)
    said = {
        404: "no such path; GET /docs lists those there are",
        405: f"{request.url.path} takes {(error.headers or {}).get('Allow', 'another method')}, not {request.method}",
    }.get(error.status_code, str(error.detail))
    body = error_body(said, "Validation", request.state.request_id)
    return json_response(body, error.status_code, dict(error.headers or {}))


def build_app(service: Service, keys: Keys, more_work: Mapping[str, Answering]) -> ASGIApp:
    """The whole application; `more_work` are further routes that score, by name."""
    middleware = [Middleware(Envelope)]
    if origins := [origin for text in service.settings.cors_origin for origin in text.split(",")]:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "x-request-id", "traceparent"],
                expose_headers=["x-request-id", "x-truncated", "retry-after"],
            )
        )
    app = Starlette(
        routes=Routes(service, keys, more_work).table(),
        middleware=middleware,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    return app
