"""Small shapes, checkpoints and result lines for the tests of races."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from runoff.bench.pairs import PairSet, made_pairs
from runoff.bench.plan import Plan
from runoff.bench.process import Places
from runoff.bench.record import Circumstances
from runoff.bench.shapes import SHAPES, Shape
from runoff.bench.specs import Settings

MACHINE = {"cpu": "Test", "cores": 2, "system": "Linux", "instruction_sets": ["avx2"]}


def small_shape(published: str, **sizes: Any) -> Shape:
    """The model `published` with two layers and 64 numbers a token."""
    small = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 96, "hub_id": "", **sizes}
    return dataclasses.replace(SHAPES[published], **small)


def plan_of(folder: Path, models: list[Path | str], engines: list[str], **changes: Any) -> Plan:
    """A race of these models with eight stand-in pairs, in `folder`."""
    changes.setdefault("count", 8)
    return Plan(
        models=[str(model) for model in models],
        engines=engines,
        settings=changes.pop("settings", Settings(1, 128)),
        places=Places(folder / "cache"),
        circumstances=Circumstances(MACHINE, "runoff race"),
        file=folder / "race.jsonl",
        is_named=True,
        **changes,
    )


def pair_set(model: Path, count: int = 8) -> PairSet:
    return PairSet(made_pairs(model, count), "test")


def race_row(model: str, engine: str, rate: float, **changes: Any) -> dict[str, Any]:
    """A line of a race as it is written, with round figures."""
    settings = {
        "model": model,
        "weights": "random",
        "engine": engine,
        "device": "cpu",
        "threads": 2,
        "max_length": 512,
        "memory_mib": None,
        "isa": None,
        "form": "full",
        "passes": 3,
        "pairs": 100,
        "source": "stand-in",
        "digest": "0123abcd",
    }
    row = {
        "benchmark": "race",
        "settings": settings | changes.pop("settings", {}),
        "parameters": 17_000_000,
        "family": "modernbert",
        "why_random": "as asked",
        "why_stand_in": "no network",
        "precision": "fp32",
        "attention": "packed",
        "pairs": 100,
        "tokens": 14_800,
        "mean_tokens": 148.0,
        "median_tokens": 112.0,
        "most_tokens": 512,
        "timed_pairs": 100,
        "size": 1024,
        "unit": "tokens",
        "pairs_a_second": rate,
        "seconds": [100 / rate] * 3,
        "median_seconds": 100 / rate,
        "spread": 0.0,
        "sizes": [],
        "ended": None,
        "tokenize_seconds": 0.01,
        "pairs_a_second_of_ids": None,
        "peak_mib": 954.0,
        "watts": None,
        "pairs_a_joule": None,
        "gflops_a_pair": 1.5,
        "gflops_needed_a_pair": 1.25,
        "tflops": 1.5 * rate / 1e3,
        "peak_tflops": None,
        "utilisation": None,
        "first_scores": [1.0, 2.0],
        "spearman": 1.0,
        "max_difference": 1e-5,
        "about": {},
        "machine": MACHINE,
        "versions": {"runoff": "1"},
        "command": "runoff race",
        "date": "2026-11-25",
    }
    return row | changes
