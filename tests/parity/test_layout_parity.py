"""Every way a checkpoint is stored loads to the same scores as in sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
import sentence_transformers
from torch import nn

import standins
from runoff import CrossEncoder, Embedder
from standin_texts import sample_candidates, tricky_pairs

PAIRS = [*sample_candidates(1, 16, longest_words=60)[0].pairs, *tricky_pairs()[::5]]
TOLERANCE = 1e-4


def assert_scored_alike(folder, **reference_options):
    """`predict` of both libraries, with the checkpoint's own activation and with none."""
    ours = CrossEncoder(folder, precision="fp32")
    reference = sentence_transformers.CrossEncoder(str(folder), device="cpu", **reference_options)
    raw = ours.predict(PAIRS, activation_fn=nn.Identity())
    expected = reference.predict(PAIRS, activation_fn=nn.Identity())
    assert expected.std() > 0.5
    np.testing.assert_allclose(raw, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours.predict(PAIRS), reference.predict(PAIRS), rtol=0, atol=TOLERANCE)


def test_module_names_from_before_5_4(checkpoint, tmp_path):
    folder = standins.copied(checkpoint("tiny-ettin"), tmp_path / "old")
    standins.use_old_module_names(folder)
    assert "sentence_transformers.models.Pooling" in (folder / "modules.json").read_text("utf-8")
    assert_scored_alike(folder)


def test_pooling_written_as_booleans(checkpoint, tmp_path):
    folder = standins.copied(checkpoint("tiny-ettin"), tmp_path / "old")
    standins.use_old_pooling_config(folder)
    assert_scored_alike(folder)


def test_module_type_of_a_namespace_that_no_longer_exists(checkpoint, tmp_path):
    """`sentence_transformers.base.models.X` stands in published checkpoints; no release can import it."""
    folder = standins.copied(checkpoint("tiny-ettin"), tmp_path / "odd")
    path = folder / "modules.json"
    text = path.read_text("utf-8").replace(
        "sentence_transformers.base.modules.", "sentence_transformers.base.models."
    )
    path.write_text(text, "utf-8")
    expected = CrossEncoder(checkpoint("tiny-ettin"), precision="fp32").predict(PAIRS)
    np.testing.assert_array_equal(CrossEncoder(folder, precision="fp32").predict(PAIRS), expected)


@pytest.mark.parametrize("name", ["tiny-ettin", "tiny-bert"])
def test_weights_stored_in_bf16(name, checkpoint, tmp_path):
    folder = standins.copied(checkpoint(name), tmp_path / "bf16")
    standins.store_as_bf16(folder)
    full, half = (
        sum(file.stat().st_size for file in place.rglob("*.safetensors"))
        for place in (checkpoint(name), folder)
    )
    assert half < 0.51 * full
    assert_scored_alike(folder, model_kwargs={"dtype": "float32"})


def test_rope_settings_from_before_transformers_5(checkpoint, tmp_path):
    folder = standins.copied(checkpoint("tiny-ettin"), tmp_path / "old")
    thetas = {"global_rope_theta": 80000.0, "local_rope_theta": 5000.0}
    standins.edit_json(folder / "config.json", remove=("rope_parameters", "layer_types"), **thetas)
    assert_scored_alike(folder)
    changed = CrossEncoder(folder, precision="fp32").predict(PAIRS)
    unchanged = CrossEncoder(checkpoint("tiny-ettin"), precision="fp32").predict(PAIRS)
    assert np.abs(changed - unchanged).max() > 0.01, "the settings make no difference: nothing was tested"


def test_classic_layout_without_a_named_activation_answers_with_a_sigmoid(checkpoint, tmp_path):
    folder = standins.copied(checkpoint("tiny-bert"), tmp_path / "plain")
    keys = ("sentence_transformers", "sbert_ce_default_activation_function")
    standins.edit_json(folder / "config.json", remove=keys)
    assert_scored_alike(folder)
    scores = CrossEncoder(folder, precision="fp32").predict(PAIRS)
    assert 0 < scores.min() < scores.max() < 1


@pytest.mark.parametrize("name", ["deberta", "causal"])
def test_other_architectures_are_delegated_with_equal_scores(name, checkpoint):
    folder = checkpoint(name)
    ours = CrossEncoder(folder)
    assert ours.choice.engine == "sentence-transformers"
    reference = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    scores, expected = ours.predict(PAIRS), reference.predict(PAIRS)
    assert expected.std() > 0
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_embedder_with_old_module_names_and_booleans(checkpoint, tmp_path):
    folder = standins.copied(checkpoint("bert-cls"), tmp_path / "old")
    standins.use_old_module_names(folder)
    standins.use_old_pooling_config(folder)
    texts = [document for _, document in PAIRS]
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = Embedder(folder, precision="fp32").encode(texts)
    np.testing.assert_allclose(ours, reference.encode(texts), rtol=0, atol=TOLERANCE)
