"""Curves from raw scores to probabilities that never fall: what they are, and how they are applied."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Platt:
    """1 / (1 + exp(-(slope * score + intercept))); `InputError` for a slope below 0 and for what is not finite."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        for name, value in (("slope", self.slope), ("intercept", self.intercept)):
            check_number(name, value)
        if self.slope < 0:
            raise InputError(
                f"expected a slope of 0 or more, got {self.slope}: it would turn the order round"
            )

    def of(self, scores: Floats) -> Floats:
        return sigmoid(self.slope * scores + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between the points (`scores`, `probabilities`), level outside them.

    `InputError` unless there are as many of both, finite, `scores` rising, `probabilities` never falling, in 0..1.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.probabilities):
            raise InputError(
                f"expected as many scores as probabilities, one at least, got {len(self.scores)} and "
                f"{len(self.probabilities)}"
            )
        for name, values in (("score", self.scores), ("probability", self.probabilities)):
            for value in values:
                check_number(name, value)
        at = np.array(self.scores, np.float64)
        if (at[1:] <= at[:-1]).any() or not abs(at[-1] / 2 - at[0] / 2) < sys.float_info.max / 2:
            raise InputError("expected scores that rise from point to point")
        if (np.diff(self.probabilities) < 0).any():
            raise InputError("expected probabilities that never fall from point to point")
        if self.probabilities[0] < 0 or self.probabilities[-1] > 1:
            raise InputError(
                f"expected probabilities from 0 to 1, got {self.probabilities[0]} to {self.probabilities[-1]}"
            )

    def of(self, scores: Floats) -> Floats:
        at, levels = np.array(self.scores, np.float64), np.array(self.probabilities, np.float64)
        right = np.clip(np.searchsorted(at, scores, side="right"), 1, max(len(at) - 1, 1))
        left, right = right - 1, np.minimum(right, len(at) - 1)
        width = np.where(right > left, at[right] - at[left], 1.0)
        share = (np.clip(scores, at[left], at[right]) - at[left]) / width
        # Not numpy's interp: it may pass the right end by a rounding, and then a better score is less probable.
        found: Floats = np.minimum(levels[left] + share * (levels[right] - levels[left]), levels[right])
        return found


def sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp(800) is infinite, and the probability 0
        found: Floats = 1.0 / (1.0 + np.exp(-values))
    return found


def check_number(name: str, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise InputError(f"expected a finite number as {name}, got {value!r:.40}")


def finite(values: npt.ArrayLike) -> Floats:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise InputError("expected finite scores, got some that are infinite or no number")
    return found


def flags_of(relevant: npt.ArrayLike) -> Flags:
    found = np.asarray(relevant)
    if found.dtype != np.bool_ and not np.isin(found, (0, 1)).all():
        raise InputError("expected a relevance of 0 or 1 of each pair; make grades into one of these")
    return found.astype(np.bool_)
