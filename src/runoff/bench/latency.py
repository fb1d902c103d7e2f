"""How long one query waits: its 1, 20 or 100 documents of about 160 tokens, tokenised and scored.

Every request has a query and documents of its own. For each number of documents the engines take turns of ten
requests, A B C A B C; the first request of a turn is for warmth and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runoff.bench.models import Entrant
from runoff.bench.pairs import made_request
from runoff.bench.plan import Plan, Say, entrant_of, model_facts, model_settings
from runoff.bench.process import Peer
from runoff.bench.protocol import WARMTH
from runoff.bench.record import Row, key_of, read_rows, record
from runoff.bench.sessions import Session
from runoff.contracts import Pair

DOCUMENTS, TOKENS = (1, 20, 100), 160
TURNS, QUICK_TURNS = 3, 1
REQUESTS_A_TURN, QUICK_REQUESTS = 10, 3


def latencies(plan: Plan, say: Say) -> Iterator[Row]:
    """Result lines, an engine each: {"documents": {"100": {"p50_ms", "p95_ms", "requests", "how"}, ...}}."""
    for name in plan.models:
        entrant = entrant_of(plan, name, say)
        if entrant is None:
            continue
        say(f"{entrant.name}: one query with {', '.join(map(str, DOCUMENTS))} documents of {TOKENS} tokens")
        kept, engines = known_lines(
            plan, {engine: _line(plan, entrant, engine) for engine in plan.engines}, say
        )
        yield from kept
        rows = _measured(plan, entrant, engines, say) if engines else []
        record(plan.file, rows)
        yield from rows


def known_lines(plan: Plan, lines: dict[str, Row], say: Say) -> tuple[list[Row], list[str]]:
    """Lines of an earlier run with the same settings, and the engines that have none."""
    wanted = {key_of(line): engine for engine, line in lines.items()}
    found = [] if plan.is_again else [row for row in read_rows(plan.file) if key_of(row) in wanted]
    known = {wanted[key_of(row)] for row in found}
    if known:
        say(f"  {len(known)} of {len(lines)} engines are in {plan.file.name} already (--again: measure anew)")
    return found, [engine for engine in lines if engine not in known]


def _line(plan: Plan, entrant: Entrant, engine: str) -> Row:
    settings = model_settings(plan, entrant, engine) | {"tokens": TOKENS}
    return {
        "benchmark": "latency",
        "settings": settings,
        **model_facts(entrant, engine),
        **plan.circumstances.of({}),
    }


def _measured(plan: Plan, entrant: Entrant, engines: list[str], say: Say) -> list[Row]:
    found: dict[str, dict[str, Row]] = {}
    with Session(plan, entrant, engines, say) as session:
        for documents in DOCUMENTS:
            times = _in_turn(session, entrant.folder, documents, plan.form == "quick")
            for engine, values in times.items():
                how = session.peers[engine].about.get("way")
                found.setdefault(engine, {})[str(documents)] = spread(values) | {"how": how}
            say(f"  {documents} documents done")
        return [
            _line(plan, entrant, engine)
            | {"documents": found[engine], "about": peer.about}
            | plan.circumstances.of(peer.versions())
            for engine, peer in session.peers.items()
        ]


def _in_turn(session: Session, folder: Path, documents: int, is_quick: bool) -> dict[str, list[float]]:
    """{engine: milliseconds of each request} of those that answered all."""
    turns, requests = (QUICK_TURNS, QUICK_REQUESTS) if is_quick else (TURNS, REQUESTS_A_TURN)
    example = made_request(folder, documents, TOKENS, seed=0)

    def warm(peer: Peer) -> None:
        peer.keep(WARMTH, example)
        peer.tune(WARMTH)
        peer.score(WARMTH)

    session.in_turn(warm)
    milliseconds: dict[str, list[float]] = {}
    for turn in range(turns):
        first = 1 + turn * (requests + 1)
        asked = [made_request(folder, documents, TOKENS, seed) for seed in range(first, first + requests + 1)]

        def ask(peer: Peer, asked: list[list[Pair]] = asked) -> list[float]:
            seconds: list[float] = peer.score_each(asked)["seconds"]
            return seconds

        for engine, seconds in session.in_turn(ask).items():
            milliseconds.setdefault(engine, []).extend(1000 * each for each in seconds[1:])
    return {engine: values for engine, values in milliseconds.items() if engine in session.peers}


def spread(values: list[float]) -> Row:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2), "requests": len(values)}
