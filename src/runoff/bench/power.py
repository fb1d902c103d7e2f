"""Watts while something runs: a GPU's by nvidia-smi, a processor's by its RAPL counters, where they can be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RAPL = Path("/sys/class/powercap")
_SAMPLES = 100  # milliseconds between two of nvidia-smi's


class Meter:
    """Measures the power of `device` over stretches of time; `watts` is that of the last stretch, None: unreadable."""

    def __init__(self, device: str, rapl: Path = RAPL) -> None:
        self._is_gpu = device != "cpu"
        self._index = gpu_index(device)
        self._rapl = rapl
        self.watts: float | None = None

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What happens inside is measured."""
        self.watts = None
        with self._gpu() if self._is_gpu else self._cpu():
            yield

    @contextmanager
    def _cpu(self) -> Iterator[None]:
        before, began = energy_joules(self._rapl), time.monotonic()
        yield
        after, seconds = energy_joules(self._rapl), time.monotonic() - began
        if before is not None and after is not None and after >= before and seconds > 0:
            self.watts = round((after - before) / seconds, 1)

    @contextmanager
    def _gpu(self) -> Iterator[None]:
        samples: list[float] = []
        stop = _sampling(self._index, samples)
        try:
            yield
        finally:
            stop()
        if samples:
            self.watts = round(sum(samples) / len(samples), 1)


def _sampling(index: int, samples: list[float]) -> Callable[[], None]:
    """Starts a process that says a GPU's power ten times a second, and a thread that collects it; ends them."""
    if not shutil.which("nvidia-smi"):
        return lambda: None
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    process = subprocess.Popen(
        [*query, f"--loop-ms={_SAMPLES}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # "[N/A]" where the card does not say
                samples.append(float(line))

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()

    def stop() -> None:
        process.kill()
        process.wait()
        thread.join()
        assert process.stdout is not None
        process.stdout.close()

    return stop


def energy_joules(folder: Path = RAPL) -> float | None:
    """What the processor packages have used since their counters last began anew; None where nobody may read them."""
    total, found = 0.0, False
    for zone in sorted(folder.glob("*-rapl:*")):
        if zone.name.count(":") > 1:  # a part of a package, counted with it
            continue
        try:
            total += int((zone / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return None
        found = True
    return total if found else None


def gpu_index(device: str) -> int:
    """nvidia-smi's number of a torch device: CUDA_VISIBLE_DEVICES may have renumbered them."""
    _, _, number = device.partition(":")
    place = int(number) if number.isdecimal() else 0
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if place < len(visible) and visible[place].strip().isdecimal():
        return int(visible[place])
    return place
