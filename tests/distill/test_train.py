"""Training: learns, goes on after a kill with the same losses, shares a batch over processes, keeps what is best."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder as Reference

from runoff import CrossEncoder
from runoff.contracts import InputError, UnsupportedModelError
from runoff.distill.recipe import Recipe
from runoff.distill.rows import checked_rows, split
from runoff.distill.run import Run
from runoff.distill.train import best_and_last, choice, deal, precision, steps_of
from standin_distil import labelled
from standin_tiny import TINY
from standin_tokenizers import minilm_folder

SCRIPT = Path(__file__).with_name("training.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def training():
    """The module behind `training.py`, in this process."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return labelled(tmp_path_factory.mktemp("rows") / "rows", 120, 8)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return TINY["bert-embedder"](tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def whole_run(training, rows, bert, tmp_path_factory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    training.start(rows, folder, bert)
    return folder


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in Run(folder).lines() if line["kind"] == "step"}


def command(rows: Path, folder: Path, backbone: Path, *fields: str) -> list[str]:
    return [str(SCRIPT), str(rows), str(folder), str(backbone), *fields]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


# --- what a run leaves -------------------------------------------------------------------------------


def test_a_run_says_what_it_was_and_what_it_found(whole_run):
    manifest = Run(whole_run).checked()
    assert manifest["rows"]["counts"] == {
        "rows": 960,
        "queries": 120,
        "trained_queries": 100,
        "held_out_queries": 20,
        "positives": 120,
    }
    assert (manifest["steps"], manifest["pairs"]) == (25, 800)
    assert manifest["tokens"] > 800 * 8
    assert [entry["step"] for entry in manifest["evaluations"]] == [5, 10, 15, 20, 25]
    assert set(manifest["evaluations"][0]["metrics"]) == {
        "held_out_loss",
        "held_out_spearman",
        "held_out_mrr",
    }
    assert sorted(losses(whole_run)) == list(range(1, 26))
    assert (whole_run / "curves.svg").stat().st_size > 1000
    assert list((whole_run / "tensorboard").rglob("events.*"))


def test_the_rate_warms_up_and_falls_to_nothing(training, rows, bert, tmp_path):
    training.start(rows, tmp_path / "run", bert, held_out=0, warmup=0.2)
    rates = [line["learning_rate"] for line in Run(tmp_path / "run").lines() if line["kind"] == "step"]
    peak = int(np.argmax(rates))
    assert peak == 6  # a fifth of 30 steps
    assert rates[peak] == pytest.approx(3e-3)
    assert rates[0] == 0.0
    assert np.all(np.diff(rates[peak:]) < 0)
    assert rates[-1] == pytest.approx(3e-3 / 24)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_model_scores_the_same_in_sentence_transformers_and_here(training, rows, bert, family, tmp_path):
    backbone = bert if family == "bert" else TINY["modernbert-embedder"](tmp_path / "modernbert")
    report = training.start(rows, tmp_path / "run", backbone, pooling="cls", epochs=0.3)
    pairs = [("bela mato", "bela mato dula"), ("bela", "sunos " * 40), ("nikel", "")]
    reference = Reference(str(report.model), device="cpu")
    expected = reference.predict(pairs, convert_to_numpy=True)
    assert [type(module).__name__ for module in reference] == [
        "Transformer",
        "Pooling",
        "Dense",
        "LayerNorm",
        "Dense",
    ]
    assert np.allclose(CrossEncoder(str(report.model), precision="fp32").predict(pairs), expected, atol=1e-4)


def test_training_lowers_the_loss_and_puts_judged_answers_in_front(training, rows, tmp_path):
    training.start(rows, tmp_path / "run", minilm_folder(), epochs=3, learning_rate=2e-4, head_rate=5.0)
    evaluations = [entry["metrics"] for entry in Run(tmp_path / "run").evaluations()]
    assert evaluations[-1]["held_out_loss"] < 0.6 * evaluations[0]["held_out_loss"]
    assert evaluations[-1]["held_out_spearman"] > 0.5
    assert evaluations[-1]["held_out_mrr"] > 0.7


def test_frozen_word_vectors_stay_as_they_were(training, rows, bert, tmp_path):
    from safetensors.numpy import load_file

    report = training.start(rows, tmp_path / "run", bert, epochs=0.3, frozen=("embeddings",))
    before, after = (load_file(folder / "model.safetensors") for folder in (bert, report.model))
    name = "embeddings.word_embeddings.weight"
    assert np.array_equal(before[name], after[name])
    assert not np.array_equal(
        before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"]
    )


def test_a_student_may_have_some_of_its_backbone_s_layers(training, rows, bert, tmp_path):
    report = training.start(rows, tmp_path / "run", bert, epochs=0.1, layers=2, held_out=0)
    config = json.loads((report.model / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert CrossEncoder(str(report.model)).predict([("bela", "mato")]).shape == (1,)


def test_more_layers_than_there_are_is_refused(training, rows, bert, tmp_path):
    with pytest.raises(InputError, match="at most the 3 layers"):
        training.start(rows, tmp_path / "run", bert, layers=4)


@pytest.mark.parametrize("loss", ["centred_mse", "margin_mse", "ranknet", "lambda", "listwise"])
def test_every_grouped_loss_trains(training, rows, bert, loss, tmp_path):
    report = training.start(rows, tmp_path / "run", bert, loss={loss: 1.0}, group=4, epochs=0.4)
    assert report.loss == report.loss
    assert report.steps == 10


def test_a_reranker_of_this_architecture_is_gone_on_with(training, rows, whole_run, tmp_path):
    report = training.start(
        rows, tmp_path / "run", whole_run / "model", epochs=0.04, learning_rate=1e-12, held_out=0
    )
    pairs = [("bela mato", "bela mato dula"), ("bela", "sunos")]
    before, after = (
        Reference(str(f), device="cpu").predict(pairs) for f in (whole_run / "model", report.model)
    )
    assert np.allclose(before, after, atol=1e-5)


def test_another_family_is_refused_with_what_to_do(training, rows, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(UnsupportedModelError, match="'roberta'"):
        training.start(rows, tmp_path / "run", folder)


# --- stopped and gone on with ------------------------------------------------------------------------


def test_a_killed_run_goes_on_with_the_losses_of_one_that_was_not(rows, bert, whole_run, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, *command(rows, folder, bert)], env=ENVIRONMENT, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    # Somewhere behind the second checkpoint, which may be in the middle of writing the third.
    while not Run(folder).checkpoint(10).joinpath("whole.json").exists():
        assert time.monotonic() < deadline, "no checkpoint came"
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Run(folder).manifest()["complete"]
    subprocess.run(
        [sys.executable, *command(rows, folder, bert)], env=ENVIRONMENT, check=True, capture_output=True
    )
    assert losses(folder) == losses(whole_run)
    assert Run(folder).evaluations() == Run(whole_run).evaluations()
    manifests = [Run(each).checked() for each in (folder, whole_run)]
    assert manifests[0]["pairs"] == manifests[1]["pairs"]
    assert manifests[0]["tokens"] == manifests[1]["tokens"]
    pairs = [("bela mato", "bela mato dula"), ("bela", "sunos")]
    scores = [Reference(str(each / "model"), device="cpu").predict(pairs) for each in (folder, whole_run)]
    assert np.array_equal(*scores)


def test_a_checkpoint_that_was_cut_short_is_not_gone_on_with(training, rows, bert, whole_run, tmp_path):
    folder = tmp_path / "run"
    training.start(rows, folder, bert)
    manifest = Run(folder).manifest()
    (folder / "run.json").write_text(json.dumps({**manifest, "complete": False}))
    for step in (20, 25):
        Run(folder).checkpoint(step).joinpath("whole.json").unlink()
        Run(folder).checkpoint(step).joinpath("model.safetensors").write_bytes(b"cut short")
    training.start(rows, folder, bert)
    assert losses(folder) == losses(whole_run)


def test_a_finished_run_is_not_trained_again(training, rows, bert, whole_run):
    before = (whole_run / "model" / "model.safetensors").stat().st_mtime_ns
    report = training.start(rows, whole_run, bert)
    assert report.steps == 25
    assert (whole_run / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused(training, rows, bert, whole_run):
    with pytest.raises(InputError, match=r"learning_rate \(0.003, now 0.001\)"):
        training.start(rows, whole_run, bert, learning_rate=1e-3)


def test_two_processes_share_the_batch_and_have_the_losses_of_one(rows, bert, whole_run, tmp_path):
    subprocess.run(
        [*TORCHRUN, *command(rows, tmp_path / "run", bert)], env=ENVIRONMENT, check=True, capture_output=True
    )
    check_same(whole_run, tmp_path / "run")


def test_two_processes_share_ragged_groups_too(training, rows, bert, tmp_path):
    # Of 8 rows a query in groups of 3 the last group has 2, and RankNet's pairs differ from process to process.
    training.start(
        rows, tmp_path / "alone", bert, loss={"ranknet": 1.0, "mse": 0.5}, group=3, global_batch=30
    )
    fields = ('loss={"ranknet": 1.0, "mse": 0.5}', "group=3", "global_batch=30")
    subprocess.run(
        [*TORCHRUN, *command(rows, tmp_path / "run", bert, *fields)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    check_same(tmp_path / "alone", tmp_path / "run")


def check_same(one: Path, other: Path) -> None:
    """The losses and counts of two runs agree, but for rounding."""
    alone, together = losses(one), losses(other)
    assert sorted(alone) == sorted(together)
    assert [together[step] for step in alone] == pytest.approx(list(alone.values()), rel=2e-3)
    manifests = [Run(each).checked() for each in (one, other)]
    assert manifests[0]["pairs"] == manifests[1]["pairs"]


# --- choosing ----------------------------------------------------------------------------------------


def entries(*values: float) -> list[dict]:
    return [{"step": 5 * place, "metrics": {"m": value}} for place, value in enumerate(values, start=1)]


def test_the_earliest_of_equally_good_checkpoints_is_the_best():
    assert best_and_last(entries(0.1, 0.4, 0.4, 0.2), "m") == (
        {"step": 10, "value": 0.4},
        {"step": 20, "value": 0.2},
    )


def test_the_comparison_decides_between_best_and_last_where_there_is_one():
    best, last = best_and_last(entries(0.4, 0.3), "m")
    assert choice(best, last) == "best"
    assert choice({**best, "compared": 0.5}, {**last, "compared": 0.6}) == "last"
    assert choice({**best, "compared": 0.5}, {**last, "compared": 0.5}) == "last"


def test_the_best_checkpoint_s_weights_are_kept(training, rows, bert, tmp_path):
    # A rate so high that it only gets worse.
    report = training.start(rows, tmp_path / "run", bert, learning_rate=0.5, head_rate=1.0)
    assert report.chosen == "best"
    assert report.best["step"] < report.last["step"]
    pairs = [("bela mato", "bela mato dula"), ("bela", "sunos")]
    best = tmp_path / "run" / "checkpoints" / f"checkpoint-{report.best['step']}"
    assert np.array_equal(
        *(Reference(str(each), device="cpu").predict(pairs) for each in (report.model, best))
    )


# --- plans -------------------------------------------------------------------------------------------


def test_a_batch_that_processes_cannot_share_is_refused(rows):
    found = checked_rows(rows)
    recipe = Recipe("b", learning_rate=1e-3, global_batch=32, group=4, loss={"listwise": 1.0})
    with pytest.raises(InputError, match="multiple of 12"):
        deal(found, split(found, 0, recipe), recipe, 3)


def test_rows_that_fill_no_batch_are_refused(rows):
    found = checked_rows(rows)
    recipe = Recipe("b", learning_rate=1e-3, global_batch=1024)
    with pytest.raises(InputError, match=r"960 rows to train on do not fill a batch of 1,024"):
        deal(found, split(found, 0, recipe), recipe)


def test_processes_take_the_steps_of_one(rows):
    found = checked_rows(rows)
    recipe = Recipe("b", learning_rate=1e-3, global_batch=64, epochs=2.0)
    parts = split(found, 0, recipe)
    assert {steps_of(deal(found, parts, recipe, size), recipe, size) for size in (1, 2, 4)} == {30}


def test_bf16_is_taken_only_where_the_processor_has_it():
    recipe = Recipe("b", learning_rate=1e-3, global_batch=64)
    assert precision(recipe, "cpu", ("avx2",)) == "fp32"
    assert precision(recipe, "cpu", ("avx512_bf16",)) == "bf16"
    assert precision(recipe.but(precision="bf16"), "cpu", ()) == "bf16"
