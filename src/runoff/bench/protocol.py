"""The published protocol: sizes doubled until memory runs out, a warm-up, three timed passes, the median.

On a GPU each engine has the whole protocol at every size, one engine after the other. On a CPU the sizes are swept
first, on fewer pairs and once each, and the best size of every engine is then timed in turn, A B C A B C.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runoff.bench.power import Meter
from runoff.bench.process import Peer
from runoff.bench.specs import ENGINES, OutOfMemoryError, UnavailableError
from runoff.contracts import Pair

PASSES = 3
WARMTH = "warmth"
ALL, FEW = "all", "few"
IDS = "ids"

FIRST_SIZE: Mapping[tuple[str, str], int] = {
    ("cpu", "pairs"): 8,
    ("cpu", "tokens"): 512,
    ("cuda", "pairs"): 8,
    ("cuda", "tokens"): 4096,
}
"""What doubling begins with, by device and unit: 8 pairs as in the article, or about as much work in tokens."""

SLOWER = 0.05
"""On a CPU memory does not run out usefully: doubling also stops once two sizes in a row were slower than the best
by more than this share."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a race is run. `has_all_sizes`: doubling goes on however slow. `meter` None: power is not read."""

    kind: str
    passes: int = PASSES
    has_all_sizes: bool = False
    meter: Meter | None = None


@dataclass(slots=True)
class Timed:
    """One size's passes: seconds of each, the highest peak of memory, the power."""

    size: int | None
    pairs: int
    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    watts: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Pairs a second at the median."""
        return self.pairs / statistics.median(self.seconds)

    def add(self, answer: Mapping[str, Any], meter: Meter | None) -> None:
        self.seconds.append(answer["seconds"])
        if answer.get("peak_mib") is not None:
            self.peak_mib = max(self.peak_mib or 0.0, answer["peak_mib"])
        if meter is not None and meter.watts is not None:
            self.watts.append(meter.watts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "pairs": self.pairs,
            "pairs_a_second": round(self.rate, 2),
            "seconds": [round(each, 6) for each in self.seconds],
            "peak_mib": self.peak_mib,
        }


@dataclass(slots=True)
class Result:
    """What came of one engine: its sizes, the best one's passes, scores, and how the sweep ended."""

    sizes: list[Timed] = field(default_factory=list)
    best: Timed | None = None
    scores: list[float] = field(default_factory=list)
    tokenize_seconds: float | None = None
    ids: Timed | None = None
    ended: str = ""
    left_out: str = ""

    def choose(self) -> int | None:
        """The best size so far; `UnavailableError` where none was measured."""
        if not self.sizes:
            raise UnavailableError(self.ended or "nothing was measured")
        return max(self.sizes, key=lambda each: each.rate).size


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs of a race: all of them, fewer for a CPU's sweep, and a few others for warmth; `tokens` of all and few."""

    pairs: Sequence[Pair]
    few: Sequence[Pair]
    warmth: Sequence[Pair]
    tokens: int
    few_tokens: int

    def give(self, peer: Peer) -> None:
        peer.keep(ALL, self.pairs)
        peer.keep(FEW, self.few)
        peer.keep(WARMTH, self.warmth)
        peer.tune(WARMTH)


def sizes_of(engine: str, kind: str, pairs: int, tokens: int) -> list[int | None]:
    """Sizes to try, each twice the one before, up to the first that holds everything in one batch."""
    spec = ENGINES[engine]
    if spec.options.get("group"):
        return [None]  # its batches are what it is
    if _is_slow(engine):
        return [None]
    size = FIRST_SIZE[kind, spec.unit]
    most = pairs if spec.unit == "pairs" else tokens
    sizes: list[int | None] = [size]
    while size < most:
        size *= 2
        sizes.append(size)
    return sizes


def one_pass(peer: Peer, name: str, timed: Timed, meter: Meter | None) -> list[float]:
    """Adds a pass to `timed`; its scores."""
    if meter is None:
        answer = peer.score(name, timed.size)
    else:
        with meter.measured():
            answer = peer.score(name, timed.size)
    timed.add(answer, meter)
    scores: list[float] = answer["scores"]
    return scores


def sweep(peer: Peer, work: Work, rules: Rules, result: Result) -> None:
    """Measures every size into `result`, until memory runs out or (on a CPU) larger ones only get slower.

    On a GPU a size has all passes over all pairs after one over a few; on a CPU one pass over fewer pairs.
    """
    is_gpu = rules.kind != "cpu"
    name, count = (ALL, len(work.pairs)) if is_gpu else (FEW, len(work.few))
    tokens = work.tokens if is_gpu else work.few_tokens
    passes, meter = (rules.passes, rules.meter) if is_gpu else (1, None)
    sizes = sizes_of(peer.engine, rules.kind, count, tokens)
    peer.score(WARMTH, sizes[0])
    for size in sizes:
        timed = Timed(size, count)
        try:
            if is_gpu:
                peer.score(name, size)
            for _ in range(passes):
                scores = one_pass(peer, name, timed, meter)
        except OutOfMemoryError as error:
            result.ended = f"out of memory at {size:,} {ENGINES[peer.engine].unit}: {error}"
            break
        result.sizes.append(timed)
        if is_gpu and (result.best is None or timed.rate > result.best.rate):
            result.best, result.scores = timed, scores
        if not is_gpu and not rules.has_all_sizes and _only_gets_slower(result.sizes):
            result.ended = f"two sizes in a row were slower than the best by more than {SLOWER:.0%}"
            break
    result.choose()


def _only_gets_slower(sizes: Sequence[Timed]) -> bool:
    best = max(each.rate for each in sizes)
    return len(sizes) > 2 and all(each.rate < (1 - SLOWER) * best for each in sizes[-2:])


def extras(peer: Peer, size: int | None, rules: Rules, result: Result) -> None:
    """Tokenisation alone, and, where the engine takes token ids, the passes without it."""
    with suppress(UnavailableError):  # an engine that cannot say is still in the race
        result.tokenize_seconds = statistics.median(peer.tokenize(ALL) for _ in range(rules.passes))
        if peer.keep_ids(IDS, ALL):
            timed = Timed(size, result.best.pairs if result.best else 0)
            for _ in range(rules.passes):
                one_pass(peer, IDS, timed, None)
            result.ids = timed


def on_gpu(peer: Peer, work: Work, rules: Rules) -> Result:
    """The whole protocol of one engine."""
    result = Result()
    try:
        work.give(peer)
        sweep(peer, work, rules, result)
        extras(peer, result.choose(), rules, result)
    except UnavailableError as error:
        result.left_out = "" if result.best else str(error)
    return result


class Turns:
    """The protocol of several engines on a CPU, A B C A B C. One that fails before its last timed pass is left out and
    says why; one whose process died of memory starts anew (`restart`) for the timed passes of its best size."""

    def __init__(
        self, peers: dict[str, Peer], restart: Callable[[str], Peer], work: Work, rules: Rules
    ) -> None:
        self._peers, self._restart, self._work, self._rules = peers, restart, work, rules
        self.results = {name: Result() for name in peers}

    def run(self, say: Say) -> dict[str, Result]:
        """{engine: its result}."""
        for name in self._peers:
            self._try(name, self._sweep)
            say(f"{ENGINES[name].label}: {_told(self.results[name])}")
        for turn in range(self._rules.passes):
            for name in self._peers:
                self._try(name, self._pass)
            if not all(result.left_out for result in self.results.values()):
                say(f"pass {turn + 1} of {self._rules.passes} done")
        for name in self._peers:
            self._try(name, self._extras)
        return self.results

    def _try(self, name: str, step: Callable[[str, Result], None]) -> None:
        result = self.results[name]
        if result.left_out:
            return
        try:
            step(name, result)
        except UnavailableError as error:
            result.left_out = str(error)

    def _sweep(self, name: str, result: Result) -> None:
        self._work.give(self._peers[name])
        sweep(self._peers[name], self._work, self._rules, result)
        self._take_best(name, result)

    def _take_best(self, name: str, result: Result) -> None:
        """The best size is the one to time; its process is there and warm."""
        pairs = self._work.few if _is_slow(name) else self._work.pairs
        result.best = Timed(result.choose(), len(pairs))
        if self._peers[name].has_ended:
            self._peers[name].close()
            self._peers[name] = self._restart(name)
            self._work.give(self._peers[name])
        self._peers[name].score(WARMTH, result.best.size)

    def _pass(self, name: str, result: Result) -> None:
        assert result.best is not None, "an engine without a best size was left out"
        try:
            pairs = FEW if _is_slow(name) else ALL
            result.scores = one_pass(self._peers[name], pairs, result.best, self._rules.meter)
        except OutOfMemoryError as error:  # all pairs have longer ones among them than the few of the sweep
            too_large = result.best.size
            result.ended = f"out of memory at {too_large}: {error}"
            result.sizes = [each for each in result.sizes if each.size != too_large]
            self._take_best(name, result)
            self._pass(name, result)

    def _extras(self, name: str, result: Result) -> None:
        assert result.best is not None, "an engine without a best size was left out"
        if not _is_slow(name):
            extras(self._peers[name], result.best.size, self._rules, result)


def _is_slow(engine: str) -> bool:
    """Whether its timed passes have the few pairs of the sweep: the numpy engine would take minutes for all."""
    return ENGINES[engine].options.get("engine") == "reference"


def _told(result: Result) -> str:
    if result.left_out:
        return f"left out: {result.left_out}"
    sizes = ", ".join(f"{each.size or 'own'}: {each.rate:.4g}" for each in result.sizes)
    return f"pairs/s by size {sizes}" + (f" ({result.ended})" if result.ended else "")
