"""Models x engines -> result lines by the published protocol, each kept as soon as it is there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runoff.bench.flops import flops_of, peak_tflops
from runoff.bench.models import RANDOM, Entrant
from runoff.bench.pairs import PairSet, described, made_pairs, token_counts
from runoff.bench.plan import (
    BYTES_A_PARAMETER,
    Plan,
    Say,
    available_bytes,
    entrant_of,
    groups,
    model_facts,
    model_settings,
    pairs_for,
    runnable,
    start,
)
from runoff.bench.power import Meter
from runoff.bench.process import Peer, obstacle
from runoff.bench.protocol import Result, Rules, Turns, Work, on_gpu
from runoff.bench.record import Row, agreement, key_of, read_rows, record
from runoff.bench.specs import BASELINE, ENGINES, REFERENCE, Settings, UnavailableError

WARM_PAIRS = 32
SWEEP_SHARE = 4  # of a CPU's pairs one in so many is in the sweep, at least WARM_PAIRS
REFERENCE_PAIRS, FEWER_REFERENCE_PAIRS = 64, 8
LARGE = 300e6  # parameters above which numpy takes minutes for 64 pairs


@dataclass(slots=True)
class Heat:
    """One model of a race: its pairs and their tokens [N], and the lines that there are of it."""

    plan: Plan
    entrant: Entrant
    pairs: PairSet
    lengths: npt.NDArray[np.int64]
    work: Work
    note: str = ""
    kept: dict[str, Row] = field(default_factory=dict)


def race(plan: Plan, say: Say) -> Iterator[Row]:
    """Result lines, those kept from an earlier run of the same settings first for each model; each is in `plan.file`
    when it is yielded. Raises `InputError` where nothing of what was asked for exists."""
    for name in plan.models:
        heat = _heat(plan, name, say)
        if heat is None:
            continue
        yield from heat.kept.values()
        names = [engine for engine in plan.engines if engine not in heat.kept]
        names, obstacles = runnable(plan, heat.entrant, names)
        # What is not installed today may be tomorrow: such a line does not stand in the way of a later run.
        left_out = [
            _line(heat, engine) | {"left_out": why, "may_change": True} for engine, why in obstacles.items()
        ]
        if left_out:
            record(plan.file, left_out)
            yield from left_out
        if not names:
            continue
        rows = _on_gpu(heat, names, say) if plan.kind != "cpu" else _in_turn(heat, names, say)
        yield from rows


# --- a model ---------------------------------------------------------------------------------------------


def _heat(plan: Plan, name: str, say: Say) -> Heat | None:
    entrant = entrant_of(plan, name, say)
    if entrant is None:
        return None
    pairs, note = pairs_for(plan, entrant)
    counts = token_counts(entrant.folder, pairs.pairs, plan.settings.max_length)
    few = pairs.pairs[: max(len(pairs.pairs) // SWEEP_SHARE, WARM_PAIRS)]
    warmth = made_pairs(entrant.folder, WARM_PAIRS, seed=2)
    work = Work(pairs.pairs, few, warmth, int(counts.sum()), int(counts[: len(few)].sum()))
    heat = Heat(plan, entrant, pairs, counts, work, note)
    weights = "random weights" if entrant.weights == RANDOM else f"weights {entrant.weights}"
    say(f"{entrant.name}: {weights}, {len(pairs.pairs)} pairs ({pairs.source}), {int(counts.sum()):,} tokens")
    if not plan.is_again:
        wanted = {key_of(_line(heat, engine)): engine for engine in plan.engines}
        rows = {wanted[key_of(row)]: row for row in read_rows(plan.file) if key_of(row) in wanted}
        heat.kept = {engine: row for engine, row in rows.items() if not row.get("may_change")}
        if heat.kept:
            say(
                f"  {len(heat.kept)} of {len(wanted)} engines are in {plan.file.name} already (--again: measure anew)"
            )
    return heat


def _line(heat: Heat, engine: str) -> Row:
    """What every line of an engine and this model says, whatever came of it."""
    plan = heat.plan
    settings = model_settings(plan, heat.entrant, engine) | {
        "passes": plan.passes,
        "pairs": len(heat.pairs.pairs),
        "source": heat.pairs.source,
        "digest": heat.pairs.digest,
    }
    return {
        "benchmark": "race",
        "settings": settings,
        **model_facts(heat.entrant, engine),
        "why_stand_in": heat.note or None,
        **described(heat.lengths),
        **plan.circumstances.of({}),
    }


# --- racing ----------------------------------------------------------------------------------------------


def _on_gpu(heat: Heat, names: list[str], say: Say) -> Iterator[Row]:
    """One engine after the other, the one to compare with first."""
    plan = heat.plan
    rules = Rules(plan.kind, plan.passes, plan.has_all_sizes, Meter(plan.settings.device))
    for engine in sorted(names, key=lambda name: name != BASELINE):
        try:
            with start(plan, heat.entrant, engine) as peer:
                result = on_gpu(peer, heat.work, rules)
                row = _row(heat, peer, result)
        except UnavailableError as error:
            row = _line(heat, engine) | _left_out(plan, str(error))
        say(f"  {ENGINES[engine].label}: {_summary(row)}")
        heat.kept[engine] = row
        record(plan.file, [row])
        yield row


def _in_turn(heat: Heat, names: list[str], say: Say) -> Iterator[Row]:
    """All engines in turn, as many at a time as fit into memory."""
    plan = heat.plan
    rules = Rules(plan.kind, plan.passes, plan.has_all_sizes, Meter("cpu"))
    names = sorted(names, key=lambda name: name != BASELINE)
    for group in groups(names, heat.entrant.parameters * BYTES_A_PARAMETER, available_bytes()):
        rows: list[Row] = []
        peers: dict[str, Peer] = {}
        try:
            for engine in group:
                try:
                    peers[engine] = start(plan, heat.entrant, engine)
                except UnavailableError as error:
                    rows.append(_line(heat, engine) | _left_out(plan, str(error)))
                    say(f"  {ENGINES[engine].label}: left out: {error}")
            turns = Turns(peers, lambda engine: start(plan, heat.entrant, engine), heat.work, rules)
            for engine, result in turns.run(lambda text: say(f"  {text}")).items():
                rows.append(_row(heat, peers[engine], result))
                heat.kept[engine] = rows[-1]
        finally:
            for peer in peers.values():
                peer.close()
        _compare(heat, rows, say)
        record(plan.file, rows)
        yield from rows


# --- lines -----------------------------------------------------------------------------------------------


def _row(heat: Heat, peer: Peer, result: Result) -> Row:
    """The line of one engine."""
    line = _line(heat, peer.engine) | {"about": peer.about} | heat.plan.circumstances.of(peer.versions())
    if result.left_out or result.best is None:
        return line | _left_out(heat.plan, result.left_out or result.ended)
    best, spec = result.best, ENGINES[peer.engine]
    median = statistics.median(best.seconds)
    watts = statistics.mean(best.watts) if best.watts else None
    row = line | {
        "timed_pairs": best.pairs,
        "size": best.size,
        "unit": spec.unit,
        "pairs_a_second": round(best.rate, 3),
        "seconds": [round(each, 6) for each in best.seconds],
        "median_seconds": round(median, 6),
        "spread": round((max(best.seconds) - min(best.seconds)) / median, 4),
        "sizes": [each.as_dict() for each in result.sizes],
        "ended": heat.plan.places.without_paths(result.ended) or None,
        "tokenize_seconds": None if result.tokenize_seconds is None else round(result.tokenize_seconds, 4),
        "pairs_a_second_of_ids": None if result.ids is None else round(result.ids.rate, 3),
        "peak_mib": best.peak_mib,
        "watts": None if watts is None else round(watts, 1),
        "pairs_a_joule": None if not watts else round(best.rate / watts, 3),
        **_utilisation(heat, peer, best.rate),
        "first_scores": [round(each, 6) for each in result.scores[:REFERENCE_PAIRS]],
    }
    base = heat.kept.get(BASELINE)
    if base is not None and base.get("first_scores"):
        row |= agreement(row["first_scores"], base["first_scores"]) | {"compared_with": BASELINE}
    return row


def _left_out(plan: Plan, why: str) -> Row:
    return {"left_out": plan.places.without_paths(why)}


def _utilisation(heat: Heat, peer: Peer, rate: float) -> Row:
    """Operations of a pair, how many a second, and what share of the device's peak that is."""
    found = flops_of(heat.entrant.folder, heat.lengths)
    name = str(peer.about.get("gpu", ""))
    peak = heat.plan.peak_tflops or peak_tflops(name, ENGINES[peer.engine].precision)
    if found is None:
        return {"gflops_a_pair": None, "tflops": None, "peak_tflops": peak, "utilisation": None}
    pairs = len(heat.pairs.pairs)
    tflops = found.model / pairs * rate / 1e12
    return {
        "gflops_a_pair": round(found.model / pairs / 1e9, 4),
        "gflops_needed_a_pair": round(found.needed / pairs / 1e9, 4),
        "tflops": float(f"{tflops:.4g}"),
        "peak_tflops": peak,
        "utilisation": None if peak is None else round(tflops / peak, 4),
    }


def _compare(heat: Heat, rows: list[Row], say: Say) -> None:
    """Adds how far each engine's scores are from the baseline's, or from the numpy engine's on the first pairs."""
    base = heat.kept.get(BASELINE) or {}
    scores, name = base.get("first_scores"), BASELINE
    if not scores:
        scores, name = _reference_scores(heat, say), REFERENCE
    for row in rows:
        if row.get("first_scores"):
            row |= agreement(row["first_scores"], scores) | {"compared_with": name if scores else None}


def _reference_scores(heat: Heat, say: Say) -> list[float] | None:
    known = heat.kept.get(REFERENCE, {}).get("first_scores")
    if known:
        return list(known)
    settings = Settings(heat.plan.settings.threads, heat.plan.settings.max_length)
    if obstacle(REFERENCE, settings, heat.plan.places, (), heat.entrant.family) is not None:
        return None
    count = REFERENCE_PAIRS if heat.entrant.parameters <= LARGE else FEWER_REFERENCE_PAIRS
    try:
        with Peer(REFERENCE, heat.entrant.folder, settings, heat.plan.places) as peer:
            peer.load()
            return list(peer.score_each([heat.pairs.pairs[:count]])["scores"][0])
    except UnavailableError as error:
        say(f"  scores are compared with nothing: {error}")
        return None


def _summary(row: Row) -> str:
    if row.get("left_out"):
        return f"left out: {row['left_out']}"
    return f"{row['pairs_a_second']:.4g} pairs/s at {row['size']} {row['unit']}" + (
        f" ({row['ended']})" if row.get("ended") else ""
    )
