"""Which requests are taken: whole ones, against a count and a budget of tokens, or not at all."""

from __future__ import annotations

import math
from types import TracebackType

from runoff.serve.refusals import overloaded, too_large

LONGEST_RETRY_S = 60
"""Most seconds that a Retry-After names: the estimate behind it is only as good as the last few batches."""

_SMOOTHING = 0.2  # of the measured rate: five batches make most of it


class Admission:
    """Counts what was taken and not yet answered, and how fast tokens are answered."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.requests = 0
        self.tokens = 0
        self.tokens_a_second = 0.0

    def admit(self, tokens: int) -> Ticket:
        """Takes a request of about so many tokens. Raises `RefusedError`: 413 for one that alone is beyond the
        budget, which no waiting helps, 429 where others have filled it."""
        if tokens > self.max_tokens:
            raise too_large(
                f"the request has about {tokens} tokens, at most {self.max_tokens} are taken (--max-pending-tokens): "
                "send fewer or shorter documents"
            )
        if self.requests >= self.max_requests:
            raise overloaded(
                f"{self.requests} requests are waiting (--max-pending-requests)", self.retry_after_s()
            )
        if self.tokens + tokens > self.max_tokens:
            raise overloaded(f"{self.tokens} tokens are waiting (--max-pending-tokens)", self.retry_after_s())
        return Ticket(self, tokens)

    def learn(self, tokens: int, seconds: float, workers: int) -> None:
        """Hears how long a worker took for a batch, and how many work at once."""
        rate = tokens / max(seconds, 1e-6) * workers
        before = self.tokens_a_second or rate
        self.tokens_a_second = before + _SMOOTHING * (rate - before)

    def retry_after_s(self) -> int:
        """Seconds until about half of what is waiting will have been answered."""
        if not self.tokens_a_second:
            return 1
        return min(LONGEST_RETRY_S, max(1, math.ceil(self.tokens / 2 / self.tokens_a_second)))


class Ticket:
    """One request's share of the budget, until its `with` block ends."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission, self._tokens = admission, tokens
        admission.requests += 1
        admission.tokens += tokens

    def correct(self, tokens: int) -> None:
        """Puts the true number of tokens in the estimate's place."""
        self._admission.tokens += tokens - self._tokens
        self._tokens = tokens

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.requests -= 1
        self._admission.tokens -= self._tokens
