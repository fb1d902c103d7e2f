"""The Triton kernels, interpreted on a CPU, give what their plain twins give; and compiled for cards that are not here
they use the matrix units and spill nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is published for Linux alone")

from runoff.engine.torch_attention import Tiled, attention_for  # noqa: E402
from runoff.engine.torch_blocks import Blocked  # noqa: E402
from runoff.engine.torch_kernels import FP8, Eager, Fused, Norm, Rotary, Rows, Tables  # noqa: E402
from runoff.engine.torch_linear import Linear  # noqa: E402
from runoff.engine.torch_model import Staged  # noqa: E402
from runoff.engine.torch_sequences import Sequences, tiles_of  # noqa: E402

BF16_STEP = (
    2.0**-7
)  # of a number just above 1: the interpreter cuts to bf16 where PyTorch (and a card) rounds


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)).to(
        dtype
    )


def sequences_of(lengths: list[int], fillings: int = 0) -> Sequences:
    """Sequences of these lengths end to end; `fillings` tiles of none at the end, as a graph's batch has."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    tiles = np.concatenate([tiles_of(offsets), np.full((fillings, 2), -1, np.int32)])
    ends = torch.from_numpy(offsets)
    return Sequences(
        ends, ends[:-1].long(), torch.from_numpy(positions), torch.from_numpy(tiles), max(lengths), offsets
    )


def rotary_of(positions: int, size: int) -> Rotary:
    angles = np.arange(positions)[:, None] * 10_000.0 ** (-np.arange(size // 2) / (size // 2))
    return Rotary(*(torch.from_numpy(part.astype(np.float32)) for part in (np.cos(angles), np.sin(angles))))


AWKWARD = [[64], [65, 1], [130, 3, 77]]


@pytest.mark.parametrize("lengths", AWKWARD)
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("window", [None, 0, 5, 64])
def test_tiled_attention_is_blocked_attention(lengths: list[int], size: int, window: int | None) -> None:
    qkv = numbers(sum(lengths), 3, 2, size)
    rotary = rotary_of(max(lengths), size)
    sequences = sequences_of(lengths, fillings=2)
    expected = Blocked(Eager(torch.float32)).all(qkv.clone(), sequences, rotary, window)
    found = Tiled().all(qkv.clone(), sequences, rotary, window)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("lengths", AWKWARD)
@pytest.mark.parametrize("window", [None, 0, 5, 64])
def test_the_first_tokens_see_what_they_see_among_all(lengths: list[int], window: int | None) -> None:
    qkv = numbers(sum(lengths), 3, 2, 32, seed=1)
    sequences = sequences_of(lengths)
    rotary = rotary_of(max(lengths), 32)
    expected = Blocked(Eager(torch.float32)).all(qkv.clone(), sequences, rotary, window)[sequences.first]
    query, kv = qkv[sequences.first, 0], qkv[:, 1:].contiguous()
    for attention in (Tiled(), Blocked(Eager(torch.float32))):
        found = attention.first(query.clone(), kv.clone(), sequences, rotary, window)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_without_positions_nothing_is_turned() -> None:
    qkv = numbers(70, 3, 2, 32)
    sequences = sequences_of([40, 30])
    expected = Blocked(Eager(torch.float32)).all(qkv.clone(), sequences, None, None)
    torch.testing.assert_close(Tiled().all(qkv, sequences, None, None), expected, rtol=0, atol=2e-6)


def test_a_sequence_of_none_gives_finite_rows() -> None:
    sequences = sequences_of([3, 0, 2])
    kv = numbers(5, 2, 2, 32)
    found = Tiled().first(numbers(3, 2, 32), kv, sequences, rotary_of(3, 32), None)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("size", [32, 96, 384])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("keeps", ["sum", "norm"])
def test_a_fused_norm_is_the_addition_and_the_norm(size: int, has_bias: bool, keeps: str) -> None:
    hidden, update = numbers(7, size), numbers(7, size, seed=1, dtype=torch.bfloat16)
    norm = Norm(numbers(size, seed=2), numbers(size, seed=3) if has_bias else None, 1e-5)
    expected_hidden, expected = Eager(torch.float32).add_norm(hidden, update, norm, keeps)
    found_hidden, found = Fused(torch.float32).add_norm(hidden.clone(), update, norm, keeps)
    torch.testing.assert_close(found_hidden, expected_hidden, rtol=0, atol=3e-6)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=3e-6)


@pytest.mark.parametrize("has_segments", [True, False])
def test_fused_embeddings_are_summed_and_normed(has_segments: bool) -> None:
    token, position, segment = (numbers(11, 96, seed=seed, dtype=torch.bfloat16) for seed in range(3))
    tables = Tables(token, position, segment) if has_segments else Tables(token)
    ids, types = torch.tensor([3, 0, 10, 3], dtype=torch.int32), torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    places = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    batch = Staged(ids, places, types if has_segments else None, sequences_of([4]))
    norm = Norm(numbers(96, seed=5), None, 1e-5)
    expected_hidden, expected = Eager(torch.bfloat16).embed(tables, norm, batch)
    found_hidden, found = Fused(torch.bfloat16).embed(tables, norm, batch)
    torch.testing.assert_close(found_hidden, expected_hidden, rtol=0, atol=3e-6)
    torch.testing.assert_close(found.values, expected.values, rtol=BF16_STEP, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "identity", "tanh"])
@pytest.mark.parametrize("is_gated", [True, False])
def test_fused_activations_are_those_of_pytorch(activation: str, is_gated: bool) -> None:
    inner = 3 * numbers(5, 192)
    expected = Eager(torch.float32).activate(inner, activation, is_gated)
    found = Fused(torch.float32).activate(inner, activation, is_gated)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-6)


def test_fused_rotation_turns_queries_and_keys_and_leaves_values() -> None:
    qkv = numbers(9, 3 * 2, 32)
    positions = torch.arange(9, dtype=torch.int32)
    expected, found = qkv.clone(), qkv.clone()
    Eager(torch.float32).rotate(expected, rotary_of(9, 32), positions, 4)
    Fused(torch.float32).rotate(found, rotary_of(9, 32), positions, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found[:, 4:], qkv[:, 4:])
    assert not torch.equal(found[:, :4], qkv[:, :4])


def test_rows_in_fp8_are_scaled_to_their_greatest_number() -> None:
    """Stored in fp32 here: the interpreter's own rounding to fp8 loses the carry into the exponent."""
    from runoff.engine.triton_kernels import IDENTITY, activate_rows

    inner = 5 * numbers(6, 64)
    expected = Eager(FP8).rows(inner)
    values, scales = torch.empty(6, 64), torch.empty(6)
    activate_rows[(3,)](
        inner, values, scales, 6, SIZE=64, BLOCK=64, ROWS=2, ACTIVATION=IDENTITY, IS_GATED=False, IS_FP8=True
    )
    torch.testing.assert_close(scales, expected.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(values.abs().amax(1), torch.full((6,), 448.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(values * scales[:, None], inner, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_gated", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("count", "inputs", "size"), [(1, 64, 64), (130, 96, 80), (129, 70, 129)])
def test_a_fused_product_is_the_product_and_its_activation(
    is_gated: bool, has_bias: bool, count: int, inputs: int, size: int
) -> None:
    outputs = 2 * size if is_gated else size
    weight, bias = numbers(outputs, inputs, seed=1) / inputs**0.5, numbers(outputs, seed=2)
    linear = Linear(weight, bias if has_bias else None, torch.float32)
    rows = Rows(numbers(count, inputs, seed=3))
    expected = Eager(torch.float32).activate(linear(rows), "gelu", is_gated)
    found = linear.activated(rows, "gelu", is_gated)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-5)


def test_tiles_cover_every_query_once() -> None:
    offsets = np.array([0, 1, 65, 65, 194], np.int32)
    assert tiles_of(offsets).tolist() == [[0, 0], [1, 0], [3, 0], [3, 64], [3, 128]]


def test_a_head_of_another_size_is_refused() -> None:
    from runoff.contracts import InputError

    with pytest.raises(InputError, match="heads of 32, 64 or 128 numbers"):
        attention_for("triton", Eager(torch.float32), torch.device("cpu"), torch.float32, 48)


# --- compiled for cards that are not here --------------------------------------------------------------

COMPILED = Path(__file__).with_name("compiled_kernels.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """What the compiler made of each kernel, by "name sm_90": in a process that does not interpret them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, str(COMPILED)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_the_kernels_compile_for_ampere_ada_and_hopper(compiled: dict[str, dict[str, int]]) -> None:
    assert {name.partition(" ")[2] for name in compiled} == {"sm_80", "sm_89", "sm_90"}


@pytest.mark.slow
def test_no_kernel_spills_registers(compiled: dict[str, dict[str, int]]) -> None:
    assert {name: facts["spilled_bytes"] for name, facts in compiled.items() if facts["spilled_bytes"]} == {}


@pytest.mark.slow
def test_attention_runs_on_the_matrix_units(compiled: dict[str, dict[str, int]]) -> None:
    without = [
        name
        for name, facts in compiled.items()
        if name.startswith(("attend_tiles", "activated_product")) and not facts["matrix"]
    ]
    assert without == []


@pytest.mark.slow
def test_shared_memory_leaves_room_for_several_programs(compiled: dict[str, dict[str, int]]) -> None:
    # An A100's processor has 164 KiB, a 4090's 100: two programs at least on either.
    most = {name: facts["shared_bytes"] for name, facts in compiled.items()}
    assert max(taken for name, taken in most.items() if "product" not in name) <= 64 * 1024
    assert max(most.values()) <= 99 * 1024, "what a program may have on an A10 or a 4090"
