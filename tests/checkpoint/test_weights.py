"""Weights are read from safetensors alone, checked for names and shapes, and equal what torch reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file, save_file

import standins
from runoff import CrossEncoder, Embedder
from runoff.checkpoint.weights import read_safetensors
from runoff.contracts import CheckpointError

PAIRS = [("what is mars", "a red planet"), ("apple", "apple was founded in cupertino"), ("", "")]


def scores_of(folder):
    return CrossEncoder(folder, precision="fp32").predict(PAIRS)


def reference_scores_of(folder):
    return sentence_transformers.CrossEncoder(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}
    ).predict(PAIRS)


def change(folder, edit, file="model.safetensors"):
    standins.change_tensors(folder / file, edit)


# --- what is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=lambda dtype: str(dtype)[6:]
)
def test_every_float_type_is_read_to_the_last_bit(dtype, tmp_path):
    # 3 and 5 elements: only the first tensor of a file is sure to be aligned.
    tensors = {name: torch.randn(size).to(dtype) for name, size in (("a", 3), ("b", 5), ("c", 7))}
    save_file(tensors, tmp_path / "x.safetensors")
    read = read_safetensors(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].float32(), tensor.float().numpy())
        np.testing.assert_array_equal(read[name].rows(np.array([2, 0])), tensor.float().numpy()[[2, 0]])


@pytest.mark.parametrize("name", ["ettin", "bert"])
def test_a_checkpoint_in_bf16_scores_as_the_reference_in_fp32(name, tiny_copy):
    folder = tiny_copy(name)
    before = scores_of(folder)
    standins.store_as_bf16(folder)
    np.testing.assert_allclose(scores_of(folder), reference_scores_of(folder), rtol=0, atol=1e-4)
    assert np.abs(scores_of(folder) - before).max() > 1e-4, "rounding to bf16 must show"


def test_weights_may_lie_in_several_files(tiny, tiny_copy):
    folder = tiny_copy("bert")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, chosen in parts.items() for name in chosen}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(scores_of(folder), scores_of(tiny("bert")))
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        scores_of(folder)


def test_the_old_names_of_a_layer_norm_are_known(tiny, tiny_copy):
    folder = tiny_copy("bert")

    def to_old(tensors):
        for name in [name for name in tensors if ".LayerNorm." in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[old] = tensors.pop(name)

    change(folder, to_old)
    np.testing.assert_array_equal(scores_of(folder), scores_of(tiny("bert")))


def test_training_leftovers_do_no_harm(tiny, tiny_copy):
    folder = tiny_copy("bert")

    def add(tensors):
        tensors["bert.embeddings.position_ids"] = torch.arange(512)
        tensors["cls.predictions.bias"] = torch.zeros(9)

    change(folder, add)
    np.testing.assert_array_equal(scores_of(folder), scores_of(tiny("bert")))


def test_an_encoder_reads_its_weights_under_any_prefix(tiny, tiny_copy):
    folder = tiny_copy("bert-embedder")

    def prefix(tensors):
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name)
        tensors["classifier.weight"] = torch.zeros(1, 32)

    change(folder, prefix)
    texts = ["a red planet", ""]
    np.testing.assert_array_equal(
        Embedder(folder).encode(texts), Embedder(tiny("bert-embedder")).encode(texts)
    )


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "ettin", "static"])
def test_pickled_weights_are_refused_and_never_opened(name, tiny_copy):
    folder = tiny_copy(name)
    path = next(folder.rglob("model.safetensors"))
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError, match=r"only as pytorch_model\.bin; Runoff never unpickles.*Convert"):
        (Embedder if name == "static" else scores_of)(folder)


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, -1])
def test_a_truncated_file_is_refused(kept, tiny_copy):
    folder = tiny_copy("bert")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file.*download"):
        scores_of(folder)


def test_a_corrupt_header_is_refused(tiny_copy):
    folder = tiny_copy("bert")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors file"):
        scores_of(folder)


@pytest.mark.parametrize(
    ("name", "file", "edit", "message"),
    [
        (
            "bert",
            "model.safetensors",
            lambda t: t.pop("bert.encoder.layer.1.output.dense.bias"),
            "missing bert.encoder.layer.1.output.dense.bias",
        ),
        ("bert", "model.safetensors", lambda t: t.pop("classifier.weight"), "missing classifier.weight"),
        ("ettin", "4_Dense/model.safetensors", lambda t: t.pop("linear.bias"), "missing linear.bias"),
        ("ettin", "3_LayerNorm/model.safetensors", lambda t: t.pop("norm.weight"), "missing norm.weight"),
        (
            "bert",
            "model.safetensors",
            lambda t: t.update({"classifier.weight": torch.zeros(1, 31)}),
            r"classifier.weight has shape \[1, 31\], expected \[1, 32\]",
        ),
        (
            "ettin",
            "model.safetensors",
            lambda t: t.update({"layers.0.attn.Wqkv.weight": torch.zeros(32, 96)}),
            r"layers.0.attn.Wqkv.weight has shape \[32, 96\], expected \[96, 32\]",
        ),
        (
            "bert",
            "model.safetensors",
            lambda t: t.update({"bert.encoder.layer.3.output.dense.bias": torch.zeros(32)}),
            "unexpected bert.encoder.layer.3.output.dense.bias",
        ),
        (
            "ettin",
            "2_Dense/model.safetensors",
            lambda t: t.update({"linear.bias": torch.zeros(32)}),
            "unexpected 2_Dense/linear.bias",
        ),
        (
            "bert",
            "model.safetensors",
            lambda t: t.update({"classifier.bias": torch.zeros(1, dtype=torch.int64)}),
            "classifier.bias is stored as I64",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(name, file, edit, message, tiny_copy):
    folder = tiny_copy(name)
    change(folder, edit, file)
    with pytest.raises(CheckpointError, match=message):
        scores_of(folder)


def test_a_missing_weights_file_is_refused(tiny_copy):
    folder = tiny_copy("ettin")
    (folder / "4_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"4_Dense/model\.safetensors is missing"):
        scores_of(folder)


def test_an_index_without_a_map_is_refused(tiny_copy):
    folder = tiny_copy("bert")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        scores_of(folder)


def test_a_type_that_no_engine_computes_with_is_refused(tiny_copy):
    folder = tiny_copy("bert")
    change(folder, lambda t: t.update({"classifier.bias": torch.zeros(1).to(torch.float8_e4m3fn)}))
    with pytest.raises(CheckpointError, match=r"classifier\.bias is stored as F8_E4M3"):
        scores_of(folder)
