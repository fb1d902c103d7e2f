"""Scores with a relevance drawn from a known sigmoid of them, and a calibration made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runoff.calibration.curve import Isotonic, Platt
from runoff.calibration.stored import CALIBRATION, Calibration, FittedOn

SLOPE, INTERCEPT = 0.8, -2.0
HAND_MADE = FittedOn(("house",), "a grade above 0", 10, 400, 40, 0.4, 0.02, 0.3, 0.05)


class Drawn(NamedTuple):
    scores: npt.NDArray[np.float64]
    relevant: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]


def drawn(queries: int = 60, candidates: int = 50, seed: int = 0) -> Drawn:
    """Pairs whose probability of being relevant is sigmoid(0.8 score - 2); scores as fp32, as engines give them."""
    generator = np.random.default_rng(seed)
    count = queries * candidates
    scores = generator.normal(0.0, 2.5, count).astype(np.float32).astype(np.float64)
    chances = 1.0 / (1.0 + np.exp(-(SLOPE * scores + INTERCEPT)))
    return Drawn(scores, generator.random(count) < chances, np.repeat(np.arange(queries), candidates))


def write_calibration(folder: Path, slope: float = SLOPE, intercept: float = INTERCEPT) -> Calibration:
    """Puts a calibration by Platt beside a model."""
    calibration = Calibration(Platt(slope, intercept), HAND_MADE)
    (folder / CALIBRATION).write_text(calibration.as_json(), encoding="utf-8")
    return calibration


STEPS = Calibration(Isotonic((-1.0, 0.5, 2.0), (0.0, 0.25, 0.75)), HAND_MADE)
