"""The format of quantized checkpoints: aligned, complete, and refused wherever it is damaged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runoff import CrossEncoder
from runoff.checkpoint.card import CardFacts, model_card
from runoff.checkpoint.layout import load_weights, read_checkpoint
from runoff.checkpoint.quantized import (
    PACKED_WEIGHTS,
    QUANTIZATION,
    load_quantized,
    narrowed_table,
    read_quantization,
    write_quantized,
)
from runoff.checkpoint.weights import Tensor, Weights
from runoff.contracts import CheckpointError, InputError, ScoreError
from runoff.engine.native import native_module
from runoff.model import ModelOptions, find
from runoff.quantize import Order, quantize

Tiny = Callable[[str], Path]
PAIRS = [("a query", "a document of some words"), ("another", "text")]

pytestmark = pytest.mark.skipif(native_module() is None, reason="needs the native engine")


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized tiny bert with matrices of both kinds; never to be edited."""
    out = tmp_path_factory.mktemp("quantized") / "bert-int8"
    quantize(find(tiny("bert"), "reranker", ModelOptions()), Order("bert", out, "int8", 0.02, "1.2.3"))
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def put(file: Path, data: bytes) -> None:
    """A file of its own: the old one may still be mapped."""
    file.unlink()
    file.write_bytes(data)


def rewritten(folder: Path, weights: Weights) -> None:
    """The checkpoint with these weights."""
    about = json.loads((folder / QUANTIZATION).read_text())
    for name in (PACKED_WEIGHTS, QUANTIZATION):
        (folder / name).unlink()
    write_quantized(folder, weights, {key: about[key] for key in ("role", "precision")})


def changed(folder: Path, change: Callable[[dict[str, Any]], None], everywhere: bool = True) -> None:
    """Edits the description, and the metadata that repeat it."""
    about = json.loads((folder / QUANTIZATION).read_text())
    change(about)
    (folder / QUANTIZATION).write_text(json.dumps(about))
    if everywhere:
        raw = (folder / PACKED_WEIGHTS).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        header["__metadata__"]["runoff_quantization"] = json.dumps(about)
        text = json.dumps(header).encode()
        put(folder / PACKED_WEIGHTS, len(text).to_bytes(8, "little") + text + raw[8 + size :])


def test_safetensors_itself_reads_the_file_and_data_begin_aligned(made: Path) -> None:
    raw = (made / PACKED_WEIGHTS).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert (8 + size) % 64 == 0
    about = json.loads((made / QUANTIZATION).read_text())
    assert json.loads(header.pop("__metadata__")["runoff_quantization"]) == about
    for name, entry in header.items():
        alignment = 64 if name.endswith((".panels", ".scales")) else 4 if entry["dtype"] == "F32" else 2
        assert entry["data_offsets"][0] % alignment == 0, name
    assert set(header) == set(load_tensors(made))
    assert {entry["kind"] for entry in about["matrices"].values()} == {"i8", "i16"}


def load_tensors(folder: Path) -> dict[str, Any]:
    """Tensors by the safetensors library, the token table (bfloat16, which numpy lacks) as its name alone."""
    from safetensors import safe_open

    with safe_open(str(folder / PACKED_WEIGHTS), framework="np") as file:
        names = set(file.keys())
        return {name: None if name.startswith("embed.token") else file.get_tensor(name) for name in names}


def test_panels_are_mapped_and_not_copied(made: Path) -> None:
    weights = load_weights(read_checkpoint(made, "reranker"))
    assert len(weights.packed) == 12
    for matrix in weights.packed.values():
        assert isinstance(matrix.panels, np.memmap)
        assert matrix.panels.ctypes.data % 64 == 0


def test_what_is_written_is_read_back(tiny: Tiny, tmp_path: Path, made: Path) -> None:
    checkpoint = read_checkpoint(made, "reranker")
    weights, about = load_weights(checkpoint), json.loads((made / QUANTIZATION).read_text())
    write_quantized(tmp_path, weights, {"role": "reranker", "precision": "int8", "note": "ü"})
    quantization = read_quantization(tmp_path, checkpoint.model, "reranker")
    assert quantization is not None
    assert quantization.about["note"] == "ü"
    assert quantization.about["matrices"] == about["matrices"]
    again = load_quantized(tmp_path, checkpoint.model, quantization)
    assert set(again) == set(weights)
    for name in weights:
        np.testing.assert_array_equal(again.table(name).data, weights.table(name).data)


@pytest.mark.parametrize("stored", ["F32", "F16"])
def test_the_token_table_is_stored_in_16_bits(stored: str) -> None:
    import torch

    values = np.random.default_rng(0).normal(size=(50, 8)).astype("f4" if stored == "F32" else "f2")
    found = narrowed_table(Weights({"embed.token.weight": Tensor(values, stored)}))
    if stored == "F16":
        assert found.data is values
    else:
        wanted = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
        assert found.stored_type == "BF16"
        np.testing.assert_array_equal(found.data, wanted)


def test_a_folder_without_a_description_is_no_quantized_one(tiny: Tiny) -> None:
    assert read_checkpoint(tiny("bert"), "reranker").quantization is None


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about.update(format_version=2), "format version 2, this Runoff reads 1"),
        (lambda about: about.update(role="embedder"), "load it with runoff.Embedder"),
        (lambda about: about.update(precision="int4"), "expected a precision of int8, bf16"),
        (lambda about: about.update(crc32=None), "whole number as crc32"),
        (lambda about: about.update(crc32=7), "fails its checksum"),
        (lambda about: about.update(matrices=[]), "does not list the 12 matrices"),
        (lambda about: about["matrices"].pop("0.qkv"), "does not list the 12 matrices"),
        (lambda about: about["matrices"]["0.qkv"].update(kind="i4"), "0.qkv must have a kind"),
        (lambda about: about["matrices"]["0.qkv"].update(outputs=-1), "0.qkv must have a kind"),
        (lambda about: about["matrices"]["0.qkv"].update(outputs=True), "0.qkv must have a kind"),
        (lambda about: about["matrices"]["0.qkv"].update(inputs=64), "0.qkv.panels is U8"),
        (lambda about: about["matrices"]["0.qkv"].update(kind="f32"), "unexpected 0.qkv.scales"),
        # As many bytes, and another matrix.
        (
            lambda about: about["matrices"]["2.qkv"].update(inputs=about["matrices"]["2.qkv"]["inputs"] - 1),
            "2.qkv is packed with",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    changed(copy, change)
    with pytest.raises(CheckpointError, match=said):
        CrossEncoder(copy)


def test_files_of_two_checkpoints_are_refused(copy: Path) -> None:
    changed(copy, lambda about: about.update(runoff_version="other"), everywhere=False)
    with pytest.raises(CheckpointError, match="say different things"):
        CrossEncoder(copy)


@pytest.mark.parametrize("name", [PACKED_WEIGHTS, QUANTIZATION])
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        CrossEncoder(copy)


def test_tensors_missing_extra_and_misshapen_are_named(copy: Path) -> None:
    checkpoint = read_checkpoint(copy, "reranker")
    assert checkpoint.quantization is not None
    weights = load_weights(checkpoint)
    tensors = {name: weights.table(name) for name in weights if name != "0.attn_norm.bias"}
    tensors |= {"stray": Tensor(np.zeros(3, np.float32), "F32")}
    tensors["1.attn_norm.bias"] = Tensor(np.zeros(3, np.float32), "F32")
    rewritten(copy, Weights(tensors, weights.packed))
    with pytest.raises(CheckpointError) as refused:
        CrossEncoder(copy)
    for said in ("missing 0.attn_norm.bias", "unexpected stray", "1.attn_norm.bias is F32 [3]"):
        assert said in str(refused.value)


def test_scales_that_are_not_finite_are_refused(copy: Path) -> None:
    checkpoint = read_checkpoint(copy, "reranker")
    assert checkpoint.quantization is not None
    weights = load_weights(checkpoint)
    scales = weights.packed["0.qkv"].scales
    assert scales is not None
    broken = np.array(scales)
    broken[3] = np.inf
    object.__setattr__(weights.packed["0.qkv"], "scales", broken)
    rewritten(copy, weights)
    with pytest.raises(CheckpointError, match=r"0\.qkv cannot be used.*not a finite number"):
        CrossEncoder(copy)


def test_a_safetensors_file_that_another_wrote_is_refused(copy: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, str(copy / PACKED_WEIGHTS))
    assert load_file(copy / PACKED_WEIGHTS)
    with pytest.raises(CheckpointError, match="say different things"):
        CrossEncoder(copy)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_an_error_or_harmless_never_a_crash(copy: Path, seed: int) -> None:
    """Ten damages a seed: bytes changed in the header, the description, the data; ends cut off, bytes added."""
    chance = random.Random(seed)
    whole = {name: (copy / name).read_bytes() for name in (PACKED_WEIGHTS, QUANTIZATION)}
    header = 8 + int.from_bytes(whole[PACKED_WEIGHTS][:8], "little")
    for _ in range(10):
        name = chance.choice([PACKED_WEIGHTS, PACKED_WEIGHTS, QUANTIZATION])
        data = bytearray(whole[name])
        damage = chance.choice(["header", "anywhere", "tail", "cut", "added"])
        if damage == "cut":
            del data[
                chance.choice([0, 4, 8, header - 1, header, chance.randrange(len(data)), len(data) - 1]) :
            ]
        elif damage == "added":
            data += bytes([chance.randrange(256)])
        else:
            end = min(header, len(data)) if damage == "header" else len(data)
            start = max(0, len(data) - 200) if damage == "tail" else 0
            for _ in range(chance.choice([1, 1, 1, 5])):
                data[chance.randrange(start, end)] = chance.randrange(256)
        put(copy / name, data)
        # Harmless: white space, a digit of what is only told. A number in the token table may make scores infinite.
        with suppress(CheckpointError, InputError, ScoreError):
            assert CrossEncoder(copy).predict(PAIRS).shape == (len(PAIRS),)
        put(copy / name, whole[name])


# --- the model card --------------------------------------------------------------------------------------------

ABOUT = {
    "runoff_version": "1.2.3",
    "role": "reranker",
    "precision": "int8",
    "source": {"name": "org/model", "sha256": {}},
    "smoothed": ["attn_out"],
    "measured": {
        "on": "24 pairs",
        "noise": 0.0123,
        "target": 0.02,
        "spearman": 0.99,
        "largest_difference": 0.5,
        "plain_noise": 0.0456,
        "smoothing_trials": {"attn_out": 0.0345},
    },
}


def card(readme: str | None) -> str:
    kinds = {"0.qkv": "i8", "0.mlp_out": "i16"}
    return model_card(readme, CardFacts(ABOUT, kinds, 4_000_000, 1_000_000, "runoff quantize a b", "b"))


def test_a_card_says_what_was_measured() -> None:
    text = card(None)
    for said in (
        "0.0123",
        "0.0456",
        "attn_out 0.0345",
        "4.0 MB | 1.0 MB",
        "runoff quantize a b",
        "`0.mlp_out`",
    ):
        assert said in text
    assert "sentence-transformers and transformers cannot load it" in text
    assert text.startswith("---\nbase_model: org/model\nlibrary_name: runoff\n---\n")


def test_a_card_keeps_licence_and_tags_and_drops_results() -> None:
    text = card(
        "---\nlicense: mit\nlibrary_name: sentence-transformers\ntags:\n- sentence-transformers\n- reranker\n"
        "base_model:\n- org/first\nmodel-index:\n- name: x\n  results: []\n---\n# Title\nlicense: none\n"
    )
    front = text.split("---\n")[1]
    assert front == ("license: mit\nbase_model:\n- org/first\nlibrary_name: runoff\ntags:\n- reranker\n")
