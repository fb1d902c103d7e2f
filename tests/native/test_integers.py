"""Integer products, exactly: rows and weights that no rounding touches, against int64 arithmetic in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runoff import _native as native

ISAS = native.available_isas()
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
isas = pytest.mark.parametrize("isa", ISAS)

SIZES = [1, 2, 3, 31, 64, 257, 1152]
I16_PEAK = 32767
WEIGHT_NORM = 32_700
# A row of 65,500 less half a unit of rounding in every column is not scaled down (packing.h).
ROW_NORM = 65_500


def panels_of(kind: str, integers: Ints) -> npt.NDArray[np.uint8]:
    """The kernels' layout, [outputs/16][inputs/g][16][g] with zeros behind the last, written a second time."""
    group, dtype = (4, np.int8) if kind == "i8" else (2, np.int16)
    outputs, inputs = integers.shape
    whole = np.pad(integers, ((0, -outputs % 16), (0, -inputs % group))).astype(dtype)
    blocks = whole.reshape(whole.shape[0] // 16, 16, whole.shape[1] // group, group)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).view(np.uint8).ravel()


def stored(kind: str, integers: Ints, scales: Floats | float = 1.0, bias: Floats | None = None) -> Any:
    outputs, inputs = integers.shape
    wide = np.zeros(outputs + -outputs % 16, np.float32)
    wide[:outputs] = scales
    return native.Matrix.stored(kind, outputs, inputs, panels_of(kind, integers), wide, bias)


def paired(rng: np.random.Generator, *shape: int) -> Ints:
    """int8 weights whose neighbours' magnitudes are at most 128 together, many of them exactly 128."""
    outputs, inputs = shape
    first = rng.integers(1, 128, (outputs, -(-inputs // 2)))
    second = np.minimum(128 - first, rng.choice([0, 1, 64, 127], first.shape))
    both = np.stack([first, second], axis=2).reshape(outputs, -1)[:, :inputs]
    return both * rng.choice([-1, 1], shape)


def test_the_layout_is_the_packers() -> None:
    """Whole numbers whose widest pair is 127 are packed as they are, so both ways must give the same bytes."""
    rng = np.random.default_rng(0)
    for outputs, inputs in [(1, 1), (16, 4), (17, 5), (40, 31)]:
        integers = rng.integers(-63, 64, (outputs, inputs))
        integers[:, 0], integers[:, 1:2] = 127, 0
        packed = native.Matrix.pack("i8", integers.astype(np.float32))
        np.testing.assert_array_equal(packed.panels, panels_of("i8", integers))
        assert (packed.scales[:outputs] == 1).all()


# --- bytes -------------------------------------------------------------------------------------------------


def byte_cases(inputs: int) -> dict[str, tuple[Ints, Ints]]:
    """(rows that span 255 with 0 among them, whose scale is therefore 1, and weights)."""
    rng = np.random.default_rng(inputs)
    weights = paired(rng, 40, inputs)
    lowest = np.array([0, -1, -127, -128, -254, -255, *rng.integers(-255, 1, 7)])[:, None]
    rows = rng.integers(lowest, lowest + 256, (13, inputs))
    if inputs == 1:
        rows = np.where(lowest < -127, -255, 255)
    else:
        rows[:, :2] = rng.permuted(np.hstack([lowest, lowest + 255]), axis=1)
    halves = np.full((16, inputs), 64)
    along = np.where(weights[:13] < 0, -127, 128)
    along = np.where(np.ptp(along, axis=1, keepdims=True) == 0, 255 * np.sign(along), along)
    peak = np.zeros((16, inputs), np.int64)
    peak[np.arange(16), np.arange(16) % inputs] = -128  # as an int8, with a neighbour of 0
    return {
        "any": (rows, weights),
        "equal rows": (np.full((7, inputs), 255), halves),
        "opposite rows": (np.full((7, inputs), -255), halves),
        "rows along the weights": (along, weights),
        "rows against the weights": (-along, weights),
        "single peaks": (rows, peak),
    }


@isas
@pytest.mark.parametrize("inputs", SIZES)
def test_int8_sums_are_exact_on_every_instruction_set(isa: str, inputs: int) -> None:
    """The factor of a row that spans 255 is 1, whichever way its processor rounds: what is left is one rounding of
    the sum to fp32. So these products are the same bits everywhere, the largest sums there are among them: 128 x 255
    for each pair, also in the saturating int16 of processors without VNNI."""
    for name, (rows, weights) in byte_cases(inputs).items():
        assert (np.maximum(rows.max(axis=1), 0) - np.minimum(rows.min(axis=1), 0) == 255).all(), name
        exact = rows @ weights.T
        found = native.probe_multiply(isa, stored("i8", weights), rows.astype(np.float32))
        np.testing.assert_array_equal(found[:, : len(weights)], exact.astype(np.float32), err_msg=name)


@isas
def test_int8_sums_of_the_longest_matrix_do_not_overflow(isa: str) -> None:
    """131,072 inputs of 64 x 255 are 2,139,095,040, of the 2,147,483,647 that an int32 holds."""
    inputs = 1 << 17
    for sign in (1, -1):
        rows = np.full((1, inputs), 255.0 * sign, np.float32)
        found = native.probe_multiply(isa, stored("i8", np.full((16, inputs), 64)), rows)
        np.testing.assert_array_equal(found, np.full((1, 16), np.float32(sign * 255 * 64 * inputs)))


# --- words -------------------------------------------------------------------------------------------------


def word_cases(inputs: int) -> dict[str, tuple[Ints, Ints]]:
    """(rows with a peak of 32,767 and a norm within ROW_NORM, whose scale is therefore 1, and weights)."""
    rng = np.random.default_rng(inputs)
    # What is left of the norm beside the peak, with room for the rounding of both norms (1 in 1,000).
    rest = int(0.999 * np.sqrt((ROW_NORM - np.sqrt(inputs)) ** 2 - I16_PEAK**2) / np.sqrt(inputs))
    rest = min(rest, I16_PEAK)
    rows = rng.integers(-rest, rest + 1, (13, inputs))
    rows[:, 0] = rng.choice([-I16_PEAK, I16_PEAK], 13)
    longest = np.full((1, inputs), rest)
    longest[0, 0] = I16_PEAK
    norm = np.sqrt((longest.astype(np.float64) ** 2).sum())
    along = np.trunc(longest * (WEIGHT_NORM / norm)).astype(np.int64)
    weights = rng.integers(-1, 2, (20, inputs)) * int(WEIGHT_NORM / np.sqrt(inputs))
    peak = np.zeros((16, inputs), np.int64)
    peak[np.arange(16), np.arange(16) % inputs] = -WEIGHT_NORM
    return {
        "any": (rows, weights),
        "along": (longest, np.repeat(along, 16, axis=0)),
        "against": (-longest, np.repeat(along, 16, axis=0)),
        "single peaks": (rows, peak),
    }


@isas
@pytest.mark.parametrize("inputs", SIZES)
def test_int16_sums_are_exact_on_every_instruction_set(isa: str, inputs: int) -> None:
    """Rows along the weights reach 2.13e9 of the int32's 2.147e9; every partial sum lies below (Cauchy, Schwarz)."""
    for name, (rows, weights) in word_cases(inputs).items():
        assert (np.abs(rows).max(axis=1) == I16_PEAK).all()
        assert np.linalg.norm(weights.astype(np.float64), axis=1).max() <= WEIGHT_NORM
        exact = rows @ weights.T
        assert np.abs(exact).max() < 2**31
        found = native.probe_multiply(isa, stored("i16", weights), rows.astype(np.float32))
        np.testing.assert_array_equal(found[:, : len(weights)], exact.astype(np.float32), err_msg=name)


def test_the_longest_int16_sums_come_close_to_the_limit() -> None:
    rows, weights = word_cases(1152)["along"]
    assert 2**31 > (rows @ weights.T).max() > 0.997 * WEIGHT_NORM * ROW_NORM


# --- scales ------------------------------------------------------------------------------------------------


@isas
@pytest.mark.parametrize("kind", ["i16", "i8"])
def test_scales_and_bias_are_applied_in_fp32(isa: str, kind: str) -> None:
    """value = fp32(sum) * scale, bit for bit; a bias is added with one rounding or (where the processor multiplies
    and adds in one) with none in between: half a unit in the last place of the product."""
    rng = np.random.default_rng(1)
    rows, weights = (byte_cases if kind == "i8" else word_cases)(64)["any"]
    scales = rng.uniform(1e-3, 1e3, len(weights)).astype(np.float32)
    bias = rng.standard_normal(len(weights)).astype(np.float32)
    plain = (rows @ weights.T).astype(np.float32) * scales
    x = rows.astype(np.float32)
    found = native.probe_multiply(isa, stored(kind, weights, scales), x)[:, : len(weights)]
    np.testing.assert_array_equal(found, plain)
    with_bias = native.probe_multiply(isa, stored(kind, weights, scales, bias), x)[:, : len(weights)]
    ulp = np.spacing(np.abs(plain)) + np.spacing(np.abs(plain + bias))
    assert (np.abs(with_bias - (plain.astype(np.float64) + bias)) <= ulp).all()


@isas
@pytest.mark.parametrize("kind", ["f32", "i16", "i8"])
def test_outputs_behind_the_last_are_zeros(isa: str, kind: str) -> None:
    """A product computes whole panels of 16; what it writes there must be harmless to whoever reads it."""
    w = np.random.default_rng(2).standard_normal((17, 33)).astype(np.float32)
    found = native.probe_multiply(isa, native.Matrix.pack(kind, w, w[:, 0].copy()), w[:5])
    assert found.shape == (5, 32)
    assert (found[:, 17:] == 0).all()
