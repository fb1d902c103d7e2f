"""Two races side by side: what became faster, by how much, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runoff.bench.record import Row


@dataclass(frozen=True, slots=True)
class Change:
    """One model and engine in both races: pairs a second of each, and in what else they differ."""

    model: str
    engine: str
    old: float
    new: float
    differences: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.new / self.old


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """What both have, in the new one's order; of several old lines the last one of the same settings, else the last."""
    found = []
    for row in new:
        if "pairs_a_second" not in row:
            continue
        same = [each for each in old if "pairs_a_second" in each and _name(each) == _name(row)]
        if same:
            alike = [each for each in same if not differences(each, row)]
            before = (alike or same)[-1]
            rates = before["pairs_a_second"], row["pairs_a_second"]
            found.append(Change(*_name(row), *rates, tuple(differences(before, row))))
    return found


def _name(row: Row) -> tuple[str, str]:
    settings = row["settings"]
    # Lines of before `runoff race` call the model a shape.
    return str(settings.get("model", settings.get("shape"))), str(settings["engine"])


def differences(old: Row, new: Row) -> list[str]:
    """What of the circumstances is not the same: hardware, threads, limit, device, pairs, weights, versions."""
    found = []
    if _hardware(old) != _hardware(new):
        found.append("hardware")
    for name, word in (
        ("threads", "threads"),
        ("max_length", "max_length"),
        ("device", "device"),
        ("digest", "pairs"),
        ("pairs", "number of pairs"),
        ("weights", "weights"),
        ("isa", "instruction set"),
    ):
        if old["settings"].get(name) != new["settings"].get(name):
            found.append(word)
    if old.get("versions") != new.get("versions"):
        found.append("versions")
    return found


def _hardware(row: Row) -> tuple[Any, ...]:
    return row.get("machine"), row.get("about", {}).get("gpu")
