"""What the host does for each pair, with an engine that computes nothing: microseconds a pair.

stored  `CrossEncoder.score(query, ids)`: documents whose token ids are stored. Everything Python does: checking,
        finding equal pairs, cutting, special tokens, sorting, packing, scores back into order. One core.
texts   `CrossEncoder.predict(pairs)`: `outside` is what the calling thread computes beside the call that tokenises
        (which runs on all cores), `tokenizer` how long that call takes for the same texts alone and `wall` the
        whole; in `outside` are the tokenizer's lists of numbers, which become arrays.
overlap `predict` with an engine that takes as long as the tokenizer does: `wall` over the sum of both alone. 0.5 is
        a perfect overlap, 1 none.

A pair has about 150 tokens, the words are those of the standard library's docstrings. Values are medians of the
repetitions, `fastest` what it is while nobody else wants the core. Lines go to benchmarks/results/host_path.jsonl,
in the place of those with the same settings and machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ingest import NANO, circumstances, record

TOKENS = 150  # of a pair, give or take a fifth
QUERY = "how long does the host take for one of its pairs"
TOKEN_BUDGET = 65_536  # of a GPU engine's batch
REPETITIONS, QUICK_REPETITIONS = 15, 3
Row = dict[str, Any]


class IdleEngine:
    """An engine that computes nothing: 0 for every sequence, at once, or after `seconds_a_token`."""

    name = "idle"
    precision = "fp32"
    token_budget = TOKEN_BUDGET

    def __init__(self, seconds_a_token: float = 0.0) -> None:
        self._seconds_a_token = seconds_a_token
        self._thread = ThreadPoolExecutor(1)

    def forward(self, batch: Any) -> Any:
        if self._seconds_a_token:
            time.sleep(self._seconds_a_token * batch.token_count)
        return np.zeros((len(batch), 1), np.float32)

    def start(self, batch: Any) -> Future[Any]:
        if self._seconds_a_token:
            return self._thread.submit(self.forward, batch)
        done: Future[Any] = Future()
        done.set_result(self.forward(batch))
        return done


class TimedBackend:
    """The `tokenizers` object of a `Tokenizer`, which notes what its batches cost the thread that asks."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.cpu_seconds: dict[int, float] = {}

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
        began = time.thread_time()
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        thread = threading.get_ident()
        self.cpu_seconds[thread] = self.cpu_seconds.get(thread, 0.0) + time.thread_time() - began
        return encodings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This thread on one core, where the system allows to say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def median_seconds(work: Callable[[], object], repetitions: int) -> float:
    return float(np.median(measured_seconds(work, repetitions)))


def measured_seconds(work: Callable[[], object], repetitions: int) -> list[float]:
    """Of each repetition, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


# --- what is scored -----------------------------------------------------------------------------------


def vocabulary() -> list[str]:
    """Words of the docstrings of some modules of the standard library, as they come."""
    import decimal
    import logging
    import statistics
    import textwrap

    modules = (argparse, decimal, json, logging, statistics, textwrap, threading)
    values = [value for module in modules for value in vars(module).values()]
    docs = {value.__doc__ for value in values if isinstance(getattr(value, "__doc__", None), str)}
    return [word for doc in sorted(docs) for word in re.findall(r"\S+", doc)]


def made_texts(model: Any, count: int, seed: int) -> list[str]:
    """Texts whose pairs with `QUERY` have about `TOKENS` tokens."""
    rng = np.random.default_rng(seed)
    words = vocabulary()
    words_a_token = len(words) / len(model.tokenize([" ".join(words)])[0])
    wanted = TOKENS - len(model.tokenize([QUERY])[0]) - 3
    lengths = (rng.uniform(0.8, 1.2, count) * wanted * words_a_token).astype(int)
    starts = rng.integers(0, len(words) - 2 * TOKENS, count)
    return [" ".join(words[start : start + n]) for start, n in zip(starts, lengths, strict=True)]


# --- measurements -------------------------------------------------------------------------------------


def stored(model: Any, documents: int, repetitions: int) -> Row:
    ids = model.tokenize(made_texts(model, documents, seed=documents))
    with one_core():
        calls = max(1, 2000 // documents)
        seconds = measured_seconds(lambda: [model.score(QUERY, ids) for _ in range(calls)], repetitions)
    each = np.array(seconds) / calls / documents * 1e6
    return {
        "us_a_pair": round(float(np.median(each)), 2),
        "fastest": round(float(each.min()), 2),
        "tokens": mean_tokens(model, ids),
    }


def mean_tokens(model: Any, ids: list[Any]) -> float:
    """Of a pair, special tokens included."""
    tokenizer = model._native.tokenizer
    query = len(model.tokenize([QUERY])[0])
    return round(float(np.mean([len(each) for each in ids])) + query + tokenizer.special_token_count, 1)


def texts(model: Any, documents: int, repetitions: int) -> Row:
    tokenizer = model._native.tokenizer
    pairs = [(QUERY, text) for text in made_texts(model, documents, seed=documents)]
    alone = [text for _, text in pairs]
    backend = tokenizer._backend
    encode = lambda: backend.encode_batch_fast(alone, add_special_tokens=False)  # noqa: E731
    tokenizer_seconds = median_seconds(encode, repetitions)
    wall_seconds = median_seconds(lambda: model.predict(pairs), repetitions)
    outside = median_outside(model, pairs, repetitions)
    return {
        name: round(seconds / documents * 1e6, 2)
        for name, seconds in (("outside", outside), ("tokenizer", tokenizer_seconds), ("wall", wall_seconds))
    }


def median_outside(model: Any, pairs: list[tuple[str, str]], repetitions: int) -> float:
    """CPU seconds of the calling thread, without those in the call that tokenises."""
    tokenizer = model._native.tokenizer
    backend, seconds = tokenizer._backend, []
    calls = max(1, 1000 // len(pairs))
    try:
        for _ in range(repetitions):
            timed = tokenizer._backend = TimedBackend(backend)
            began = time.thread_time()
            for _ in range(calls):
                model.predict(pairs)
            inside = timed.cpu_seconds.get(threading.get_ident(), 0.0)
            seconds.append((time.thread_time() - began - inside) / calls)
    finally:
        tokenizer._backend = backend
    return float(np.median(seconds))


def overlap(model: Any, documents: int, repetitions: int) -> Row:
    pairs = [(QUERY, text) for text in made_texts(model, documents, seed=documents)]
    native = model._native
    host = median_seconds(lambda: model.predict(pairs), repetitions)
    tokens = documents * TOKENS
    model._native = dataclasses.replace(native, engine=IdleEngine(host / tokens))
    try:
        wall = median_seconds(lambda: model.predict(pairs), repetitions)
    finally:
        model._native = native
    return {"host_alone": round(host, 4), "wall": round(wall, 4), "of_the_sum": round(wall / (2 * host), 3)}


# --- lines --------------------------------------------------------------------------------------------


def main() -> int:
    """Measures, records and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(NANO), help="whose tokenizer (default: models/runoff-nano)")
    parser.add_argument("--quick", action="store_true", help="few repetitions; not recorded")
    options = parser.parse_args()
    from runoff import CrossEncoder

    model = CrossEncoder(options.model, device="cpu")
    model._native = dataclasses.replace(model._native, engine=IdleEngine())
    repetitions = QUICK_REPETITIONS if options.quick else REPETITIONS
    measured = (
        *(("stored", stored, documents) for documents in (1, 100, 10_000)),
        *(("texts", texts, documents) for documents in (1, 100, 10_000)),
        ("overlap", overlap, 10_000),
    )
    for name, measure, documents in measured:
        found = measure(model, documents, repetitions if documents < 10_000 else max(3, repetitions // 3))
        settings = {"case": name, "documents": documents, "model": Path(options.model).name}
        if not options.quick:
            record({"benchmark": "host_path", "settings": settings, "found": found, **circumstances()})
        print(f"{name:8} {documents:6} documents  {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
