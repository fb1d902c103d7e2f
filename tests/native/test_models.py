"""Whole models through the native engine: the numbers of the textbook, whatever the batch, the threads, the shape."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runoff import _native as native
from runoff.checkpoint.config import Dense, EncoderConfig, HeadStep, LayerNorm, ModelConfig, Normalize
from runoff.contracts import Batch, Encoded, InputError
from runoff.engine.native import NativeEngine, Processor
from runoff.engine.reference import ReferenceEngine
from runoff.text.batching import pack
from standin_dense import as_weights, random_weights

ISAS = native.available_isas()
LENGTHS = (1, 2, 7, 16, 17, 40, 150, 3)
SOURCES = Path(__file__).resolve().parents[2] / "src"


def modernbert(heads: int = 2, size: int = 32, layers: int = 3, **changes: Any) -> EncoderConfig:
    local = tuple(i % 3 != 0 for i in range(layers))
    base: dict[str, Any] = {"is_local_layer": local, "local_window": 8}
    base |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    return encoder("modernbert", heads, size, layers, **(base | changes))


def bert(heads: int = 2, size: int = 32, layers: int = 3, **changes: Any) -> EncoderConfig:
    base: dict[str, Any] = {"type_vocab_size": 2, "position_rows": 400}
    return encoder("bert", heads, size, layers, **(base | changes))


def encoder(family: Any, heads: int, size: int, layers: int, **changes: Any) -> EncoderConfig:
    base: dict[str, Any] = {
        "family": family,
        "vocab_size": 60,
        "hidden_size": heads * size,
        "layer_count": layers,
        "head_count": heads,
        "intermediate_size": 44,
        "norm_eps": 1e-5,
        "activation": "gelu",
        "max_positions": 380,
    }
    return EncoderConfig(**(base | changes))


ENCODERS = {
    "ettin heads": modernbert(2, 64),
    "one head": modernbert(1, 32),
    "five heads of 24": modernbert(5, 24),
    "heads of 10, odd halves": modernbert(3, 10),
    "one layer": modernbert(layers=1),
    "all local": modernbert(is_local_layer=(True, True, True)),
    "all global": modernbert(is_local_layer=(False, False, False)),
    "wide window": modernbert(local_window=500),
    "tanh gelu": modernbert(activation="gelu_tanh"),
    "silu": modernbert(activation="silu"),
    "minilm heads": bert(4, 32),
    "bert heads of 12": bert(3, 12),
    "bert, one layer": bert(layers=1),
    "bert relu": bert(activation="relu"),
    "roberta": bert(first_position=2, pad_token_id=1, type_vocab_size=1),
}


def batch_of(lengths: tuple[int, ...] = LENGTHS, types: int = 2, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    sequences = [
        Encoded(rng.integers(2, 60, t).astype(np.int32), (np.arange(t) % types).astype(np.int32))
        for t in lengths
    ]
    return pack(sequences, range(len(sequences)))


def model_of(config: EncoderConfig, *pooling: str, head: tuple[HeadStep, ...] = ()) -> ModelConfig:
    return ModelConfig(config, pooling, head)


def weights_of(model: ModelConfig) -> Any:
    assert isinstance(model.encoder, EncoderConfig)
    arrays = random_weights(model.encoder)
    rng = np.random.default_rng(5)
    for step in model.head:
        if isinstance(step, Dense):
            scale = step.in_features**-0.5
            arrays[f"{step.name}.weight"] = rng.normal(0, scale, (step.out_features, step.in_features))
            if step.has_bias:
                arrays[f"{step.name}.bias"] = rng.normal(0, 1, step.out_features)
            if step.needs_projection:
                arrays[f"{step.name}.residual"] = rng.normal(0, scale, (step.out_features, step.in_features))
        elif isinstance(step, LayerNorm):
            arrays[f"{step.name}.weight"] = rng.normal(1, 0.2, step.size)
            if step.has_bias:
                arrays[f"{step.name}.bias"] = rng.normal(0, 0.2, step.size)
    return as_weights({name: np.asarray(array, np.float32) for name, array in arrays.items()})


def engine_of(model: ModelConfig, precision: str = "fp32", isa: str = "", threads: int = 2) -> NativeEngine:
    return NativeEngine(model, weights_of(model), Processor(isa or ISAS[0], threads), precision)


def types_of(config: EncoderConfig) -> int:
    return max(1, config.type_vocab_size)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ENCODERS)
def test_fp32_equals_the_reference(name: str, isa: str) -> None:
    """Both add the same numbers in other orders: about 100 roundings a layer of numbers near 1 (2e-5)."""
    config = ENCODERS[name]
    batch = batch_of(types=types_of(config))
    for pooling in (("cls",), ("cls", "mean", "lasttoken")):
        model = model_of(config, *pooling)
        wanted = ReferenceEngine(model, weights_of(model)).forward(batch)
        np.testing.assert_allclose(engine_of(model, isa=isa).forward(batch), wanted, rtol=0, atol=4e-5)


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_every_pooling_equals_the_references(pooling: str) -> None:
    for config in (modernbert(), bert()):
        model, batch = model_of(config, pooling), batch_of()
        wanted = ReferenceEngine(model, weights_of(model)).forward(batch)
        np.testing.assert_allclose(engine_of(model).forward(batch), wanted, rtol=1e-5, atol=4e-5)


HEADS: dict[str, tuple[HeadStep, ...]] = {
    "ettin": (
        Dense("2_Dense", 64, 64, "gelu", has_bias=False),
        LayerNorm("3_LayerNorm", 64),
        Dense("4_Dense", 64, 1, "identity"),
    ),
    "three labels": (Dense("a", 64, 50, "tanh"), Dense("b", 50, 3, "identity")),
    "residuals": (
        Dense("a", 64, 64, "relu", has_residual=True),
        Dense("b", 64, 33, "silu", has_residual=True),
        LayerNorm("c", 33, has_bias=False),
        Normalize(),
    ),
    "sigmoid": (Normalize(), Dense("a", 64, 17, "sigmoid")),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_equals_the_references(name: str) -> None:
    model, batch = model_of(modernbert(), "cls", head=HEADS[name]), batch_of()
    wanted = ReferenceEngine(model, weights_of(model)).forward(batch)
    found = engine_of(model).forward(batch)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-5)


def test_eight_thousand_tokens_equal_the_reference() -> None:
    model = model_of(modernbert(1, 32, 2), "cls", "mean")
    batch = batch_of((8192, 5))
    wanted = ReferenceEngine(model, weights_of(model)).forward(batch)
    np.testing.assert_allclose(engine_of(model).forward(batch), wanted, rtol=0, atol=4e-5)


# --- nothing but the sequence decides ----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["ettin heads", "minilm heads"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batch_mates_and_threads_change_no_bit(name: str, precision: str, pooling: str) -> None:
    model = model_of(ENCODERS[name], pooling)
    lengths = (700, *LENGTHS, 300, 90) if name == "ettin heads" else (*LENGTHS, 300, 90)
    batch = batch_of(lengths)
    engine = engine_of(model, precision)
    together = engine.forward(batch)
    for threads in (1, 3, 5):
        np.testing.assert_array_equal(engine_of(model, precision, threads=threads).forward(batch), together)
    for row in range(len(lengths)):
        span = slice(batch.offsets[row], batch.offsets[row + 1])
        alone = pack([Encoded(batch.ids[span], batch.type_ids[span])], rows=[0])
        np.testing.assert_array_equal(engine.forward(alone)[0], together[row])


def test_many_python_threads_get_the_answers_of_one() -> None:
    engine = engine_of(model_of(modernbert(), "cls"), "bf16")
    batches = [batch_of(seed=seed) for seed in range(24)]
    wanted = [engine.forward(batch) for batch in batches]
    with ThreadPoolExecutor(8) as threads:
        for found, expected in zip(threads.map(engine.forward, batches), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


def _score_in_child(engine: NativeEngine, batch: Batch, answers: Any) -> None:
    answers.put(engine.forward(batch))


def test_a_forked_child_makes_its_own_threads() -> None:
    engine, batch = engine_of(model_of(modernbert(), "cls")), batch_of()
    wanted = engine.forward(batch)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_score_in_child, args=(engine, batch, answers))
    child.start()
    np.testing.assert_array_equal(answers.get(timeout=30), wanted)
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_array_equal(engine.forward(batch), wanted)


def test_ctrl_c_stops_a_forward_and_the_engine_goes_on() -> None:
    code = f"""
        import os, signal, sys, threading, time
        sys.path[:0] = [{str(SOURCES)!r}, {str(SOURCES.parent / "tests")!r}, {str(Path(__file__).parent)!r}]
        import conftest
        from test_models import batch_of, engine_of, model_of, modernbert
        # A shell that starts the tests in the background has them ignore the signal, and Python leaves that as it is.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        engine = engine_of(model_of(modernbert(4, 64, 8), "cls"))
        short, long = batch_of((5, 9)), batch_of((6000,) * 40)
        wanted = engine.forward(short)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            engine.forward(long)
        except KeyboardInterrupt:
            assert (engine.forward(short) == wanted).all()
            print("stopped")
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "stopped\n", done.stderr
    assert time.monotonic() - started < 60  # the whole forward would take minutes
    assert os.name == "posix"
    assert signal.SIGINT


def test_a_forward_that_nobody_waits_for_is_given_up() -> None:
    engine, batch = engine_of(model_of(modernbert(), "cls")), batch_of((3000,) * 4)
    wanted = engine.forward(batch_of())
    for _ in range(5):
        engine.start(batch)
    np.testing.assert_array_equal(engine.forward(batch_of()), wanted)


# --- what does not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("ids", 60, "id 60 is outside"), ("ids", -1, "id -1"), ("type_ids", 2, "segment 2")],
)
def test_ids_outside_their_tables_are_refused(field: str, value: int, said: str) -> None:
    batch = batch_of()
    getattr(batch, field)[5] = value
    with pytest.raises(InputError, match=said):
        engine_of(model_of(bert(), "cls")).forward(batch)


def test_a_sequence_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(InputError, match="position 400 is outside the model's 400"):
        engine_of(model_of(bert(), "cls")).forward(batch_of((401,)))


def raw(*changes: tuple[str, Any]) -> dict[str, npt.NDArray[np.int32]]:
    batch = batch_of()
    arrays = {
        "ids": batch.ids,
        "type_ids": batch.type_ids,
        "positions": batch.positions,
        "offsets": batch.offsets,
    }
    return arrays | {name: np.asarray(value, np.int32) for name, value in changes}


@pytest.mark.parametrize(
    "arguments",
    [
        raw(("ids", [1, 2])),
        raw(("type_ids", [0])),
        raw(("positions", [])),
        raw(("offsets", [])),
        raw(("offsets", [0, 10**6])),
        raw(("offsets", [-1, 236])),
        raw(("offsets", [0, 5, 5, 236])),
        raw(("offsets", [0, 100, 50, 236])),
    ],
)
def test_arrays_that_do_not_fit_one_another_are_refused(arguments: dict[str, Any]) -> None:
    engine = engine_of(model_of(bert(), "cls"))._engine
    with pytest.raises(ValueError, match=r"offset|numbers|tokens"):
        engine.start(**arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"panels": np.zeros(3, np.uint8)},
        {"scales": np.zeros(3, np.float32)},
        {"scales": np.full(32, np.nan, np.float32)},
        {"scales": np.full(32, np.inf, np.float32)},
        {"scales": None},
        {"bias": np.zeros(3, np.float32)},
        {"outputs": 0},
        {"inputs": -4},
        {"outputs": 10**6},
        {"kind": "i4"},
    ],
)
def test_a_stored_matrix_that_is_not_whole_is_refused(change: dict[str, Any]) -> None:
    good = native.Matrix.pack("i8", np.ones((20, 7), np.float32))
    parts = {"kind": "i8", "outputs": 20, "inputs": 7, "panels": good.panels, "scales": good.scales}
    assert native.Matrix.stored(**parts).outputs == 20
    with pytest.raises(ValueError, match=r"expected|finite|empty"):
        native.Matrix.stored(**(parts | change))


# --- precision -----------------------------------------------------------------------------------------------


def as_bfloat16(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


@pytest.mark.parametrize("inputs", [64, 256, 1152])
@pytest.mark.parametrize("outlier", [1, 30])
def test_fixed_point_is_several_times_more_exact_than_bfloat16(inputs: int, outlier: int) -> None:
    rng = np.random.default_rng(inputs)
    x, w = (rng.standard_normal((64, inputs)).astype(np.float32) for _ in range(2))
    x[:, 3] *= outlier
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    rounded = as_bfloat16(x) @ as_bfloat16(w).T
    found = native.probe_multiply(ISAS[0], native.Matrix.pack("i16", w), x)
    assert 3 * np.std(found - exact) < np.std(rounded - exact)


@pytest.mark.parametrize("name", ["ettin heads", "minilm heads"])
def test_int8_scores_follow_those_of_fp32(name: str) -> None:
    model, batch = model_of(ENCODERS[name], "cls"), batch_of((30,) * 40)
    exact, rough = (engine_of(model, precision).forward(batch).ravel() for precision in ("fp32", "int8"))
    assert np.corrcoef(exact, rough)[0, 1] > 0.998
