"""How a server runs: every setting with its default and its one help text, from which the flags are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ENVIRONMENT = "RUNOFF_SERVE_"
"""What the environment variable of a flag begins with: --max-documents is RUNOFF_SERVE_MAX_DOCUMENTS."""


def _set(default: Any, group: str, metavar: str, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"group": group, "metavar": metavar, "help": text, **more})


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits, addresses and times of a server. Times are in seconds; a field's metadata says what it does."""

    host: str = _set(
        "127.0.0.1", "address", "ADDRESS", "where to listen; 0.0.0.0 is every network of this machine"
    )
    port: int = _set(
        8080, "address", "PORT", "0 takes a free one, which the first line on stderr names", minimum=0
    )
    served_name: str = _set(
        "", "address", "NAME", "the model's name in answers (default: as it was given to --model)"
    )
    strict_model: bool = _set(False, "address", "", "answer 404 to a request that names another model")
    scores: str = _set(
        "sigmoid",
        "address",
        "FORM",
        "what scores are: sigmoid of the logit, as other servers give; model, what predict returns; raw, logits",
        choices=("sigmoid", "model", "raw"),
    )
    replicas: int = _set(
        1, "workers", "COUNT", "worker processes, each with the whole model and its part of the threads"
    )
    batch_tokens: int = _set(
        0,
        "workers",
        "TOKENS",
        "tokens of a shared batch (default: the engine's own; on a CPU half a second's work, 1024 to 4096)",
        minimum=0,
    )
    batch_timeout: float = _set(
        60.0, "workers", "SECONDS", "a worker that computes longer at one batch is killed"
    )
    start_timeout: float = _set(
        600.0, "workers", "SECONDS", "a worker that loads its model for longer is given up"
    )
    max_documents: int = _set(1000, "limits", "COUNT", "documents of one request; more are refused with 422")
    max_body_bytes: int = _set(
        8_000_000, "limits", "BYTES", "size of one request; a larger one is refused with 413"
    )
    max_buffered_bytes: int = _set(
        256_000_000,
        "limits",
        "BYTES",
        "bodies of all requests together; beyond it new ones are refused with 429",
    )
    max_pending_requests: int = _set(
        512, "limits", "COUNT", "requests taken and not yet answered; beyond it, 429"
    )
    max_pending_tokens: int = _set(
        1_000_000,
        "limits",
        "TOKENS",
        "their tokens; beyond it, 429, and 413 for a request that alone is beyond it",
    )
    max_connections: int = _set(2048, "limits", "COUNT", "open connections; further ones are closed at once")
    request_timeout: float = _set(
        30.0, "times", "SECONDS", "a request of which nothing was scored for so long is refused with 429"
    )
    header_timeout: float = _set(
        10.0, "times", "SECONDS", "a client has so long to send the head of a request"
    )
    body_timeout: float = _set(30.0, "times", "SECONDS", "and so long for the body")
    write_timeout: float = _set(30.0, "times", "SECONDS", "and so long to take the answer")
    keep_alive: float = _set(30.0, "times", "SECONDS", "an idle connection stays open so long")
    drain_timeout: float = _set(
        30.0, "times", "SECONDS", "after SIGTERM, requests that were taken have so long to be answered"
    )
    api_key: tuple[str, ...] = _set(
        (),
        "access",
        "KEY",
        "accepted keys, repeated or with commas; the environment variable keeps them out of `ps`",
    )
    api_key_file: str = _set("", "access", "FILE", "more keys, one a line")
    cors_origin: tuple[str, ...] = _set(
        (),
        "access",
        "ORIGIN",
        "web pages that may ask from a browser, such as https://example.org (default: none)",
    )
    log_format: str = _set(
        "auto",
        "access",
        "FORMAT",
        "of the lines on stderr; auto: text on a terminal, else json; none: text, without a line for each request",
        choices=("auto", "json", "text", "none"),
    )
