"""Batches on their way to a device: laid out so that nothing is compiled or launched twice, and as its operators
want them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import standins
from runoff.checkpoint.config import EncoderConfig
from runoff.checkpoint.layout import load_weights, read_checkpoint
from runoff.contracts import Batch
from runoff.engine.torch_attention import Flash, varlen
from runoff.engine.torch_kernels import FP8, Eager, Rows, kernels_for
from runoff.engine.torch_model import Format, TorchModel
from runoff.engine.torch_staging import Shape, bucket_of, read, written
from standins import EncoderShape

OFFSETS = np.array([0, 5, 12, 13], np.int32)
POSITIONS = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0], np.int32)


def small_batch() -> Batch:
    ids = np.arange(100, 113, dtype=np.int32)
    return Batch(ids, (POSITIONS > 2).astype(np.int32), POSITIONS, OFFSETS, np.arange(3))


@pytest.fixture(scope="module", params=["ettin", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param) / "small"
    if request.param == "ettin":
        return standins.build_ettin_reranker(place, "17m", layers=4)
    return standins.build_bert_classifier(place, shape=EncoderShape(64, 3, 96, 2))


def encoder_of(folder: Path) -> EncoderConfig:
    encoder = read_checkpoint(folder, "reranker").model.encoder
    assert isinstance(encoder, EncoderConfig)
    return encoder


@pytest.mark.parametrize("shape", [Shape(13, 3, 3, 0), Shape(18, 6, 5, 0)])
def test_a_staged_batch_is_read_as_it_was_written(folder: Path, shape: Shape) -> None:
    encoder = encoder_of(folder)
    is_bert, batch = encoder.family == "bert", small_batch()
    numbers = torch.full((shape.numbers(is_bert),), -7, dtype=torch.int32)
    written(batch, shape, encoder, numbers.numpy())
    staged = read(numbers, shape, is_bert, batch.offsets)
    spare, more = shape.tokens - 13, shape.sequences - 3
    assert staged.ids.tolist() == [*range(100, 113), *[0] * spare]
    assert staged.positions.tolist() == [*POSITIONS, *[0] * spare]
    assert staged.sequences.offsets.tolist() == [0, 5, 12, 13, *[13] * more]
    assert staged.sequences.first.tolist() == [0, 5, 12, *[min(13, shape.tokens - 1)] * more]
    assert staged.sequences.tiles is not None
    assert staged.sequences.tiles.tolist() == [[0, 0], [1, 0], [2, 0], *[[-1, -1]] * (shape.tiles - 3)]
    assert (staged.segments is not None) == is_bert
    if staged.segments is not None:
        assert staged.segments.tolist() == [*(POSITIONS > 2).astype(int), *[0] * spare]


def test_every_part_begins_at_sixteen_bytes(folder: Path) -> None:
    """Triton compiles a kernel anew for pointers that are aligned to them and for those that are not."""
    shape, is_bert = Shape(13, 3, 3, 0), encoder_of(folder).family == "bert"
    numbers = torch.zeros(shape.numbers(is_bert), dtype=torch.int32)
    staged = read(numbers, shape, is_bert, OFFSETS)
    parts = [staged.positions, staged.segments, staged.sequences.offsets, staged.sequences.tiles]
    places = [part.data_ptr() - numbers.data_ptr() for part in parts if part is not None]
    assert len(places) == (4 if is_bert else 3)
    assert [place % 16 for place in places] == [0] * len(places)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, FP8])
@pytest.mark.parametrize("tokens", [100, 5_000])
def test_what_a_card_computes_fits_together(folder: Path, dtype: torch.dtype, tokens: int) -> None:
    """On PyTorch's device without numbers, where FlashAttention's and fp8's operators check what they are given."""
    checkpoint, device = read_checkpoint(folder, "reranker"), torch.device("meta")
    kernels = Eager(dtype)
    model = TorchModel(
        checkpoint.model,
        load_weights(checkpoint),
        Format(device, dtype),
        kernels,
        Flash(kernels, varlen, "varlen"),
    )
    shape = bucket_of(Shape(tokens, 9, 0, 90))
    is_bert = encoder_of(folder).family == "bert"
    with torch.inference_mode():
        model.reach(128)
        numbers = torch.empty(shape.numbers(is_bert), dtype=torch.int32, device=device)
        outputs = model(read(numbers, shape, is_bert, np.zeros(1, np.int32)))
    assert outputs.shape == (16, 1)
    assert outputs.dtype == torch.float32


def test_attention_with_gradients_takes_what_the_one_without_takes() -> None:
    query, key, value = torch.empty(3, 40, 2, 64, dtype=torch.bfloat16, device="meta").unbind()
    ends = torch.empty(4, dtype=torch.int32, device="meta")
    for window in (None, 64):
        found = varlen(query, key, value, (ends, ends), (20, 20), window, 0.1)
        assert found.shape == (40, 2, 64)
        assert found.dtype == torch.bfloat16


def test_rows_in_fp8_are_picked_with_their_scales() -> None:
    rows = Eager(FP8).rows(torch.tensor([[1.0, -2.0], [0.5, 0.25], [3.0, 96.0]]))
    picked = rows.at(torch.tensor([2, 0]))
    assert picked.scales is not None
    found = picked.values.float() * picked.scales[:, None]
    torch.testing.assert_close(found, torch.tensor([[3.0, 96.0], [1.0, -2.0]]), rtol=2**-4, atol=0)
    assert Rows(torch.tensor([[1.0], [2.0]])).at(torch.tensor([1])).values.tolist() == [[2.0]]


def test_kernels_that_do_not_run_on_a_device_give_way_to_pytorchs(caplog: pytest.LogCaptureFixture) -> None:
    kernels = kernels_for("auto", torch.device("cuda:63"), torch.float16)
    assert kernels.name == "torch"
    assert "do not run on cuda:63" in caplog.text
