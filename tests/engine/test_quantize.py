"""Smoothing leaves the model what it is; what becomes int8 is decided by what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.checkpoint.config import EncoderConfig
from runoff.checkpoint.layout import Checkpoint, load_weights, read_checkpoint
from runoff.checkpoint.quantized import matrix_names
from runoff.checkpoint.weights import Tensor, Weights
from runoff.contracts import Batch, InputError
from runoff.engine.native import NativeEngine, Processor, arranged, native_module
from runoff.engine.packing import matrix_shape
from runoff.engine.quantize import Measures, Trials, by_sensitivity, plan_bf16, plan_int8
from runoff.engine.reference import ReferenceEngine
from runoff.engine.smoothing import PARTS, input_peaks, parts_to_smooth, smoothed
from runoff.model import ModelOptions, find, load_native_tokenizer
from runoff.selfcheck import check_batch, difference

Tiny = Callable[[str], Path]

needs_native = pytest.mark.skipif(native_module() is None, reason="needs the native engine")
FAMILIES = ("bert", "roberta", "ettin", "modernbert-cls", "modernbert-mean")


@pytest.fixture
def model(tiny: Tiny) -> Callable[[str], tuple[Checkpoint, Weights, Batch]]:
    def load(name: str) -> tuple[Checkpoint, Weights, Batch]:
        found = find(tiny(name), "reranker", ModelOptions())
        assert found.checkpoint is not None
        batch = check_batch(found.checkpoint, load_native_tokenizer(found, ModelOptions()))
        return found.checkpoint, load_weights(found.checkpoint), batch

    return load


def encoder_of(checkpoint: Checkpoint) -> EncoderConfig:
    assert isinstance(checkpoint.model.encoder, EncoderConfig)
    return checkpoint.model.encoder


def with_outliers(checkpoint: Checkpoint, weights: Weights, factor: float = 30.0) -> Weights:
    """The same model in fp32, with some channels large: in values, gates and norms, and small in what reads them."""
    encoder = encoder_of(checkpoint)
    changed: dict[str, Any] = {}
    for layer in range(encoder.layer_count):
        rows = {f"{layer}.qkv": 2 * encoder.hidden_size + 3}
        columns = {f"{layer}.attn_out": 3}
        if encoder.family == "modernbert":
            rows |= {f"{layer}.mlp_in": encoder.intermediate_size + 5, f"{layer}.mlp_norm": 7}
            columns |= {f"{layer}.mlp_out": 5, f"{layer}.mlp_in": 7}
        for stem, row in rows.items():
            for name in (f"{stem}.weight", f"{stem}.bias"):
                if name in weights:
                    changed.setdefault(name, weights[name].copy())[row] *= factor
        for stem, column in columns.items():
            changed.setdefault(f"{stem}.weight", weights[f"{stem}.weight"].copy())[:, column] /= factor
    tensors = {name: weights.table(name) for name in weights}
    return Weights(tensors | {name: Tensor(array, "F32") for name, array in changed.items()})


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, "attn_out") for name in FAMILIES]
    + [(name, part) for name in ("ettin", "modernbert-cls") for part in PARTS if part != "attn_out"],
)
def test_smoothing_leaves_fp32_outputs_as_they_are(model: Any, name: str, part: str) -> None:
    checkpoint, weights, batch = model(name)
    encoder = encoder_of(checkpoint)
    assert part in parts_to_smooth(encoder)
    wanted = ReferenceEngine(checkpoint.model, weights).forward(batch)
    for source in (weights, with_outliers(checkpoint, weights)):
        np.testing.assert_allclose(
            ReferenceEngine(checkpoint.model, source).forward(batch), wanted, atol=1e-4, rtol=1e-4
        )
        peaks = input_peaks(checkpoint.model, source, lambda engine: engine.forward(batch))
        folded = smoothed(encoder, source, peaks, part)
        found = ReferenceEngine(checkpoint.model, folded).forward(batch)
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
        is_changed = [name for name in source if not np.array_equal(folded[name], source[name])]
        assert {name.split(".")[1] for name in is_changed} >= {part}
        assert "0.qkv.weight" not in is_changed or part == "attn_out"


def test_smoothing_lowers_an_outlier(model: Any) -> None:
    checkpoint, weights, batch = model("ettin")
    encoder, run = encoder_of(checkpoint), lambda engine: engine.forward(batch)
    source = with_outliers(checkpoint, weights)
    before = input_peaks(checkpoint.model, source, run)
    folded = smoothed(encoder, source, before, "mlp_out")
    after = input_peaks(checkpoint.model, folded, run)["1.mlp_out"]
    assert after.max() / np.median(after) < before["1.mlp_out"].max() / np.median(before["1.mlp_out"]) / 2


def test_peaks_are_those_of_every_layer_matrix(model: Any) -> None:
    checkpoint, weights, batch = model("bert")
    peaks = input_peaks(checkpoint.model, weights, lambda engine: engine.forward(batch))
    assert set(peaks) == set(matrix_names(checkpoint.model))
    for name, peak in peaks.items():
        assert peak.shape == weights[f"{name}.weight"].shape[1:]
        assert (peak >= 0).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_packed_shape_is_that_of_the_arranged_weights(tiny: Tiny, name: str) -> None:
    checkpoint = read_checkpoint(tiny(name), "reranker")
    weights, encoder = load_weights(checkpoint), encoder_of(checkpoint)
    for matrix in matrix_names(checkpoint.model):
        arranged_shape = arranged(encoder, weights, matrix)[0].shape
        assert matrix_shape(encoder, matrix.rpartition(".")[2]) == arranged_shape


# --- decisions -------------------------------------------------------------------------------------------------


def processor() -> Processor:
    module = native_module()
    assert module is not None
    return Processor(module.available_isas()[0], 1)


def measures_of(checkpoint: Checkpoint, weights: Weights, batch: Batch, seen: list[Any]) -> Measures:
    exact = NativeEngine(checkpoint.model, weights, processor(), "fp32").forward(batch)

    def measure(engine: NativeEngine) -> float:
        found = difference(checkpoint, exact, engine.forward(batch))
        seen.append(found)
        return found

    return Measures(measure, measure)


@needs_native
def test_bf16_is_16_bits_everywhere(model: Any) -> None:
    checkpoint, weights, batch = model("ettin")
    plan = plan_bf16(checkpoint.model, weights, processor(), measures_of(checkpoint, weights, batch, []))
    assert set(plan.kinds.values()) == {"i16"}
    assert {matrix.kind for matrix in plan.weights.packed.values()} == {"i16"}
    assert plan.noise < 0.02


@needs_native
@pytest.mark.parametrize("name", ["bert", "ettin"])
def test_the_noise_is_within_the_target_and_as_measured(model: Any, name: str) -> None:
    checkpoint, weights, batch = model(name)
    measures = measures_of(checkpoint, weights, batch, [])
    peaks = input_peaks(checkpoint.model, weights, lambda engine: engine.forward(batch))
    plans = [
        plan_int8(checkpoint.model, weights, processor(), peaks, measures, target)
        for target in (1.0, 0.02, 0.01)
    ]
    in_16_bits = [list(plan.kinds.values()).count("i16") for plan in plans]
    assert in_16_bits[0] == 0 < in_16_bits[1] <= in_16_bits[2] < len(plans[0].kinds)
    for plan, target in zip(plans, (1.0, 0.02, 0.01), strict=True):
        engine = NativeEngine(checkpoint.model, plan.weights, processor(), "int8")
        assert measures.whole(engine) == plan.noise <= target
        assert {key: matrix.kind for key, matrix in plan.weights.packed.items()} == plan.kinds
    kept = [plans[0].smoothing_trials[part] for part in plans[0].smoothed_parts]
    assert [plans[0].plain_noise, *kept] == sorted([plans[0].plain_noise, *kept], reverse=True)
    assert set(plans[0].smoothing_trials) == set(parts_to_smooth(encoder_of(checkpoint)))


@needs_native
def test_outliers_are_smoothed_where_that_lowers_the_noise(model: Any) -> None:
    checkpoint, plain, batch = model("ettin")
    weights = with_outliers(checkpoint, plain)
    measures = measures_of(checkpoint, weights, batch, [])
    peaks = input_peaks(checkpoint.model, weights, lambda engine: engine.forward(batch))
    plan = plan_int8(checkpoint.model, weights, processor(), peaks, measures, 1.0)
    assert "mlp_out" in plan.smoothed_parts
    assert plan.noise < plan.plain_noise


@needs_native
def test_a_target_that_16_bits_miss_is_an_error(model: Any) -> None:
    checkpoint, weights, batch = model("bert")
    peaks = input_peaks(checkpoint.model, weights, lambda engine: engine.forward(batch))
    measures = measures_of(checkpoint, weights, batch, [])
    with pytest.raises(InputError, match=r"out of reach.*larger target"):
        plan_int8(checkpoint.model, weights, processor(), peaks, measures, 1e-9)


@needs_native
def test_the_matrix_that_costs_most_for_its_size_comes_first(model: Any) -> None:
    checkpoint, weights, _ = model("bert")
    trials, names, counted = Trials(checkpoint.model, weights, processor()), ["0.qkv", "0.mlp_in"], []

    class Known(Trials):
        def engine(self, kinds: Any) -> Any:
            return next(name for name, kind in kinds.items() if kind == "i8")

    known = Known(checkpoint.model, weights, processor())
    noise_of: dict[Any, float] = {"0.qkv": 0.02, "0.mlp_in": 0.02}
    measures = Measures(lambda _: 0.0, lambda name: noise_of[name], counted.append)
    smaller = min(names, key=trials.size)
    assert by_sensitivity(known, names, measures)[0] == smaller
    noise_of[next(name for name in names if name != smaller)] = 0.2
    assert by_sensitivity(known, names, measures)[0] != smaller
    assert counted == [2] * 4
