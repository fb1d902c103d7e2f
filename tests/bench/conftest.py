"""Checkpoints in small shapes, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.bench.random_weights import random_checkpoint
from standin_race import small_shape


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ettin's layout with two layers; never to be edited."""
    return random_checkpoint(small_shape("17m", name="small"), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT's layout with two layers; never to be edited."""
    return random_checkpoint(small_shape("MiniLM-L4", name="other"), tmp_path_factory.mktemp("other"))
