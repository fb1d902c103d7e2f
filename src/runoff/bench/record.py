"""Result lines: what each says of its circumstances, how they are kept, and what of an earlier file still holds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError
from runoff.data.atomic import replace_file

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the lines of one run have in common: the machine, and the command that was typed."""

    machine: Mapping[str, Any]
    command: str

    def of(self, versions: Mapping[str, str]) -> Row:
        """Machine, load, versions, command, date, and the environment variables that set threads."""
        set_here = {
            name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_"))
        }
        return {
            "machine": dict(self.machine),
            "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            "versions": {"python": platform.python_version(), **versions},
            "command": self.command,
            "date": datetime.now(UTC).date().isoformat(),
            **({"environment": set_here} if set_here else {}),
        }


def read_rows(path: Path) -> list[Row]:
    """The lines of a result file, none where there is no file; `InputError` with the place of one that is no object."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "settings" not in row:
            raise InputError(
                f"{path}:{number}: expected a result line, a JSON object with settings, got {line[:60]!r}; give the "
                ".jsonl file of a race"
            )
        rows.append(row)
    return rows


def record(path: Path, rows: Sequence[Row]) -> None:
    """Puts lines in the place of those with the same settings and machine, or at the end; all or none."""
    new = {key_of(row) for row in rows}
    kept = [row for row in read_rows(path) if key_of(row) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows]))


def key_of(row: Row) -> str:
    """Equal for two measurements of the same thing: settings and machine."""
    return json.dumps([row["settings"], row["machine"]], sort_keys=True)


def same_run(rows: Iterable[Row], like: Row) -> list[Row]:
    """The lines that may stand in one table with `like`: of its machine, device, threads, limit and form."""
    return [row for row in rows if _run_of(row) == _run_of(like)]


def _run_of(row: Row) -> tuple[Any, ...]:
    names = ["device", "threads", "form", "isa", "memory_mib", "along"]
    if row["benchmark"] == "race":  # a growth's limit is as long as its model takes
        names.append("max_length")
    return (row["benchmark"], row["machine"], *(row["settings"].get(name) for name in names))


def agreement(scores: Sequence[float], reference: Sequence[float] | None) -> Row:
    """Spearman correlation with the reference's scores and the largest difference, over as many as both have."""
    if not reference or not scores:
        return {"spearman": None, "max_difference": None}
    count = min(len(scores), len(reference))
    mine, theirs = np.asarray(scores[:count]), np.asarray(reference[:count])
    if count < 2:
        spearman = None
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(np.corrcoef(_ranks(mine), _ranks(theirs))[0, 1])
        spearman = round(value, 6) if np.isfinite(value) else None
    return {"spearman": spearman, "max_difference": float(f"{np.abs(mine - theirs).max():.3g}")}


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (ends - 1 + ends - counts) / 2
    return means[place]
