"""Who may ask: API keys, compared in constant time and never written anywhere."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from runoff.contracts import InputError
from runoff.serve.refusals import RefusedError

PLAIN_ROUTES = ("/health", "/ping", "/ready", "/metrics", "/docs", "/openapi.json")
"""What needs no key: what balancers and Prometheus ask for, and the description of the rest."""


class Keys:
    """The accepted keys, as digests; none means that everyone may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def check(self, authorization: str | None) -> None:
        """Raises `RefusedError` 401 unless the header is `Bearer KEY` with a key that is accepted."""
        if not self._digests:
            return
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        # Every key is compared, and digests are of one length: the time says nothing of a key.
        matches = [hmac.compare_digest(digest, each) for each in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise RefusedError(
                401,
                "Validation",
                "unauthorized",
                "expected the header `Authorization: Bearer KEY` with a valid API key",
            )


def read_keys(given: Iterable[str], file: str) -> list[str]:
    """The keys themselves, from settings and from a file of one a line. `InputError` for a key that no header can
    carry, or a file that cannot be read or holds none."""
    keys = [key.strip() for text in given for key in text.split(",") if key.strip()]
    if file:
        try:
            lines = Path(file).expanduser().read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--api-key-file {file}: expected a text file with a key a line: {error}"
            ) from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise InputError(
                f"--api-key-file {file}: expected a key a line, found none; the server would be open to all"
            )
        keys += found
    for place, key in enumerate(keys, start=1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"API key {place} has a space or another character that no HTTP header carries; choose another"
            )
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
