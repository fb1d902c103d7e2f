"""Watts, from counters made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.bench.power import Meter, energy_joules, gpu_index


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    """Two packages and a part of the first, which is counted with it."""
    for zone, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:0:0", 1_000_000),
        ("intel-rapl:1", 2_000_000),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(str(microjoules))
    return tmp_path


def test_energy_is_that_of_the_packages(rapl: Path) -> None:
    assert energy_joules(rapl) == 7.0


def test_counters_that_are_not_there_say_nothing(tmp_path: Path) -> None:
    assert energy_joules(tmp_path) is None


def test_watts_are_energy_over_time(rapl: Path) -> None:
    meter = Meter("cpu", rapl)
    with meter.measured():
        (rapl / "intel-rapl:1" / "energy_uj").write_text("3000000")
    assert meter.watts is not None
    assert meter.watts > 0.0


def test_a_counter_that_began_anew_gives_no_watts(rapl: Path) -> None:
    meter = Meter("cpu", rapl)
    with meter.measured():
        (rapl / "intel-rapl:0" / "energy_uj").write_text("0")
    assert meter.watts is None


@pytest.mark.parametrize(
    ("visible", "device", "index"),
    [("", "cuda", 0), ("", "cuda:3", 3), ("2,5", "cuda", 2), ("2,5", "cuda:1", 5), ("GPU-abc", "cuda", 0)],
)
def test_a_device_is_found_by_the_driver_s_number(
    visible: str, device: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_index(device) == index
