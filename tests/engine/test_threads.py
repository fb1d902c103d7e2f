"""As many threads as there are cores to use: physical ones, inside the affinity and a container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import InputError
from runoff.engine import threads
from runoff.engine.threads import physical_cores, quota_cores, thread_count


def topology(folder: Path, siblings: dict[int, str]) -> Path:
    for cpu, listed in siblings.items():
        place = folder / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(listed + "\n")
    return folder


def test_hyperthreads_of_a_core_count_once(tmp_path: Path) -> None:
    folder = topology(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    assert physical_cores({0, 1, 4, 5}, folder) == 2
    assert physical_cores({0, 4}, folder) == 1
    assert physical_cores({0, 5}, folder) == 2


def test_a_system_that_hides_its_cores_has_as_many_as_processors(tmp_path: Path) -> None:
    assert physical_cores({0, 1, 2}, tmp_path) == 3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ({"cpu.max": "nonsense"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_containers_quota_is_read(files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert quota_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 4), (8.0, 4), (2.0, 2), (1.5, 2), (0.2, 1)])
def test_a_quota_lowers_the_default_and_a_part_of_a_core_is_a_thread(
    quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNOFF_THREADS", raising=False)
    monkeypatch.setattr(threads, "physical_cores", lambda cpus: 4)
    monkeypatch.setattr(threads, "quota_cores", lambda: quota)
    assert thread_count() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_default_stays_inside_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert thread_count() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_what_is_asked_for_counts_more_than_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_THREADS", "3")
    assert thread_count() == 3
    assert thread_count(5) == 5


@pytest.mark.parametrize("asked", [0, -1, 2000, True, 2.0, "2"])
def test_a_number_of_threads_that_is_none_is_refused(asked: Any) -> None:
    with pytest.raises(InputError, match="threads must be a whole number from 1 to 1024"):
        thread_count(asked)


@pytest.mark.parametrize("setting", ["0", "many", "-2", "1.5"])
def test_a_setting_that_is_no_number_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_THREADS", setting)
    with pytest.raises(InputError, match="RUNOFF_THREADS must be a whole number"):
        thread_count()
