"""`runoff train` and `runoff distil`: rows to a model, all steps as one command, dry runs, sweeps, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.distill.run import Run
from standin_distil import labelled

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

SMALL = ("--batch", 16, "--group", 4, "--max-length", 64, "--every", 0.5, "--precision", "fp32")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return labelled(tmp_path / "rows", 24, 8)


@pytest.mark.slow
def test_rows_become_a_model_that_scores(shell: Shell, tiny: Tiny, rows: Path) -> None:
    facts = shell(
        "train", rows, "run", "--backbone", tiny("bert-embedder"), *SMALL, "--held-out", 4, "--json"
    ).json
    assert (facts["steps"], facts["pairs"]) == (10, 160)
    assert facts["metric"] == "held_out_spearman"
    assert facts["chosen"] in ("best", "last")
    assert CrossEncoder(facts["model"]).predict([("bela", "mato")]).shape == (1,)
    manifest = Run("run").checked()
    assert manifest["backbone"]["name"] == str(tiny("bert-embedder"))
    assert len(manifest["backbone"]["sha256"]) == 64
    assert manifest["versions"]["torch"]
    again = shell(
        "train", rows, "run", "--backbone", tiny("bert-embedder"), *SMALL, "--held-out", 4, "--json"
    ).json
    assert again == facts


@pytest.mark.slow
def test_rows_that_a_mixture_held_out_have_their_loss_measured(shell: Shell, tiny: Tiny, rows: Path) -> None:
    labelled(rows / "held-out", 6, 2)
    words = ("train", rows, "run", "--backbone", tiny("bert-embedder"), *SMALL, "--held-out", 4)
    assert shell(*words, "--json").json["metric"] == "held_out_spearman"
    assert {"tail_loss", "held_out_loss"} <= set(Run("run").evaluations()[-1]["metrics"])


@pytest.mark.slow
def test_the_journey_is_one_command(shell: Shell, tiny: Tiny, notes_index: Path) -> None:
    words = (
        *("distil", notes_index, "out", "--draw", "sentences", "--teacher", tiny("bert"), "--backbone"),
        *(tiny("bert-embedder"), "--head", 4, "--medium", 4, "--batch", 4, "--group", 2, "--held-out", 0),
    )
    facts = shell(*words, "--json").json
    names = [step["command"].split()[1] for step in facts["steps"]]
    assert names == ["collect", "teach", "label", "sample", "train", "publish"]
    assert facts["steps"][4]["facts"]["metric"] is None
    model = CrossEncoder(facts["model"])
    run = CrossEncoder("out/run/model")
    pairs = [("boiler", "The boiler is serviced."), ("roof", "Roses want sun.")]
    assert np.allclose(model.predict(pairs), run.predict(pairs), atol=0.1)  # bf16 weights
    again = shell(*words, "--json").json
    assert [step["command"].split()[1] for step in again["steps"]] == names[:-1]
    assert again["steps"][1]["facts"]["scored"] == 0


@pytest.mark.slow
def test_a_dry_run_says_what_it_will_take_and_writes_nothing(shell: Shell, tiny: Tiny, rows: Path) -> None:
    words = ("train", rows, "run", "--backbone", tiny("bert-embedder"), *SMALL, "--held-out", 4, "--dry-run")
    facts = shell(*words, "--json").json
    assert (facts["steps"], facts["pairs"]) == (10, 160)
    assert facts["tokens"][0] <= facts["tokens"][1] <= facts["tokens"][2] <= 64
    assert min(facts["memory"], facts["disk"], facts["seconds"], facts["pairs_per_second"]) > 0
    assert not Path("run").exists()
    assert "a dry run; nothing was written" in shell(*words).out


@pytest.mark.slow
def test_a_sweep_trains_each_rate_and_names_the_best(shell: Shell, tiny: Tiny, rows: Path) -> None:
    words = (
        "train",
        rows,
        "sweep",
        "--backbone",
        tiny("bert-embedder"),
        *SMALL,
        "--held-out",
        4,
        "--subset",
        0.5,
    )
    facts = shell(*words, "--sweep", "1e-4", "1e-3", "--json").json
    assert [entry["learning_rate"] for entry in facts["rates"]] == [1e-4, 1e-3]
    assert facts["best"] in (1e-4, 1e-3)
    assert facts["subset"] == 0.5
    assert Path("sweep/sweep.svg").stat().st_size > 1000
    assert Run("sweep/rate-0.001").checked()["rows"]["counts"]["trained_queries"] == 10


def test_what_a_run_cannot_be_is_refused(shell: Shell, tiny: Tiny, rows: Path) -> None:
    bert = tiny("bert-embedder")
    shell("train", rows, "run", "--backbone", bert, "--loss", "hinge").check_refused(2, "got 'hinge'")
    shell("train", rows, "run", "--backbone", bert, "--batch", 1024).check_refused(
        2, "do not fill a batch of 1,024"
    )
    shell("train", "none", "run", "--backbone", bert).check_refused(2, "expected a folder of labels at none")
    shell("train", rows, "run", "--backbone", "./none").check_refused(2, "no folder './none'")
    shell("train", rows, "run", "--backbone", bert, "--held-out", 24).check_refused(
        2, "fewer than the 24 queries"
    )
    shell("train", rows, rows, "--backbone", bert, *SMALL).check_refused(2, "found other files in it")
    shell("train", rows, "run", "--backbone", tiny("static")).check_refused(
        2, "Expected the folder of an encoder"
    )
    assert not Path("run/model").exists()


def test_nanobeir_that_cannot_be_reached_is_refused_with_what_else_there_is(
    shell: Shell, tiny: Tiny, rows: Path
) -> None:
    answer = shell(
        "train", rows, "run", "--backbone", tiny("bert-embedder"), *SMALL, "--evaluate", "nanobeir"
    )
    answer.check_refused(2, "it cannot be reached", "--evaluate held-out")


def test_a_journey_without_a_teacher_is_refused(shell: Shell, notes_index: Path) -> None:
    shell("distil", notes_index, "out", "--draw", "titles").check_refused(
        2, "at least one --teacher or --similarity"
    )
