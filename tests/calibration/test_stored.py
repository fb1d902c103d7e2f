"""calibration.json: what is written is read, and what could not give probabilities is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runoff.calibration.curve import Isotonic, Platt
from runoff.calibration.fit import fit
from runoff.calibration.stored import (
    CALIBRATION,
    KIND,
    METHODS,
    Calibration,
    checked_threshold,
    read_calibration,
    required,
)
from runoff.contracts import CheckpointError, InputError
from standin_calibration import HAND_MADE, STEPS, drawn, write_calibration


@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_is_read_as_it_was_written(method: str, tmp_path: Path) -> None:
    calibration = fit(*drawn(), method, names=("häuser", "b"), relevance="drawn").calibration
    (tmp_path / CALIBRATION).write_text(calibration.as_json(), encoding="utf-8")
    assert read_calibration(tmp_path) == calibration
    content = json.loads((tmp_path / CALIBRATION).read_text(encoding="utf-8"))
    assert (content["kind"], content["format_version"], content["method"]) == (KIND, 1, method)
    assert content["fitted_on"]["names"] == ["häuser", "b"]


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None


def test_probabilities_by_hand() -> None:
    assert Calibration(Platt(2.0, -1.0), HAND_MADE).probabilities([0.5, -1e4, 1e4]).tolist() == [0.5, 0, 1]
    found = STEPS.probabilities(np.array([-9, -1, -0.25, 0.5, 1.25, 2, 9], np.float32))
    assert found.tolist() == [0.0, 0.0, 0.125, 0.25, 0.5, 0.75, 0.75]
    assert STEPS.probabilities([]).tolist() == []
    assert Calibration(Isotonic((1.0,), (0.3,)), HAND_MADE).probabilities([0, 1, 2]).tolist() == [0.3] * 3


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20, unique=True),
    st.lists(st.floats(0, 1), min_size=20, max_size=20),
    st.lists(st.floats(-1e31, 1e31), max_size=20),
)
def test_any_points_give_a_curve_that_never_falls(
    scores: list[float], levels: list[float], asked: list[float]
) -> None:
    points = tuple(sorted(scores))
    curve = Isotonic(points, tuple(sorted(levels[: len(points)])))
    values = np.unique([*points, *np.nextafter(points, -np.inf), *np.nextafter(points, np.inf), *asked])
    found = curve.of(values)
    assert (np.diff(found) >= 0).all()
    assert (found >= curve.probabilities[0]).all()
    assert (found <= curve.probabilities[-1]).all()


PLATT: dict[str, Any] = {"method": "platt", "slope": 1.0, "intercept": 0.0}
ISOTONIC: dict[str, Any] = {"method": "isotonic", "scores": [0.0, 1.0], "probabilities": [0.1, 0.9]}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (PLATT, {"method": "beta"}, r"a method among platt, isotonic, got 'beta'"),
    (PLATT, {"method": ["platt"]}, r"a method among platt, isotonic"),
    (PLATT, {"format_version": None}, r"format version 1, got None"),
    (PLATT, {"format_version": 2}, r"format version 1, got 2"),
    (PLATT, {"slope": -1.0}, r"a slope of 0 or more, got -1\.0"),
    (PLATT, {"slope": float("nan")}, r"a finite number as slope, got nan"),
    (PLATT, {"intercept": float("inf")}, r"a finite number as intercept, got inf"),
    (PLATT, {"slope": 10**400}, r"a finite number as slope"),
    (PLATT, {"slope": True}, r"a finite number as slope, got True"),
    (PLATT, {"slope": "1"}, r"a finite number as slope, got '1'"),
    (PLATT, {"temperature": 1.0}, r"lacks nothing, and has temperature that is unknown"),
    (ISOTONIC, {"slope": 1.0}, r"has slope that is unknown"),
    (ISOTONIC, {"scores": [0.0]}, r"as many scores as probabilities, one at least, got 1 and 2"),
    (ISOTONIC, {"scores": [], "probabilities": []}, r"one at least, got 0 and 0"),
    (ISOTONIC, {"scores": [1.0, 0.0]}, r"scores that rise"),
    (ISOTONIC, {"scores": [1.0, 1.0]}, r"scores that rise"),
    (ISOTONIC, {"scores": [10**17, 10**17 + 1]}, r"scores that rise"),
    (ISOTONIC, {"scores": [-1.7e308, 1.7e308]}, r"scores that rise"),
    (ISOTONIC, {"probabilities": [0.9, 0.1]}, r"probabilities that never fall"),
    (ISOTONIC, {"probabilities": [0.1, 1.5]}, r"from 0 to 1, got 0\.1 to 1\.5"),
    (ISOTONIC, {"probabilities": [-0.1, 0.5]}, r"from 0 to 1, got -0\.1 to 0\.5"),
    (ISOTONIC, {"probabilities": [0.1, float("nan")]}, r"a finite number as probability, got nan"),
    (ISOTONIC, {"scores": 3}, r"a list as scores, got 3"),
]


def on(**changes: Any) -> dict[str, Any]:
    return {**json.loads(STEPS.as_json())["fitted_on"], **changes}


@pytest.mark.parametrize(("right", "changes", "said"), WRONG, ids=[str(case[1]) for case in WRONG])
def test_a_file_that_could_not_give_probabilities_is_refused(
    right: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    content = {"kind": KIND, "format_version": 1, **right, "fitted_on": on()}
    (tmp_path / CALIBRATION).write_text(json.dumps(content))
    assert read_calibration(tmp_path) is not None
    (tmp_path / CALIBRATION).write_text(json.dumps({**content, **changes}))
    with pytest.raises(
        CheckpointError, match=rf"calibration\.json cannot be used: .*{said}.*runoff calibrate, or delete it"
    ):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (on(pairs=-1), r"a whole number of 0 or more as pairs, got -1"),
        (on(queries=1.5), r"a whole number of 0 or more as queries, got 1\.5"),
        (on(ece_after=1.5), r"a number from 0 to 1 as ece_after, got 1\.5"),
        (on(brier_after=None), r"a finite number as brier_after, got None"),
        (on(names="house"), r"a list as names, got 'house'"),
        (on(names=[3]), r"texts as names"),
        (on(mood="good"), r"fitted_on lacks nothing, and has mood"),
        ([1], r"fitted_on lacks brier_after"),
    ],
    ids=str,
)
def test_facts_that_are_none_are_refused(facts: Any, said: str, tmp_path: Path) -> None:
    content = {"kind": KIND, "format_version": 1, **PLATT, "fitted_on": facts}
    (tmp_path / CALIBRATION).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said):
        read_calibration(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=lambda part: repr(part[:8]))
def test_a_file_that_is_damaged_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"calibration\.json cannot be used"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"kind": "camera", "format_version": 1}'])
def test_another_programs_file_of_that_name_is_left_aside_with_a_warning(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CALIBRATION).write_text(content)
    assert read_calibration(tmp_path) is None
    assert "calibration.json is left aside" in caplog.text


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).mkdir()
    with pytest.raises(CheckpointError, match=r"calibration\.json cannot be used"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=r"a threshold from 0 to 1"):
        checked_threshold(threshold)


def test_a_model_without_a_calibration_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runoff calibrate my-model --judged FOLDER"):
        required(None, "my-model")
    calibration = write_calibration(tmp_path)
    assert required(calibration, "my-model") is calibration


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_have_no_probability(wrong: float) -> None:
    with pytest.raises(InputError, match=r"finite scores"):
        STEPS.probabilities([0.0, wrong])
