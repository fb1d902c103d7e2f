"""What Runoff's core and each extra weigh on disk, and how long `import runoff` takes: one line each.

Every set is installed into a scratch environment of its own from this checkout, at the versions of
constraints.txt, and measured there: all of site-packages but pip and setuptools. The figures replace the
ones of the same set in benchmarks/results/install_size.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "install_size.jsonl"
NANO = ROOT / "models" / "runoff-nano"
EXTRAS = tuple(
    tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
)
QUICK = ("core", "search")
WITH_TORCH = {"torch", "train", "eval", "all"}
WITH_NANO = {"nano", "all"}
INSTALLERS = re.compile(
    r"(pip|setuptools|pkg_resources|_distutils_hack|wheel)(-|$)|distutils-precedence\.pth"
)

# Run in the measured environment; CPU time, so that other work on the machine does not count.
IMPORT = "import time; start = time.process_time(); import runoff; print(time.process_time() - start)"


def measure(name: str, torch: str) -> dict[str, Any]:
    """Megabytes, distributions, seconds to install and to import, of the core plus the extra `name`."""
    with tempfile.TemporaryDirectory(prefix="runoff-size-") as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        python = f"{scratch}/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        pip += ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "pip"], check=True)
        started = time.perf_counter()
        if name in WITH_TORCH:
            subprocess.run([*pip, torch], check=True)
        wanted = [str(ROOT) if name == "core" else f"{ROOT}[{name}]"]
        wanted += [str(NANO)] if name in WITH_NANO else []
        subprocess.run([*pip, *wanted], check=True)
        seconds = time.perf_counter() - started
        packages = next(Path(scratch).glob("lib/python*/site-packages"))
        sizes = {path.name: bytes_of(path) for path in packages.iterdir() if not INSTALLERS.match(path.name)}
        largest = sorted(sizes, key=lambda entry: -sizes[entry])[:4]
        return {
            "set": name,
            "megabytes": round(sum(sizes.values()) / 1e6, 1),
            "distributions": sum(entry.endswith(".dist-info") for entry in sizes),
            "largest_megabytes": {entry: round(sizes[entry] / 1e6, 1) for entry in largest},
            "install_seconds": round(seconds, 1),
            "import_cpu_seconds": round(min(import_seconds(python) for _ in range(5)), 3),
        }


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder, compiled ones included."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def import_seconds(python: str) -> float:
    return float(subprocess.run([python, "-c", IMPORT], check=True, capture_output=True, text=True).stdout)


def record(figures: dict[str, Any]) -> None:
    """Puts `figures` into the results in place of the earlier ones of the same set."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    rows = [row for row in map(json.loads, lines) if row["set"] != figures["set"]]
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "command": f"python benchmarks/install_size.py {figures['set']}",
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in [*rows, figures | about]), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", help=f"core or extras: {', '.join(EXTRAS)} (default: all of them)")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--torch", help="the build of torch (default: the CPU build of constraints.txt)")
    options = parser.parse_args()
    names = options.sets or (QUICK if options.quick else ("core", *EXTRAS))
    if unknown := set(names) - {"core", *EXTRAS}:
        parser.error(f"no such extra: {', '.join(sorted(unknown))}; there are {', '.join(EXTRAS)}")
    for name in names:
        if name in WITH_NANO and not NANO.is_dir():
            print(f"{name:8} left out: {NANO.relative_to(ROOT)} is not there")
            continue
        figures = measure(name, options.torch or pinned_torch())
        record(figures)
        print(
            f"{name:8} {figures['megabytes']:7.1f} MB in {figures['distributions']:3} distributions; "
            f"installed in {figures['install_seconds']:.0f} s; "
            f"import runoff: {figures['import_cpu_seconds']:.3f} s of CPU"
        )


def pinned_torch() -> str:
    """The CPU build of the pinned torch; outside Linux there is no other."""
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pin = next(line for line in pins if line.startswith("torch=="))
    return f"{pin}+cpu" if sys.platform == "linux" else pin


if __name__ == "__main__":
    main()
