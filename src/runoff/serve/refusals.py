"""Why a request gets no scores: its HTTP status, TEI's name for the kind, and the one error body."""

from __future__ import annotations

from typing import Any, Literal

from runoff.contracts import RunoffError, ScoreError

Kind = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
"""text-embeddings-inference's error types, a closed set in its clients."""


class WorkerError(ScoreError):
    """Workers failed at something that is no fault of a request: they died, or would not start."""


class UnfinishedError(ScoreError):
    """The server was stopped before every request it had taken was answered."""


class RefusedError(RunoffError):
    """A request that is not answered with scores.

    `cause` is its name in `te_request_failure{err}`. `retry_after_s` is what the header says, whole seconds.
    """

    def __init__(
        self, status: int, kind: Kind, cause: str, message: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.cause, self.retry_after_s = status, kind, cause, retry_after_s


def invalid(message: str, status: int = 422) -> RefusedError:
    """A request that will never be right: which field, what was expected, what came."""
    return RefusedError(status, "Validation", "validation", message)


def empty(message: str) -> RefusedError:
    """A request without anything to score; Cohere's and TEI's status for it is 400."""
    return RefusedError(400, "Empty", "validation", message)


def too_large(message: str) -> RefusedError:
    """A request beyond a limit that no waiting lifts."""
    return RefusedError(413, "Validation", "batch_size", message)


def overloaded(message: str, retry_after_s: int) -> RefusedError:
    """429: clients wait and try again. A 503 or 504 would have some of them try thirty times at once."""
    return RefusedError(429, "Overloaded", "overloaded", message, max(1, retry_after_s))


def unhealthy(message: str) -> RefusedError:
    """503: nothing here can score now."""
    return RefusedError(503, "Unhealthy", "unhealthy", message, 1)


def backend(message: str) -> RefusedError:
    """424, TEI's code: the model cannot score this. Cohere's clients do not retry it, as they would a 500."""
    return RefusedError(424, "Backend", "inference", message)


def error_body(message: str, kind: str, request_id: str) -> dict[str, Any]:
    """The body that TEI's (`error`, `error_type`), Cohere's (`message`) and Jina's (`detail`) clients all read."""
    return {"error": message, "error_type": kind, "message": message, "detail": message, "id": request_id}
