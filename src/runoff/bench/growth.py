"""How cost grows: with the length of a document, the number of a query's documents, and the number of threads."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np

from runoff.bench.latency import TOKENS, known_lines
from runoff.bench.models import Entrant
from runoff.bench.pairs import Cutter, made_pairs, made_request
from runoff.bench.plan import Plan, Say, entrant_of, model_facts, model_settings
from runoff.bench.process import Peer
from runoff.bench.protocol import ALL
from runoff.bench.record import Row, record
from runoff.bench.sessions import Session
from runoff.contracts import Pair

Along = Literal["length", "documents", "threads"]
ALONGS: tuple[Along, ...] = get_args(Along)

LENGTHS = tuple(2**power for power in range(4, 14))
QUICK_LENGTHS = tuple(2**power for power in range(4, 11))
TOTAL, QUICK_TOTAL = 16_384, 2_048
"""Tokens of a batch of documents of one length."""
SINGLES_OF_TOKENS = 4096  # short single documents are repeated up to so many tokens a turn, 16 times at most

DOCUMENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
QUICK_DOCUMENTS = (1, 5, 20, 50)

THREAD_PAIRS, QUICK_THREAD_PAIRS = 128, 32
TURNS, QUICK_TURNS = 3, 1


def growths(plan: Plan, along: Along, cores: int, say: Say) -> Iterator[Row]:
    """Result lines, an engine each: {"points": [...], "growth": one number}. `cores` is the most threads tried."""
    for name in plan.models:
        entrant = entrant_of(plan, name, say)
        if entrant is None:
            continue
        say(f"{entrant.name}, along {along}:")
        run = _Run(plan, entrant, along, cores, say)
        kept, engines = known_lines(plan, {engine: run.line(engine) for engine in plan.engines}, say)
        yield from kept
        rows = run.rows(engines) if engines else []
        record(plan.file, rows)
        yield from rows


class _Run:
    """One model along one thing."""

    def __init__(self, plan: Plan, entrant: Entrant, along: Along, cores: int, say: Say) -> None:
        self._plan, self._entrant, self._along, self._cores, self._say = plan, entrant, along, cores, say
        self._is_quick = plan.form == "quick"
        self._turns = QUICK_TURNS if self._is_quick else TURNS
        self._points: dict[str, list[Row]] = {}

    @property
    def _lengths(self) -> tuple[int, ...]:
        most = self._entrant.positions or LENGTHS[-1]
        return tuple(each for each in (QUICK_LENGTHS if self._is_quick else LENGTHS) if each <= most)

    def line(self, engine: str) -> Row:
        settings = model_settings(self._plan, self._entrant, engine) | {"along": self._along}
        if self._along == "length":
            settings["max_length"] = self._lengths[-1]
            settings["total_tokens"] = QUICK_TOTAL if self._is_quick else TOTAL
        if self._along == "threads":
            settings["threads"] = self._cores
        return {
            "benchmark": "growth",
            "settings": settings,
            **model_facts(self._entrant, engine),
            **self._plan.circumstances.of({}),
        }

    def rows(self, engines: list[str]) -> list[Row]:
        """Lines of the engines that went all the way."""
        steps: dict[Along, Callable[[list[str]], dict[str, Peer]]] = {
            "length": self._by_length,
            "documents": self._by_documents,
            "threads": self._by_threads,
        }
        peers = steps[self._along](engines)
        return [
            self.line(engine)
            | {"growth": growth(self._along, self._points[engine]), "points": self._points[engine]}
            | {"about": peer.about}
            | self._plan.circumstances.of(peer.versions())
            for engine, peer in peers.items()
            if self._points.get(engine)
        ]

    # --- length ----------------------------------------------------------------------------------------

    def _by_length(self, engines: list[str]) -> dict[str, Peer]:
        settings = dataclasses.replace(self._plan.settings, max_length=self._lengths[-1])
        total = QUICK_TOTAL if self._is_quick else TOTAL
        cutter = Cutter(self._entrant.folder)
        with Session(self._plan, self._entrant, engines, self._say, settings) as session:
            for length in self._lengths:
                generator = np.random.default_rng(length)
                count = min(16, max(1, SINGLES_OF_TOKENS // length)) + 1
                singles = [[cutter.pair(length, generator)] for _ in range(count)]
                batch = [cutter.pair(length, generator) for _ in range(max(1, total // length))]

                def ask(
                    peer: Peer,
                    singles: list[list[Pair]] = singles,
                    batch: list[Pair] = batch,
                ) -> tuple[list[float], float]:
                    alone = peer.score_each(singles)["seconds"]
                    return alone[1:], peer.score_each([batch])["seconds"][0]

                for engine, times in self._repeated(session, ask).items():
                    alone = statistics.median([each for first, _ in times for each in first])
                    together = statistics.median([each for _, each in times])
                    self._add(engine, _length_point(length, len(batch), alone, together))
                self._say(f"  {length} tokens done")
        return session.peers

    # --- documents -------------------------------------------------------------------------------------

    def _by_documents(self, engines: list[str]) -> dict[str, Peer]:
        counts = QUICK_DOCUMENTS if self._is_quick else DOCUMENTS
        with Session(self._plan, self._entrant, engines, self._say) as session:
            for count in counts:
                requests = [made_request(self._entrant.folder, count, TOKENS, seed) for seed in (1, 2)]

                def ask(peer: Peer, requests: list[list[Pair]] = requests) -> list[float]:
                    seconds: list[float] = peer.score_each(requests)["seconds"]
                    return seconds

                for engine, times in self._repeated(session, ask).items():
                    milliseconds = 1000 * statistics.median([each for part in times for each in part])
                    self._add(engine, {"documents": count, "ms": round(milliseconds, 3)})
                self._say(f"  {count} documents done")
        return session.peers

    # --- threads ---------------------------------------------------------------------------------------

    def _by_threads(self, engines: list[str]) -> dict[str, Peer]:
        pairs = made_pairs(self._entrant.folder, QUICK_THREAD_PAIRS if self._is_quick else THREAD_PAIRS)
        peers: dict[str, Peer] = {}
        for threads in thread_counts(self._cores):
            settings = dataclasses.replace(self._plan.settings, threads=threads)
            with Session(self._plan, self._entrant, engines, self._say, settings) as session:
                session.in_turn(lambda peer: peer.keep(ALL, pairs))
                times = self._repeated(session, lambda peer: float(peer.score(ALL)["seconds"]))
                for engine, seconds in times.items():
                    rate = round(len(pairs) / statistics.median(seconds), 3)
                    self._add(engine, {"threads": threads, "pairs_a_second": rate})
                peers = session.peers
            engines = list(peers)
            self._say(f"  {threads} threads done")
        return peers

    def _repeated(self, session: Session, ask: Callable[[Peer], Any]) -> dict[str, list[Any]]:
        """{engine: its answers} of the timed turns, after one for warmth, of engines that answered all of them."""
        answers: dict[str, list[Any]] = {}
        for turn in range(self._turns + 1):
            for engine, answer in session.in_turn(ask).items():
                if turn:
                    answers.setdefault(engine, []).append(answer)
        return {engine: found for engine, found in answers.items() if engine in session.peers}

    def _add(self, engine: str, point: Row) -> None:
        self._points.setdefault(engine, []).append(point)


def _length_point(length: int, pairs: int, single: float, batch: float) -> Row:
    return {
        "tokens": length,
        "single_ms": round(1000 * single, 3),
        "single_tokens_a_second": round(length / single),
        "batch_pairs": pairs,
        "batch_seconds": round(batch, 4),
        "batch_tokens_a_second": round(pairs * length / batch),
    }


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4 and so on, and all cores."""
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == cores else [*counts, cores]


def growth(along: Along, points: list[Row]) -> float | None:
    """One number: time of the longest document over that of an eighth of it (8 is linear); of the most documents over
    that of a tenth; pairs a second of all threads over those of one. None where a point is missing."""
    if along == "threads":
        return round(float(points[-1]["pairs_a_second"] / points[0]["pairs_a_second"]), 2)
    name, value, share = ("tokens", "single_ms", 8) if along == "length" else ("documents", "ms", 10)
    by_size = {point[name]: point[value] for point in points}
    most = max(by_size, default=0)
    return round(float(by_size[most] / by_size[most // share]), 2) if most // share in by_size else None
