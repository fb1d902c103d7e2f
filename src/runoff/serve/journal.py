"""The log on stderr: a line for each request and event, with ids and times, never a text, a key or a document."""

from __future__ import annotations

import datetime
import json
import logging
import re
import secrets
import sys
import uuid
from typing import Any

TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
"""W3C Trace Context: version, trace, parent, flags; later versions may append."""

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=-]{1,128}$")

requests = logging.getLogger("runoff.serve.requests")


def request_id(given: str | None) -> str:
    """The client's own id, where it is one that a log line can hold, else a new one."""
    return given if given and _REQUEST_ID.match(given) else str(uuid.uuid4())


def child_of(traceparent: str | None) -> str | None:
    """The `traceparent` of this server's own step of the caller's trace; None without a valid one."""
    found = TRACEPARENT.match(traceparent or "")
    if not found or found[1] == "ff" or set(found[2]) == {"0"} or set(found[3]) == {"0"}:
        return None
    return f"00-{found[2]}-{secrets.token_hex(8)}-{found[4]}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _iso(record.created), "level": record.levelname.lower()}
        line |= getattr(record, "facts", None) or {"event": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None)
        said = " ".join(f"{name}={value}" for name, value in facts.items()) if facts else record.getMessage()
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{_iso(record.created)} {record.levelname.lower()} {said}{trace}"


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def start_journal(form: str) -> None:
    """Has the server's loggers and uvicorn's errors write to stderr; "none" leaves out the lines of requests, "auto" is
    text for a person at a terminal and JSON otherwise."""
    is_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if is_json else _TextLines())
    levels = {
        "runoff": logging.WARNING,
        "runoff.serve": logging.INFO,
        "uvicorn": logging.ERROR,
        "asyncio": logging.ERROR,
    }
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    requests.setLevel(logging.ERROR if form == "none" else logging.INFO)


def log_event(logger: logging.Logger, event: str, **facts: Any) -> None:
    """One line for something that happened to the server."""
    logger.info(event, extra={"facts": {"event": event, **facts}})


def log_request(facts: dict[str, Any]) -> None:
    """One line for one request."""
    requests.info("request", extra={"facts": {"event": "request", **facts}})
