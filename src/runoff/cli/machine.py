"""What this machine has: processor, GPUs, and Runoff's extras. Read from the system, importing nothing heavy."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runoff import __version__

CPUINFO = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")

# Instruction sets that decide how fast a matrix is multiplied, by their names in /proc/cpuinfo (x86, ARM).
_FLAG_NAMES = """
avx2 fma f16c avx512f avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_int8 amx_bf16
asimd asimddp i8mm bf16 sve sve2
"""
TELLING_FLAGS = tuple(_FLAG_NAMES.split())

# Extra -> a distribution that only that extra brings.
EXTRAS = {
    "cli": ("rich", "tables and colours in the terminal"),
    "search": ("pylance", "index and search documents"),
    "files": ("pypdf", "documents from HTML and PDF files"),
    "nano": ("runoff-nano", "a small reranker that needs no download"),
    "torch": ("torch", "GPUs, and architectures that Runoff's own engines do not run"),
    "train": ("datasets", "distil a reranker of your own"),
    "eval": ("mteb", "judged sets, MTEB and plots"),
}


@dataclass(frozen=True, slots=True)
class Processor:
    """Its name, the cores this process may use, and the instruction sets that matter."""

    name: str
    cores: int
    flags: tuple[str, ...]


def processor() -> Processor:
    """This machine's; flags are known on Linux only."""
    fields: dict[str, str] = {}
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    name = fields.get("model name") or _mac_processor() or platform.processor() or platform.machine()
    flags = (fields.get("flags") or fields.get("features") or "").split()
    return Processor(name, usable_cores(), tuple(flag for flag in TELLING_FLAGS if flag in flags))


def usable_cores() -> int:
    """The cores this process may run on, which a container or taskset may have made fewer."""
    from runoff.engine.threads import allowed_cpus

    return len(allowed_cpus())


def _mac_processor() -> str | None:
    if platform.system() != "Darwin":
        return None
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows."""
    names = []
    for file in sorted(GPUS.glob("*/information")) if GPUS.is_dir() else []:
        lines = file.read_text(errors="replace").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "unknown"
        )
        names.append(model)
    return names


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def circumstances(distributions: Sequence[str]) -> dict[str, Any]:
    """What every line of figures says of where it comes from: machine, versions (of what is installed), date."""
    cpu = processor()
    known = {name: installed_version(name) for name in distributions}
    return {
        "machine": ", ".join([cpu.name, f"{cpu.cores} cores", *gpus()]),
        "python": platform.python_version(),
        "versions": {"runoff": __version__} | {name: version for name, version in known.items() if version},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
