"""What a race, a latency or a growth run is asked to do, and what of it can be done with a model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runoff.bench.models import Entrant, find_entrant, revision_of
from runoff.bench.pairs import (
    NATURAL_QUESTIONS,
    NaturalQuestions,
    PairSet,
    first_pairs,
    made_pairs,
    natural_questions,
)
from runoff.bench.process import Peer, Places, obstacle
from runoff.bench.protocol import PASSES
from runoff.bench.record import Circumstances, Row
from runoff.bench.specs import ENGINES, REFERENCE, Settings, UnavailableError, kind_of_device
from runoff.checkpoint.hub import HubDatasets
from runoff.contracts import CheckpointError, InputError, Pair

Say = Callable[[str], None]

CPU_COUNTS = ((20e6, 512), (50e6, 256), (100e6, 128), (300e6, 64), (600e6, 24))
"""(parameters at most, pairs): a pass of the slowest engine stays near 30 s on two cores; beyond, `LEAST_COUNT`."""
LEAST_COUNT = 8
GPU_COUNTS = ((100e6, 8192),)
GPU_LEAST_COUNT = 4096
QUICK_COUNTS = {"cpu": 32, "cuda": 512}

WARM_PAIRS = 32
SWEEP_SHARE = 4  # of a CPU's pairs one in so many is in the sweep, at least WARM_PAIRS
REFERENCE_PAIRS, FEWER_REFERENCE_PAIRS = 64, 8
LARGE = 300e6  # parameters above which numpy takes minutes for 64 pairs
REFERENCE_MODELS = 20e6
"""Parameters up to which the numpy engine races unless it is named."""
MEMORY_SHARE = 0.6
BYTES_A_PARAMETER = 8  # of an engine's process: fp32 weights, and what it makes of them while it loads


@dataclass(frozen=True, slots=True)
class Plan:
    """One race. `engines` as listed, `is_named` where the user named them; `pairs` of the user's own, else None;
    `count` None: by the model's size; `form` is "full", "quick" or "ablation"."""

    models: Sequence[str]
    engines: Sequence[str]
    settings: Settings
    places: Places
    circumstances: Circumstances
    file: Path
    is_named: bool = False
    pairs: PairSet | None = None
    count: int | None = None
    form: str = "full"
    isa: str | None = None
    is_random: bool = False
    is_again: bool = False
    has_all_sizes: bool = False
    peak_tflops: float | None = None
    passes: int = PASSES
    flags: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return kind_of_device(self.settings.device)


# --- a model ---------------------------------------------------------------------------------------------


def entrant_of(plan: Plan, name: str, say: Say) -> Entrant | None:
    """The model of that name; None, and the reason said, where it cannot race and others may.

    Raises what `find_entrant` raises where it is the only model of the plan.
    """
    base, revision = revision_of(name)
    try:
        entrant = find_entrant(base, plan.places, is_random=plan.is_random, revision=revision)
    except (UnavailableError, CheckpointError) as error:
        if len(plan.models) == 1 and not isinstance(error, UnavailableError):
            raise
        say(f"{name} is left out: {' '.join(str(error).split())}")
        return None
    limit = plan.settings.max_length
    if entrant.positions is not None and limit > entrant.positions:
        say(f"{name} is left out: it has {entrant.positions} positions, and --max-length is {limit}")
        return None
    return entrant


def pairs_for(plan: Plan, entrant: Entrant) -> tuple[PairSet, str]:
    """The pairs of a model, and why they are a stand-in, where they are: the user's, natural-questions, or made."""
    count = plan.count or count_for(plan, entrant)
    if plan.pairs is not None:
        own = plan.pairs.pairs
        chosen = first_pairs(own, plan.count, plan.pairs.source) if plan.count else own[:count]
        return PairSet(list(chosen), plan.pairs.source), ""
    found = _natural_questions(count)
    if len(found.pairs) == count:
        return PairSet(found.pairs, "natural-questions"), ""
    made: list[Pair] = made_pairs(entrant.folder, count)
    return PairSet(made, "stand-in"), f"{NATURAL_QUESTIONS} cannot be had: {found.obstacle}"


@cache
def _natural_questions(count: int) -> NaturalQuestions:
    return natural_questions(count, HubDatasets())


def count_for(plan: Plan, entrant: Entrant) -> int:
    if plan.form == "quick":
        return QUICK_COUNTS[plan.kind]
    table, least = (CPU_COUNTS, LEAST_COUNT) if plan.kind == "cpu" else (GPU_COUNTS, GPU_LEAST_COUNT)
    return next((count for most, count in table if entrant.parameters <= most), least)


def runnable(plan: Plan, entrant: Entrant, engines: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The engines that may run this model here, and why the others may not."""
    may, may_not = [], {}
    for engine in engines:
        if engine == REFERENCE and entrant.parameters > REFERENCE_MODELS and not plan.is_named:
            continue
        flags = ENGINES[engine].flags if plan.is_named else plan.flags
        why = obstacle(engine, plan.settings, plan.places, flags, entrant.family)
        if why is None:
            may.append(engine)
        else:
            may_not[engine] = why
    return may, may_not


def start(plan: Plan, entrant: Entrant, engine: str, settings: Settings | None = None) -> Peer:
    """The engine with the model loaded; `UnavailableError` where that fails."""
    peer = Peer(engine, entrant.folder, settings or plan.settings, plan.places, isa=plan.isa)
    try:
        peer.load()
    except BaseException:
        peer.close()
        raise
    return peer


def model_settings(plan: Plan, entrant: Entrant, engine: str) -> Row:
    """Those of a line's settings that every kind of run has."""
    settings = plan.settings
    return {
        "model": entrant.name,
        "weights": entrant.weights,
        "engine": engine,
        "device": settings.device,
        "threads": settings.threads,
        "max_length": settings.max_length,
        "memory_mib": settings.memory_mib,
        "isa": plan.isa,
        "form": plan.form,
    }


def model_facts(entrant: Entrant, engine: str) -> Row:
    """What a line says of its model and engine beside the settings."""
    spec = ENGINES[engine]
    return {
        "parameters": entrant.parameters,
        "family": entrant.family,
        "why_random": entrant.why or None,
        "precision": spec.precision,
        "attention": spec.attention,
    }


def groups(names: Sequence[str], bytes_each: float, available: float) -> list[list[str]]:
    """The engines in groups that fit into a share of memory together, in their order; at least one a group."""
    together = max(1, int(MEMORY_SHARE * available / max(bytes_each, 1.0)))
    return [list(names[at : at + together]) for at in range(0, len(names), together)]


def available_bytes() -> float:
    """Memory that processes may still take; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    found = [line.split() for line in lines if line.startswith("MemAvailable")]
    return float(found[0][1]) * 1024 if found else float("inf")


def checked_engines(given: Sequence[str]) -> list[str]:
    """The names, each once; `InputError` for one that there is not."""
    if unknown := [name for name in given if name not in ENGINES]:
        raise InputError(f"unknown engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    return list(dict.fromkeys(given))
