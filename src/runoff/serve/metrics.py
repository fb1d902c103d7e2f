"""What is counted and timed, for Prometheus, under the names of text-embeddings-inference where it has one.

So its dashboards carry over. Ours alone begin with `runoff_`. `te_request_count` is the sum of
`te_request_success` and of `te_request_failure` over all `err`, once nothing is under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

DURATION_BUCKETS = tuple(1e-5 * 1.5**power for power in range(1, 36))
"""Seconds, 15 us to 14.6 s: TEI's."""

SIZE_BUCKETS = tuple(float(2**power) for power in range(17))

COUNTERS = {
    "te_request_count": "requests that came in, by method",
    "te_request_success": "requests answered with scores, by method",
    "te_request_failure": "requests answered with an error, or dropped by their client, by err",
    "runoff_pairs": "pairs that were scored and answered",
    "runoff_tokens": "tokens of those pairs",
    "runoff_cut_pairs": "pairs that were longer than the model takes, and were cut",
}


class Metrics:
    """Counters, gauges and histograms of one server; `text()` is the page that Prometheus reads."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector

        self.registry: Any = CollectorRegistry()
        self.counters: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in COUNTERS}
        self.registry.register(_Counts(self.counters))
        ProcessCollector(registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=self.registry)

        self._durations = {
            name: histogram(f"te_request_{name}", f"seconds of a request: {text}", DURATION_BUCKETS)
            for name, text in (
                ("duration", "in all, failed ones too"),
                ("tokenization_duration", "tokenising"),
                ("queue_duration", "waiting for its first batch"),
                ("inference_duration", "from its first batch to its last score"),
            )
        }
        self._length = histogram("te_request_input_length", "tokens of a request", SIZE_BUCKETS)
        self._batch_size = histogram("te_batch_next_size", "sequences of a batch", SIZE_BUCKETS)
        self._batch_tokens = histogram("te_batch_next_tokens", "tokens of a batch", SIZE_BUCKETS)
        self._new_gauge: Callable[..., Any] = Gauge

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when the page is."""
        self._new_gauge(name, text, registry=self.registry).set_function(value)

    def count(self, name: str, amount: int = 1, **label: str) -> None:
        """Adds to a counter, which has one label or none."""
        ((key, value),) = label.items() or (("", ""),)
        self.counters[name][key, value] += amount

    def duration(self, name: str, seconds: float) -> None:
        self._durations[name].observe(seconds)

    def batch(self, sequences: int, tokens: int) -> None:
        """A batch that was sent to a worker."""
        self._batch_size.observe(sequences)
        self._batch_tokens.observe(tokens)

    def answered(self, pairs: int, tokens: int, cut_pairs: int) -> None:
        """What a request held that was answered."""
        self._length.observe(tokens)
        self.count("runoff_pairs", pairs)
        self.count("runoff_tokens", tokens)
        self.count("runoff_cut_pairs", cut_pairs)

    def text(self) -> bytes:
        """Every figure in Prometheus's text format."""
        from prometheus_client import generate_latest

        page: bytes = generate_latest(self.registry)
        return page


class _Counts:
    """The counters under their own names: the client's would append `_total`, which TEI's lack."""

    def __init__(self, counters: dict[str, Counter[tuple[str, str]]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Any]:
        from prometheus_client import Metric

        for name, counts in self._counters.items():
            family = Metric(name, COUNTERS[name], "unknown")
            for (key, value), amount in counts.items():
                family.add_sample(name, {key: value} if key else {}, amount)
            yield family
