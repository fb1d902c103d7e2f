"""The torch engine: its paths agree, its choices are checked, and a lack of memory or of range ends nothing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import standins
from runoff import CrossEncoder
from runoff.checkpoint.layout import load_weights, read_checkpoint
from runoff.contracts import Batch, FloatArray, InputError
from runoff.engine import torch_loading
from runoff.engine.choose import Choice
from runoff.engine.reference import ReferenceEngine
from runoff.engine.torch_engine import Settings, TorchEngine, checked_device, token_budget
from runoff.engine.torch_loading import Guarded, load_torch
from runoff.engine.torch_replicas import Replicas, devices
from runoff.engine.torch_staging import Shape, bucket_of
from standins import EncoderShape

SMALL = EncoderShape(64, 3, 96, 2)  # heads of 32


@pytest.fixture(scope="module")
def ettin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins.build_ettin_reranker(tmp_path_factory.mktemp("ettin") / "small", "17m", layers=4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins.build_bert_classifier(tmp_path_factory.mktemp("bert") / "small", shape=SMALL)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins.build_roberta_classifier(tmp_path_factory.mktemp("roberta") / "small", shape=SMALL)


def engine_of(folder: Path, **settings: Any) -> TorchEngine:
    checkpoint = read_checkpoint(folder, "reranker")
    return TorchEngine(checkpoint.model, load_weights(checkpoint), Settings("cpu", "fp32", **settings))


def reference_of(folder: Path) -> ReferenceEngine:
    checkpoint = read_checkpoint(folder, "reranker")
    return ReferenceEngine(checkpoint.model, load_weights(checkpoint))


def batch_of(lengths: list[int], seed: int = 0, vocabulary: int = 900) -> Batch:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    count = int(offsets[-1])
    positions = np.arange(count, dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    ids = np.random.default_rng(seed).integers(5, vocabulary, count).astype(np.int32)
    types = (positions > 3).astype(np.int32)
    return Batch(ids, types, positions, offsets, np.arange(len(lengths)))


LENGTHS = [131, 66, 64, 9, 3]


def close(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("model", ["ettin", "bert"])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("attention", ["sdpa", "triton"])
def test_every_body_gives_the_reference(
    model: str, kernels: str, attention: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    batch = batch_of(LENGTHS)
    close(
        engine_of(folder, kernels=kernels, attention=attention).forward(batch),
        reference_of(folder).forward(batch),
    )


@pytest.mark.parametrize("model", ["ettin", "bert"])
def test_a_fused_mlp_gives_the_reference(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    batch = batch_of([70, 9])
    close(engine_of(folder, fuses_mlp=True).forward(batch), reference_of(folder).forward(batch))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling_is_the_references_and_may_be_replayed(mode: str, roberta: Path) -> None:
    checkpoint = read_checkpoint(roberta, "reranker")
    shape = dataclasses.replace(checkpoint.model, pooling=(mode,), head=())
    weights = load_weights(checkpoint)
    engine = TorchEngine(shape, weights, Settings("cpu", "fp32", attention="triton"))
    batch, other = batch_of([40, 9, 1]), batch_of([30, 12, 7], seed=2)
    for each in (batch, other):
        each.type_ids[:] = 0  # RoBERTa has no segments
    for each in (other, batch, batch):
        close(engine.forward(each), ReferenceEngine(shape, weights).forward(each))
    assert engine.graph_count == 1


def test_a_replay_gives_what_the_first_run_gave_whatever_came_between(ettin: Path) -> None:
    engine = engine_of(ettin, attention="triton")
    assert engine.graph_count == 0
    batches = [batch_of([100, 20], seed=1), batch_of([90, 25, 7], seed=2), batch_of([120], seed=3)]
    reference = reference_of(ettin)
    for _ in range(3):
        for batch in batches:
            close(engine.forward(batch), reference.forward(batch))
    assert engine.graph_count == 1, "one bucket holds all three"


def test_outputs_stay_as_they_are_when_the_next_batch_is_replayed(ettin: Path) -> None:
    engine = engine_of(ettin, attention="triton")
    first, second = batch_of([60, 50], seed=1), batch_of([60, 50], seed=2)
    for _ in range(2):
        engine.forward(first)
    begun = [engine.start(first), engine.start(second)]
    found = [each.result() for each in begun]
    close(found[0], reference_of(ettin).forward(first))
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_graphs_are_recorded_anew_when_positions_outgrow_their_tables(ettin: Path) -> None:
    engine = engine_of(ettin, attention="triton")
    for _ in range(2):
        engine.forward(batch_of([100]))
    long = batch_of([520])
    close(engine.forward(long), reference_of(ettin).forward(long))
    assert engine.graph_count == 0
    close(engine.forward(batch_of([100])), reference_of(ettin).forward(batch_of([100])))


def test_without_replays_no_graph_is_recorded(ettin: Path) -> None:
    engine = engine_of(ettin, attention="triton", replays=False)
    for _ in range(3):
        engine.forward(batch_of([100]))
    assert engine.graph_count == 0


def test_the_setting_turns_replays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_loading.replays_wanted() is True
    monkeypatch.setenv("RUNOFF_CUDA_GRAPHS", "0")
    assert torch_loading.replays_wanted() is False


@pytest.mark.parametrize("tokens", [1, 128, 129, 1000, 4095, 4096, 4097, 65_536])
def test_a_bucket_holds_its_batch_and_is_at_most_an_eighth_larger(tokens: int) -> None:
    bucket = bucket_of(Shape(tokens, 9, 5, 100))
    assert bucket.tokens >= tokens
    assert bucket.tokens <= max(128, tokens * 9 / 8)
    assert bucket.sequences == 16
    assert bucket.tiles == bucket.tokens // 64 + 16
    assert bucket.longest == 128


def test_ids_beyond_the_tables_are_refused_before_they_reach_a_device(ettin: Path, bert: Path) -> None:
    batch = batch_of([5])
    batch.ids[2] = 60_000
    with pytest.raises(InputError, match="made by another model's tokenizer"):
        engine_of(ettin).forward(batch)
    batch = batch_of([5])
    batch.type_ids[1] = 2
    with pytest.raises(InputError, match="segment ids"):
        engine_of(bert).forward(batch)


def test_a_sequence_beyond_the_positions_is_refused(bert: Path) -> None:
    with pytest.raises(InputError, match="longer than the model's 512 positions"):
        engine_of(bert).forward(batch_of([513]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda:3"}, r"expected a device that torch .* can use here, got 'cuda:3'"),
        ({"device": "nonsense"}, "got 'nonsense'"),
        ({"device": "cuda:*"}, "torch sees none here"),
        ({"device": "cuda:0,cuda:0"}, "names a device twice"),
        ({"device": "cpu", "engine": "torch", "model_kwargs": {"attn_implementation": "eager"}}, "must be one of auto"),
        (
            {"device": "cpu", "engine": "torch", "model_kwargs": {"attn_implementation": "varlen"}},
            "FlashAttention 2: bf16 or fp16",
        ),
        ({"device": "cpu", "engine": "torch", "precision": "int8"}, "is for the CPU engine"),
        ({"device": "cpu", "precision": "fp16"}, "is for GPUs"),
        ({"engine": "nothing"}, "engine must be 'native', 'torch', 'reference' or 'sentence-transformers'"),
        ({"device": "cuda", "engine": "native"}, "runs on a CPU alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_with_what_can(
    ettin: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        CrossEncoder(ettin, **arguments)


def test_fp8_wants_sizes_in_steps_of_sixteen(tmp_path: Path) -> None:
    folder = standins.build_bert_classifier(tmp_path / "odd", shape=EncoderShape(72, 1, 96, 2))
    with pytest.raises(InputError, match="multiplies in steps of 16"):
        CrossEncoder(folder, engine="torch", device="cpu", precision="fp8")


def test_the_budget_follows_the_size_of_the_model() -> None:
    def budget(size: str) -> int:
        shape = standins.ETTIN_SHAPES[size]
        checkpoint = read_checkpoint_config(shape)
        return token_budget(checkpoint)

    assert [budget(size) for size in ("17m", "150m", "400m", "1b")] == [65_536, 40_960, 24_576, 16_384]


def read_checkpoint_config(shape: EncoderShape) -> Any:
    from runoff.checkpoint.config import EncoderConfig

    return EncoderConfig(
        family="modernbert",
        vocab_size=50368,
        hidden_size=shape.hidden,
        layer_count=shape.layers,
        head_count=shape.heads,
        intermediate_size=shape.intermediate,
        norm_eps=1e-5,
        activation="gelu",
        max_positions=None,
    )


# --- memory ------------------------------------------------------------------------------------------

STARVED = """
    import resource, sys
    import numpy as np
    from runoff import CrossEncoder
    model = CrossEncoder(sys.argv[1], engine="torch", device="cpu", precision="fp32", max_length=8192)
    engine = model._native.engine
    pairs = [(f"query {row}", "word " * 4000) for row in range(12)]
    expected = model.predict(pairs[:2], activation_fn="identity")
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 150 * 2**20, resource.RLIM_INFINITY))
    engine.token_budget = 1_000_000
    found = model.predict(pairs, activation_fn="identity")
    print(engine.token_budget, float(np.abs(found[:2] - expected).max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space and reads it back")
def test_a_batch_that_does_not_fit_is_halved_and_the_budget_with_it(ettin: Path) -> None:
    script = textwrap.dedent(STARVED)
    done = subprocess.run(
        [sys.executable, "-c", script, str(ettin)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    budget, difference = done.stdout.split()
    assert 2_000 <= int(budget) <= 24_036, "half of a batch of twelve did not fit, and a single document does"
    assert float(difference) < 1e-4


# --- range -------------------------------------------------------------------------------------------


class Overflowing:
    """An engine whose scores are infinite from the given forward on."""

    name, precision, attention, token_budget = "torch", "fp16", "sdpa", 4096

    def __init__(self, engine: TorchEngine, after: int) -> None:
        self._engine, self._left = engine, after

    def start(self, batch: Batch) -> Any:
        self._left -= 1
        begun = self._engine.start(batch)
        return begun if self._left >= 0 else Infinite(begun.result())

    def forward(self, batch: Batch) -> FloatArray:
        outputs: FloatArray = self.start(batch).result()
        return outputs


class Infinite:
    def __init__(self, outputs: FloatArray) -> None:
        self._outputs = outputs

    def result(self) -> FloatArray:
        return self._outputs * np.inf


def test_scores_that_leave_the_range_of_fp16_are_computed_again_in_bf16(ettin: Path) -> None:
    wide, made = engine_of(ettin), []

    def wider() -> TorchEngine:
        made.append(wide)
        return wide

    guarded = Guarded(Overflowing(engine_of(ettin), after=1), wider)  # type: ignore[arg-type]
    batch = batch_of([40, 9])
    expected = reference_of(ettin).forward(batch)
    close(guarded.forward(batch), expected)
    assert made == []
    for _ in range(2):
        close(guarded.forward(batch), expected)
    assert made == [wide]
    assert guarded.precision == wide.precision


def large_weights(folder: Path, factor: float) -> Any:
    """(model, weights) whose last MLP gives numbers `factor` times as large: beyond fp16's 65,504."""
    checkpoint = read_checkpoint(folder, "reranker")
    weights = load_weights(checkpoint)
    name = f"{checkpoint.model.encoder.layer_count - 1}.mlp_out.weight"
    return checkpoint.model, Scaled(weights, name, factor)


class Scaled:
    def __init__(self, weights: Any, name: str, factor: float) -> None:
        self._weights, self._name, self._factor = weights, name, factor

    def __getitem__(self, name: str) -> FloatArray:
        array: FloatArray = self._weights[name]
        return array * np.float32(self._factor) if name == self._name else array

    def get(self, name: str) -> FloatArray | None:
        found: FloatArray | None = self._weights.get(name)
        return found


ON_TRIAL = Choice("torch", "cpu", "fp16", "packed forward in PyTorch; fp16 on trial", is_on_trial=True)


def test_a_model_beyond_the_range_of_fp16_is_loaded_in_bf16(ettin: Path) -> None:
    model, weights = large_weights(ettin, 1e6)
    engine, choice = load_torch(model, weights, ON_TRIAL, "auto", batch_of([30, 20]))
    assert (engine.precision, choice.precision, choice.is_on_trial) == ("bf16", "bf16", False)
    assert "leaves the range of fp16" in choice.reason


def test_a_model_within_the_range_of_fp16_stays_in_it(ettin: Path) -> None:
    model, weights = large_weights(ettin, 1.0)
    engine, choice = load_torch(model, weights, ON_TRIAL, "auto", batch_of([30, 20]))
    assert (engine.precision, choice.precision, choice.is_on_trial) == ("fp16", "fp16", False)
    assert isinstance(engine, Guarded)


# --- several devices ---------------------------------------------------------------------------------


def test_replicas_share_the_batches_and_give_the_same_scores(ettin: Path) -> None:
    engines = [engine_of(ettin), engine_of(ettin)]
    replicas = Replicas(engines)
    batches = [batch_of([50 + seed, 20], seed=seed) for seed in range(6)]
    begun = [replicas.start(batch) for batch in batches]
    assert replicas._waiting == [sum(batch.token_count for batch in batches[side::2]) for side in (0, 1)]
    reference = reference_of(ettin)
    for each, batch in zip(begun, batches, strict=True):
        close(each.result(), reference.forward(batch))
    assert replicas._waiting == [0, 0]


def test_an_error_of_one_replica_is_raised_where_its_batch_is_waited_for(ettin: Path) -> None:
    replicas = Replicas([engine_of(ettin), engine_of(ettin)])
    bad = batch_of([5])
    bad.ids[0] = 60_000
    begun = [replicas.start(bad), replicas.start(batch_of([5]))]
    with pytest.raises(InputError, match="another model's tokenizer"):
        begun[0].result()
    close(begun[1].result(), reference_of(ettin).forward(batch_of([5])))
    assert replicas._waiting == [0, 0]


def test_several_devices_are_one_name(ettin: Path) -> None:
    assert devices("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    model = CrossEncoder(ettin, engine="torch", device=["cpu", "cpu"], precision="fp32")
    assert model.device == "cpu,cpu"
    assert isinstance(model._native.engine, Replicas)
    pairs = [("a question", "an answer " * n) for n in range(1, 40)]
    expected = CrossEncoder(ettin, engine="reference", device="cpu").predict(pairs)
    np.testing.assert_allclose(model.predict(pairs), expected, rtol=0, atol=1e-4)


def test_the_device_is_torchs_own_word() -> None:
    assert checked_device("cpu") == torch.device("cpu")


def test_a_guarded_engine_has_as_much_under_way_as_the_one_it_guards(ettin: Path) -> None:
    replicas = Replicas([engine_of(ettin), engine_of(ettin)])
    assert replicas.in_flight == 8
    assert Guarded(replicas, lambda: replicas).in_flight == 8
