"""Checkpoints with random weights are read by others as what they are meant to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.bench import random_weights
from runoff.bench.models import parameters_of
from runoff.bench.pairs import made_pairs
from runoff.bench.random_weights import SCORE_SPREAD, random_checkpoint
from runoff.bench.shapes import SHAPES, config_of
from standin_race import small_shape

KINDS = {
    "ettin": "17m",
    "modernbert": "gte-reranker-modernbert-base",
    "bert": "MiniLM-L6",
    "xlm-roberta": "bge-reranker-base",
}


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = small_shape(KINDS[request.param], vocabulary=SHAPES[KINDS[request.param]].vocabulary)
    return random_checkpoint(shape, tmp_path_factory.mktemp("made"))


def test_sentence_transformers_reads_the_same_model(checkpoint: Path) -> None:
    from sentence_transformers import CrossEncoder as Reference
    from torch import nn

    pairs = made_pairs(checkpoint, 8)
    ours = CrossEncoder(str(checkpoint), device="cpu", precision="fp32", max_length=512)
    theirs = Reference(str(checkpoint), device="cpu", max_length=512)
    expected = theirs.predict(pairs, activation_fn=nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(ours.predict(pairs, activation_fn="identity"), expected, atol=1e-4)


def test_scores_differ_from_pair_to_pair(checkpoint: Path) -> None:
    model = CrossEncoder(str(checkpoint), device="cpu", precision="fp32", max_length=512)
    scores = model.predict(made_pairs(checkpoint, 32), activation_fn="identity")
    assert np.std(scores) > SCORE_SPREAD / 4


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    shape = small_shape("17m", hidden=32, vocabulary=50368)
    folder = random_checkpoint(shape, tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert random_checkpoint(shape, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(random_weights, "_spread_scores", broken)
    with pytest.raises(KeyboardInterrupt):
        random_checkpoint(small_shape("17m"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_shape_gives_the_same_weights(tmp_path: Path) -> None:
    shape = small_shape("17m", hidden=32)
    first, second = (random_checkpoint(shape, tmp_path / name) for name in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_parameters_are_those_of_the_shape(tmp_path: Path) -> None:
    shape = small_shape("17m", vocabulary=50368)
    hidden, inner = 64, 96
    layer = 3 * hidden * hidden + hidden * hidden + 2 * inner * hidden + hidden * inner
    norms = 2 * hidden + 2 * hidden + hidden  # embedding and final; two MLP norms; layer 1's attention norm
    head = hidden * hidden + 2 * hidden + hidden + 1
    assert parameters_of(random_checkpoint(shape, tmp_path)) == 50368 * hidden + 2 * layer + norms + head


@pytest.mark.parametrize("name", ["17m", "150m", "1b"])
def test_ettin_sees_everything_in_every_third_layer(name: str) -> None:
    kinds = config_of(SHAPES[name])["layer_types"]
    assert [i for i, kind in enumerate(kinds) if kind == "full_attention"] == list(range(0, len(kinds), 3))


def test_another_kind_s_weights_are_left_to_who_makes_them(tmp_path: Path) -> None:
    made: list[str] = []

    def finish(folder: Path) -> None:
        made.append(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])

    folder = random_checkpoint(small_shape("mxbai-rerank-xsmall-v1"), tmp_path, finish)
    assert made == ["deberta-v2"]
    assert not (folder / "model.safetensors").exists()
