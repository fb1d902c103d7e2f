"""Which matrices become int8: decided by measuring, until the scores' noise is below a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runoff.checkpoint.config import EncoderConfig, ModelConfig
from runoff.checkpoint.quantized import matrix_names, unpacked_tensors
from runoff.checkpoint.weights import PackedMatrix, Weights
from runoff.contracts import InputError
from runoff.engine.native import NativeEngine, Processor, packed_matrix
from runoff.engine.smoothing import Peaks, parts_to_smooth, smoothed

Kinds = Mapping[str, str]
"""Matrix ("0.qkv") -> "i8" or "i16"."""

Measure = Callable[[NativeEngine], float]
"""An engine -> how far its scores are from the model's own, as a share of their spread."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Noise on all calibration pairs, and a quicker one on some, which only compares matrices.

    `advance` hears of each matrix that was compared, and of how many there are.
    """

    whole: Measure
    quick: Measure
    advance: Callable[[int], object] = lambda _total: None


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided: the weights as they are stored, which parts were smoothed, and the noise on the way.

    `plain_noise` is that of int8 everywhere, `smoothing_trials` the same with one more part smoothed (kept where it
    was lower), `noise` that of the result.
    """

    weights: Weights
    kinds: Kinds
    smoothed_parts: tuple[str, ...]
    plain_noise: float
    smoothing_trials: Mapping[str, float]
    noise: float


class Trials:
    """Engines of one model with its matrices in any kinds; each matrix is packed once in each."""

    def __init__(self, model: ModelConfig, weights: Weights, processor: Processor) -> None:
        self._model, self._weights, self._processor = model, weights, processor
        self._unpacked = unpacked_tensors(model, weights)
        self._pool: dict[tuple[str, str], PackedMatrix] = {}

    def weights(self, kinds: Kinds) -> Weights:
        """All weights as they would be stored."""
        return Weights(self._unpacked, {name: self._packed(name, kind) for name, kind in kinds.items()})

    def engine(self, kinds: Kinds) -> NativeEngine:
        precision = "int8" if "i8" in kinds.values() else "bf16"
        return NativeEngine(self._model, self.weights(kinds), self._processor, precision)

    def size(self, name: str) -> int:
        """How many weights the matrix has."""
        return self._weights.table(f"{name}.weight").data.size

    def _packed(self, name: str, kind: str) -> PackedMatrix:
        if (name, kind) not in self._pool:
            assert isinstance(self._model.encoder, EncoderConfig)
            self._pool[name, kind] = packed_matrix(self._model.encoder, self._weights, name, kind)
        return self._pool[name, kind]


def plan_bf16(model: ModelConfig, weights: Weights, processor: Processor, measures: Measures) -> Plan:
    """Every matrix in 16-bit fixed point."""
    trials, kinds = Trials(model, weights, processor), dict.fromkeys(matrix_names(model), "i16")
    noise = measures.whole(trials.engine(kinds))
    return Plan(trials.weights(kinds), kinds, (), noise, {}, noise)


def plan_int8(
    model: ModelConfig,
    weights: Weights,
    processor: Processor,
    peaks: Peaks,
    measures: Measures,
    target: float,
) -> Plan:
    """int8 wherever the noise stays within `target`: smoothed where that helps, the worst matrices in 16 bits.

    Raises `InputError` for a target that 16 bits everywhere miss too.
    """
    assert isinstance(model.encoder, EncoderConfig)
    kinds: Kinds = dict.fromkeys(matrix_names(model), "i8")
    trials, parts, tried_noises = Trials(model, weights, processor), [], {}
    plain = noise = measures.whole(trials.engine(kinds))
    for part in parts_to_smooth(model.encoder):
        candidate = smoothed(model.encoder, weights, peaks, part)
        tried = Trials(model, candidate, processor)
        found = tried_noises[part] = measures.whole(tried.engine(kinds))
        if found < noise:
            weights, trials, noise = candidate, tried, found
            parts.append(part)
    if noise > target:
        kinds, noise = _promoted(trials, by_sensitivity(trials, list(kinds), measures), measures, target)
    return Plan(trials.weights(kinds), kinds, tuple(parts), plain, tried_noises, noise)


def by_sensitivity(trials: Trials, names: list[str], measures: Measures) -> list[str]:
    """The matrices, the one first whose int8 costs the most noise (as a variance) for its size."""
    worth = {}
    for name in names:
        alone = dict.fromkeys(names, "i16") | {name: "i8"}
        worth[name] = measures.quick(trials.engine(alone)) ** 2 / trials.size(name)
        measures.advance(len(names))
    return sorted(names, key=lambda name: -worth[name])


def _promoted(
    trials: Trials, order: list[str], measures: Measures, target: float
) -> tuple[dict[str, str], float]:
    """The fewest of `order`, from its front, in 16 bits that bring the noise within `target`, by bisection."""

    def tried(count: int) -> tuple[dict[str, str], float]:
        kinds = {name: "i16" if place < count else "i8" for place, name in enumerate(order)}
        return kinds, measures.whole(trials.engine(kinds))

    few, many = 0, len(order)
    best = tried(many)
    if best[1] > target:
        raise InputError(
            f"a noise of at most {target:g} is out of reach: with 16 bits everywhere it is {best[1]:.2g}. "
            "Ask for a larger target"
        )
    while many - few > 1:
        middle = (few + many) // 2
        found = tried(middle)
        if found[1] <= target:
            many, best = middle, found
        else:
            few = middle
    return best
