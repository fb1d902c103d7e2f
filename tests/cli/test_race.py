"""`runoff race`, as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff.bench.random_weights import random_checkpoint
from standin_race import race_row, small_shape

Shell = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(small_shape("17m", name="small"), tmp_path_factory.mktemp("small"))


@pytest.fixture
def race(shell: Shell, model: Path, tmp_path: Path) -> Callable[..., Any]:
    """race(option, ...) of the small model on one engine with four pairs."""
    fixed = ("--models", model, "--engines", "runoff-fp32", "--cache", tmp_path / "cache", "--device", "cpu")
    return lambda *words: shell("race", *fixed, "--threads", "1", *words)


def test_a_race_writes_lines_a_page_and_a_picture(race: Callable[..., Any], tmp_path: Path) -> None:
    answer = race("--count", "4", "--out", "raced")
    assert answer.code == 0
    assert sorted(path.name for path in (tmp_path / "raced").iterdir()) == [
        "race.jsonl",
        "race.md",
        "race.svg",
    ]
    assert "runoff-fp32" in answer.out


def test_a_race_answers_programs_with_its_lines(race: Callable[..., Any], model: Path) -> None:
    (row,) = race("--count", "4", "--json").json_lines
    assert (row["settings"]["model"], row["settings"]["pairs"]) == (model.name, 4)


def test_the_recorded_command_is_the_typed_one_without_places(race: Callable[..., Any], model: Path) -> None:
    (row,) = race("--count", "4", "--json").json_lines
    expected = f"runoff race --models {model.name} --count 4 --device cpu --threads 1 --engines runoff-fp32"
    assert row["command"] == expected


def test_pairs_of_one_s_own_are_scored(race: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("who wrote Emma\tJane Austen\nwho wrote Emma\tEmma Stone\n")
    (row,) = race("--pairs", "mine.tsv", "--json").json_lines
    assert (row["settings"]["source"], row["settings"]["pairs"]) == ("mine.tsv", 2)


def test_more_pairs_than_there_are_cannot_be_asked_for(race: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("query\tdocument\n")
    answer = race("--pairs", "mine.tsv", "--count", "3")
    assert answer.code == 2
    assert "mine.tsv holds 1 pairs, 3 were asked for" in answer.err


def test_an_earlier_race_stands_beside_the_new_one(
    race: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.jsonl").write_text(json.dumps(race_row(model.name, "runoff-fp32", 1.0)) + "\n")
    answer = race("--count", "4", "--compare", "old.jsonl")
    assert answer.code == 0
    assert "hardware" in answer.out


def test_a_race_to_compare_with_must_be_there(race: Callable[..., Any]) -> None:
    race("--compare", "nowhere.jsonl").check_refused(2, "nowhere.jsonl", "found nothing")


def test_latency_and_growth_have_files_of_their_own(race: Callable[..., Any], tmp_path: Path) -> None:
    assert race("--quick", "--latency", "--out", ".").code == 0
    assert race("--quick", "--growth", "documents", "--out", ".", "--name", "mine").code == 0
    names = {path.name for path in tmp_path.glob("*.jsonl")}
    assert names == {"race_latency.jsonl", "mine_growth_documents.jsonl"}


def test_an_unknown_engine_is_refused_with_those_that_there_are(shell: Shell) -> None:
    shell("race", "--engines", "warp").check_refused(
        2, "unknown engine warp; there are", "runoff-int8", "st-fp32"
    )


def test_an_unknown_device_is_refused(shell: Shell) -> None:
    shell("race", "--device", "tpu").check_refused(2, "expected cpu, cuda or cuda:N", "'tpu'")


def test_a_model_that_is_not_there_is_refused(shell: Shell) -> None:
    shell("race", "--models", "./nowhere", "--device", "cpu").check_refused(2, "no folder './nowhere'")


def test_a_race_that_is_left_out_whole_says_so(race: Callable[..., Any], tmp_path: Path) -> None:
    answer = race("--engines", "st-bf16-fa2", "--count", "4", "--json")
    (row,) = answer.json_lines
    assert row["left_out"] == "runs on cuda only"


def test_an_interrupted_race_keeps_what_was_measured_and_leaves_no_process(
    model: Path, tmp_path: Path
) -> None:
    second = random_checkpoint(small_shape("MiniLM-L4", name="second"), tmp_path / "made")
    command = [sys.executable, "-m", "runoff", "race", "--models", f"{model},{second}", "--count", "4"]
    command += [
        "--engines",
        "runoff-fp32",
        "--device",
        "cpu",
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        "raced",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"runoff: {second.name}: "):  # the first model is done, the second has begun
            process.send_signal(signal.SIGINT)
            break
    assert "interrupted" in process.stderr.read()
    assert process.wait(timeout=60) == 130
    rows = [json.loads(line) for line in (tmp_path / "raced" / "race.jsonl").read_text().splitlines()]
    assert [row["settings"]["model"] for row in rows] == [model.name]
    assert model.name in (tmp_path / "raced" / "race.md").read_text()
