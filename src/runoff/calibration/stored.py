"""`Calibration`: what lies beside a model as calibration.json, read and checked, and applied to its raw scores."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy.typing as npt

from runoff.calibration.curve import Floats, Isotonic, Platt, check_number, finite
from runoff.contracts import CheckpointError, InputError

logger = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
"""Its file in a model's folder."""

KIND, FORMAT_VERSION = "runoff calibration", 1

_COUNTS = ("queries", "pairs", "relevant")

Method = Literal["platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, slots=True)
class FittedOn:
    """What a calibration was fitted on, by the names of its sets, and its errors.

    `relevance` says in words what counted as relevant. The errors `before` are those of sigmoid(raw score), those
    `after` of probabilities that each query got from a fit on the other folds' queries.
    """

    names: tuple[str, ...]
    relevance: str
    queries: int
    pairs: int
    relevant: int
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (*self.names, self.relevance)):
            raise InputError("expected texts as names and relevance of what it was fitted on")
        for name in _names(FittedOn)[2:]:
            value = getattr(self, name)
            check_number(name, value)
            if name in _COUNTS and (value < 0 or not isinstance(value, int)):
                raise InputError(f"expected a whole number of 0 or more as {name}, got {value}")
            if name not in _COUNTS and not 0 <= value <= 1:
                raise InputError(f"expected a number from 0 to 1 as {name}, got {value}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve from raw scores to probabilities that never falls, and what it was fitted on."""

    curve: Platt | Isotonic
    fitted_on: FittedOn

    @property
    def method(self) -> Method:
        return "platt" if isinstance(self.curve, Platt) else "isotonic"

    def probabilities(self, raw_scores: npt.ArrayLike) -> Floats:
        """The probability of relevance of each raw score (a logit, before any activation), fp64 [N]."""
        return self.curve.of(finite(raw_scores))

    def as_json(self) -> str:
        """The contents of `calibration.json`."""
        about = {"kind": KIND, "format_version": FORMAT_VERSION, "method": self.method}
        content = {**about, **asdict(self.curve), "fitted_on": asdict(self.fitted_on)}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration that lies in a model's folder; None where there is none, or a file of that name but not of ours.

    `CheckpointError` for a file that is damaged, or that could not give probabilities in the scores' order.
    """
    path = folder / CALIBRATION
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and content.get("kind") == KIND:
            return _parsed(content)
        logger.warning("%s is left aside: it does not say that it is a calibration of Runoff", path)
        return None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # InputError is a ValueError
        raise CheckpointError(
            f"{path} cannot be used: {error}. Fit it again with runoff calibrate, or delete it"
        ) from error


def _parsed(known: dict[str, Any]) -> Calibration:
    if known.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"expected a calibration of format version {FORMAT_VERSION}, got {known.get('format_version')!r}"
        )
    curves: dict[Any, type[Platt] | type[Isotonic]] = {"platt": Platt, "isotonic": Isotonic}
    method = known.get("method")
    if not isinstance(method, str) or method not in curves:
        raise InputError(f"expected a method among {', '.join(METHODS)}, got {method!r:.40}")
    kind = curves[method]
    parameters = {name: value for name, value in known.items() if name in _names(kind)}
    wanted = {*_names(kind), "kind", "format_version", "method", "fitted_on"}
    _check_keys("a calibration", known, wanted)
    if kind is Isotonic:
        parameters = {name: _listed(name, value) for name, value in parameters.items()}
    facts = known["fitted_on"]
    _check_keys("fitted_on", facts, set(_names(FittedOn)))
    return Calibration(kind(**parameters), FittedOn(**{**facts, "names": _listed("names", facts["names"])}))


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _check_keys(what: str, found: Any, wanted: set[str]) -> None:
    keys = set(found) if isinstance(found, dict) else set()
    if keys != wanted:
        lacks, extra = ", ".join(sorted(wanted - keys)), ", ".join(sorted(keys - wanted))
        raise InputError(f"{what} lacks {lacks or 'nothing'}, and has {extra or 'nothing'} that is unknown")


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InputError(f"expected a list as {name}, got {value!r:.40}")
    return tuple(value)


# --- what a model needs of it ----------------------------------------------------------------------------


def required(calibration: Calibration | None, model: str) -> Calibration:
    """The calibration; `InputError` where there is none says what fits one."""
    if calibration is None:
        raise InputError(
            f"{model} has no calibration ({CALIBRATION} in its folder), so its scores have no probability. Fit one: "
            f"runoff calibrate {model} --judged FOLDER (with --out FOLDER for a copy)"
        )
    return calibration


def checked_threshold(threshold: float) -> float:
    """The threshold; `InputError` unless it is a number from 0 to 1."""
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"expected a threshold from 0 to 1, a probability, got {threshold!r:.40}")
    return float(threshold)
