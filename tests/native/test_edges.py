"""The engine at its edges: nothing to score, tables in 16 bits, parts that do not fit, forks and interrupts midway."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runoff import _native as native
from runoff.checkpoint.config import Dense, EncoderConfig, LayerNorm, ModelConfig
from runoff.checkpoint.weights import Tensor, Weights
from runoff.contracts import Batch, Encoded
from runoff.engine import native as ours
from runoff.engine.native import NativeEngine, Processor
from runoff.engine.reference import ReferenceEngine
from runoff.text.batching import pack
from standin_dense import as_weights, random_weights

HIDDEN = 32
HEAD = (
    Dense("a", HIDDEN, 20, "relu", has_residual=True),
    LayerNorm("b", 20),
    Dense("c", 20, 3, "identity", has_bias=False),
)


def model_of(family: Any = "modernbert", *pooling: str, vocabulary: int = 60, **changes: Any) -> ModelConfig:
    base: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "layer_count": 2,
        "head_count": 2,
        "intermediate_size": 40,
        "norm_eps": 1e-5,
        "activation": "gelu",
        "max_positions": None,
    }
    if family == "bert":
        base |= {"type_vocab_size": 2, "position_rows": 70}
    else:
        base |= {"is_local_layer": (False, True), "local_window": 8}
        base |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    return ModelConfig(EncoderConfig(family=family, **(base | changes)), pooling or ("cls",), HEAD)


def arrays_of(model: ModelConfig) -> dict[str, Any]:
    assert isinstance(model.encoder, EncoderConfig)
    rng = np.random.default_rng(1)
    head = {"a.weight": (20, HIDDEN), "a.residual": (20, HIDDEN), "a.bias": (20,), "b.weight": (20,)}
    head |= {"b.bias": (20,), "c.weight": (3, 20)}
    drawn = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in head.items()}
    return random_weights(model.encoder) | drawn


def engine_of(model: ModelConfig, weights: Weights | None = None, threads: int = 2) -> NativeEngine:
    return NativeEngine(model, weights or as_weights(arrays_of(model)), Processor("", threads), "fp32")


def batch_of(*lengths: int, vocabulary: int = 60) -> Batch:
    rng = np.random.default_rng(0)
    return pack(
        [
            Encoded(rng.integers(2, vocabulary, t).astype(np.int32), np.zeros(t, np.int32))
            for t in lengths or (3, 17, 40)
        ],
        rows=range(len(lengths or (3, 17, 40))),
    )


# --- nothing, little, padding ids --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_no_sequences_have_no_scores(family: str, pooling: str) -> None:
    none = np.zeros(0, np.int32)
    batch = Batch(none, none, none, np.zeros(1, np.int32), np.zeros(0, np.int64))
    assert engine_of(model_of(family, pooling)).forward(batch).shape == (0, 3)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_thousand_sequences_of_one_token_equal_the_reference(family: str) -> None:
    """Each of the 58 ids has one score, whichever of the three calls' many units it falls into."""
    model, batch = model_of(family, "cls", "mean"), batch_of(*[1] * 1000)
    model = ModelConfig(model.encoder, model.pooling, ())
    weights = as_weights(arrays_of(model))
    found = engine_of(model, weights).forward(batch)
    wanted = ReferenceEngine(model, weights).forward(batch)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
    for token in np.unique(batch.ids):
        rows = found[batch.ids == token]
        assert (rows == rows[0]).all()


def test_roberta_positions_pass_over_padding_inside_the_text() -> None:
    """Padding ids have the table's row of their own; the tokens behind count on without them."""
    model = model_of("bert", "mean", first_position=2, pad_token_id=1, type_vocab_size=1)
    weights, batch = as_weights(arrays_of(model)), batch_of(9, 1, 30)
    for places in ([0], [8], [9], [10, 11, 12, 39], list(range(9))):
        ids = batch.ids.copy()
        ids[places] = 1
        padded = Batch(ids, batch.type_ids, batch.positions, batch.offsets, batch.rows)
        found, wanted = (
            engine.forward(padded) for engine in (engine_of(model, weights), ReferenceEngine(model, weights))
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


# --- token tables in 16 bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
def test_a_table_in_16_bits_gives_the_bits_of_the_same_numbers_in_32(stored_type: str) -> None:
    """Every finite float16 there is, tiny ones without a leading bit among them; every bfloat16 up to 2^32 in size
    (squares of larger ones leave fp32 in the norm)."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    if stored_type == "F16":
        patterns = patterns[np.isfinite(patterns.view(np.float16))]
    else:
        patterns = patterns[(patterns & 0x7FFF) < 0x4F80]
    vocabulary = len(patterns) // HIDDEN
    table = np.random.default_rng(0).permutation(patterns)[: vocabulary * HIDDEN].reshape(vocabulary, HIDDEN)
    tensor = Tensor(table if stored_type == "BF16" else table.view(np.float16), stored_type)
    model = ModelConfig(model_of(vocabulary=vocabulary).encoder, ("mean",), ())
    arrays = arrays_of(model) | {"embed.token.weight": tensor.float32()}
    tensors = {name: Tensor(array, "F32") for name, array in arrays.items()}
    ids = np.arange(vocabulary, dtype=np.int32)
    parts = [Encoded(part, np.zeros_like(part)) for part in np.array_split(ids, 400)]
    batch = pack(parts, rows=range(400))
    wide = engine_of(model, Weights(tensors)).forward(batch)
    narrow = engine_of(model, Weights(tensors | {"embed.token.weight": tensor})).forward(batch)
    assert np.isfinite(wide).all()
    np.testing.assert_array_equal(narrow, wide)


# --- results ------------------------------------------------------------------------------------------------


def test_a_result_is_given_once() -> None:
    pending = engine_of(model_of()).start(batch_of())
    pending.result()
    with pytest.raises(ValueError, match="taken"):
        pending.result()


def test_a_result_outlives_its_engine() -> None:
    model, batch = model_of(), batch_of()
    wanted = engine_of(model).forward(batch).copy()
    engine = engine_of(model)
    pending = engine.start(batch)
    del engine
    gc.collect()
    found = pending.result()
    del pending
    gc.collect()
    np.testing.assert_array_equal(found, wanted)


class StoppedError(Exception):
    """What the handler of a signal raises; Ctrl-C itself is tested in a process of its own (test_models.py)."""


def _stop(_number: int, _frame: Any) -> None:
    raise StoppedError


def test_an_interrupted_forward_has_no_result() -> None:
    """The sequences that nobody had begun are never computed, so what there is of the answer is not given out."""
    engine, short = engine_of(model_of()), batch_of()
    wanted = engine.forward(short)
    before = signal.signal(signal.SIGUSR1, _stop)
    try:
        pending = engine.start(batch_of(*[4000] * 60))  # seconds of work
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(StoppedError):
            pending.result()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ValueError, match="given up"):
        pending.result()
    del pending
    np.testing.assert_array_equal(engine.forward(short), wanted)


def _drop_and_score(begun: list[Any], engine: NativeEngine, batch: Batch, answers: Any) -> None:
    said = ""
    try:
        begun[0].result()
    except RuntimeError as error:
        said = str(error)
    held = sys.getrefcount(begun[0])  # this call's own and the list's
    begun.clear()  # the forward is destroyed here, in the child
    gc.collect()
    answers.put((said, held, engine.forward(batch)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_forward_neither_waits_for_it_nor_lacks_an_engine() -> None:
    """The threads at work are the parent's: a child that waited for them would wait for ever."""
    engine, short = engine_of(model_of()), batch_of()
    wanted = engine.forward(short)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    begun = [engine.start(batch_of(*[4000] * 12))]
    child = context.Process(target=_drop_and_score, args=(begun, engine, short, answers))
    child.start()
    try:
        said, held, found = answers.get(timeout=30)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert "before a fork" in said
    assert held == 2
    np.testing.assert_array_equal(found, wanted)
    assert begun[0].result().shape == (12, 3)  # the parent's own goes on


# --- parts that do not fit ----------------------------------------------------------------------------------


Parts = dict[str, Any]


def parts_of(family: str = "modernbert") -> Parts:
    """The arguments of `_native.Engine` for a whole model."""
    model = model_of(family)
    weights = as_weights(arrays_of(model))
    assert isinstance(model.encoder, EncoderConfig)
    layers = [
        {"is_local": bool(i)}
        | {name: ours.matrix(model.encoder, weights, f"{i}.{name}", "f32") for name in ours.MATRICES}
        for i in range(2)
    ]
    head = ours._head(model, weights)
    config, tables = ours._config(model), ours._tables(model, weights)
    return {"config": config, "tables": tables, "layers": layers, "head": head, "isa": "", "threads": 1}


def matrix(outputs: int, inputs: int) -> Any:
    return native.Matrix.pack("f32", np.ones((outputs, inputs), np.float32))


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_model_whose_parts_fit_is_taken(family: str) -> None:
    assert native.Engine(**parts_of(family)).threads == 1


SIZES = {
    "vocabulary": (0, -1, 59, 61),
    "hidden": (0, -32, 31, 48),
    "heads": (0, -2, 3),
    "head_size": (0, 15, 32, -16),
    "rotary_half": (-8, 4, 16),
    "rotary_size": (34, 100),
    "inner": (0, 40, 64, -16),
}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in SIZES for size in SIZES[name]])
def test_sizes_that_do_not_fit_the_weights_are_refused(name: str, size: int) -> None:
    parts = parts_of()
    parts["config"][name] = size
    with pytest.raises(ValueError, match=r"expected|size|table|rotary|half|numbers"):
        native.Engine(**parts)


CHANGES: dict[str, Callable[[Parts], Any]] = {
    "no layers": lambda p: p["layers"].clear(),
    "no pooling": lambda p: p["config"].update(pooling=[]),
    "unknown pooling": lambda p: p["config"].update(pooling=["median"]),
    "unknown activation": lambda p: p["config"].update(activation="softplus"),
    "unknown instruction set": lambda p: p.update(isa="sse9"),
    "another layer's matrix": lambda p: p["layers"][1].update(mlp_in=p["layers"][1]["mlp_out"]),
    "no norm in a layer": lambda p: p["tables"].pop("1.mlp_norm.weight"),
    "no final norm": lambda p: p["tables"].pop("final_norm.weight"),
    "a norm of another size": lambda p: p["tables"].update({"1.mlp_norm.weight": np.ones(31, np.float32)}),
    "a norm of another type": lambda p: p["tables"].update({"1.mlp_norm.weight": np.ones(32)}),
    "a norm in strides": lambda p: p["tables"].update({"1.mlp_norm.weight": np.ones(64, np.float32)[::2]}),
    "a table in strides": lambda p: p["tables"].update(
        {"embed.token": np.ones((60, 64), np.float32)[:, ::2]}
    ),
    "a table of another type": lambda p: p["tables"].update({"embed.token.type": "BF16"}),
    "a head for another pooling": lambda p: p["config"].update(pooling=["cls", "mean"]),
    "a head step with too few outputs": lambda p: p["head"][0].update(weight=matrix(4, HIDDEN)),
    "a head step with too many inputs": lambda p: p["head"][2].update(weight=matrix(3, 21)),
    "a residual with too few outputs": lambda p: p["head"][0].update(residual=matrix(4, HIDDEN)),
    "a residual with too many inputs": lambda p: p["head"][0].update(residual=matrix(20, HIDDEN + 1)),
    "a residual that needs a matrix": lambda p: p["head"][0].pop("residual"),
    "a head's norm of another size": lambda p: p["head"][1].update(size=19),
    "a head's norm without weight": lambda p: p["head"][1].update(name="nowhere"),
    "a last step of another size": lambda p: p["head"][2].update(size=300),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_do_not_fit_one_another_are_refused(change: str) -> None:
    parts = parts_of()
    CHANGES[change](parts)
    with pytest.raises(ValueError, match=r"\w"):
        native.Engine(**parts)


@pytest.mark.parametrize("name", ["position_rows", "type_rows"])
@pytest.mark.parametrize("size", [-1, 0, 1, 1000])
def test_tables_of_another_length_are_refused(name: str, size: int) -> None:
    parts = parts_of("bert")
    parts["config"][name] = size
    with pytest.raises(ValueError, match=r"expected \d+ numbers"):
        native.Engine(**parts)


@pytest.mark.parametrize("where", ["config", "tables"])
def test_what_is_missing_is_named(where: str) -> None:
    for name in [*parts_of()[where]]:
        parts = parts_of()
        if where == "tables" and not name.startswith("embed.token"):
            continue  # norms: see above; biases may be missing
        del parts[where][name]
        with pytest.raises(KeyError, match=name):
            native.Engine(**parts)


@pytest.mark.parametrize("threads", [-5, 0])
def test_there_is_always_one_thread(threads: int) -> None:
    engine = engine_of(model_of(), threads=threads)
    assert engine._engine.threads == 1
    np.testing.assert_array_equal(engine.forward(batch_of()), engine_of(model_of()).forward(batch_of()))
