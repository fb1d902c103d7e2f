"""How many threads the CPU engine gets: physical cores, as far as this process may use them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from runoff.contracts import InputError

CPUS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")

MOST_THREADS = 1024
"""More is a mistake: no machine gains from it, and every thread has a stack."""


def thread_count(asked: int | None = None) -> int:
    """`asked`, or RUNOFF_THREADS, or else the physical cores that affinity and a container's quota leave.

    Two hyperthreads of a core share its multipliers, so that a second one only halves the caches.
    """
    if asked is not None:
        return _checked(asked, "threads")
    if setting := os.environ.get("RUNOFF_THREADS"):
        return _checked(int(setting) if setting.isdecimal() else setting, "RUNOFF_THREADS")
    cores, quota = physical_cores(allowed_cpus()), quota_cores()
    return max(1, cores if math.isinf(quota) else min(cores, math.ceil(quota)))


def _checked(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_THREADS:
        raise InputError(f"{name} must be a whole number from 1 to {MOST_THREADS}, got {value!r}")
    return value


def allowed_cpus() -> set[int]:
    """The logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(cpus: set[int], folder: Path = CPUS) -> int:
    """The cores that have one of these logical processors; all of them, where the system does not say."""
    cores = set()
    for cpu in cpus:
        siblings = folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def quota_cores(folder: Path = CGROUP) -> float:
    """How many cores' time a container may use (cgroup 2 `cpu.max`, cgroup 1 `cpu.cfs_quota_us`); infinite
    without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return cores if cores > 0 else math.inf
