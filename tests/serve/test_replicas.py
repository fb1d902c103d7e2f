"""How large batches are, by the engine and its speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.serve.replicas import Team
from runoff.serve.settings import Settings
from standin_served import MAX_LENGTH, word_model


@pytest.mark.parametrize(
    ("tokens_a_second", "expected"),
    [(100_000, 4096), (8192, 4096), (6000, 3000), (100, 1024)],
)
def test_batches_of_a_cpu_take_half_a_second_within_bounds(
    tmp_path: Path, tokens_a_second: int, expected: int
) -> None:
    team = Team(word_model(tmp_path), Settings())
    team.learn_engine(8192, "cpu")
    assert (team.token_budget, team.most_in_flight) == (4096, 1)
    team.learn_speed(4096, 4096 / tokens_a_second)
    assert team.token_budget == expected


def test_a_gpu_has_the_engine_s_own_batches_and_one_that_lies_ready(tmp_path: Path) -> None:
    team = Team(word_model(tmp_path), Settings())
    team.learn_engine(65_536, "cuda:0")
    team.learn_speed(65_536, 10.0)
    assert (team.token_budget, team.most_in_flight) == (65_536, 2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_are_as_large_as_was_asked_for(tmp_path: Path, device: str) -> None:
    team = Team(word_model(tmp_path), Settings(batch_tokens=300))
    team.learn_engine(8192, device)
    team.learn_speed(300, 100.0)
    assert team.token_budget == 300


def test_the_warm_up_is_a_full_batch_of_the_longest_pairs(tmp_path: Path) -> None:
    batch = word_model(tmp_path).warm_up(300)
    # Four pairs of 64 tokens in 300.
    assert batch.offsets.tolist() == [0, MAX_LENGTH, 2 * MAX_LENGTH, 3 * MAX_LENGTH, 4 * MAX_LENGTH]
    assert batch.positions.max() == MAX_LENGTH - 1


def test_a_probe_is_one_small_pair(tmp_path: Path) -> None:
    batch = word_model(tmp_path).warm_up(1)
    # Three special tokens, a word of the query, a word of the document.
    assert batch.offsets.tolist() == [0, 5]
