"""Packed matrices out of a file: what was packed comes back, and no sizes or numbers in a damaged one do harm."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runoff import _native as native

ISAS = native.available_isas()
KINDS = ("f32", "i16", "i8")
isas = pytest.mark.parametrize("isa", ISAS)
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def parts_of(kind: str, outputs: int = 20, inputs: int = 7) -> dict[str, Any]:
    """A whole packed matrix, in copies of its own."""
    packed = native.Matrix.pack(kind, draw(outputs, inputs))
    scales = None if kind == "f32" else packed.scales.copy()
    return {
        "kind": kind,
        "outputs": outputs,
        "inputs": inputs,
        "panels": packed.panels.copy(),
        "scales": scales,
        "bias": draw(outputs, seed=1),
    }


@isas
@kinds
@pytest.mark.parametrize("shape", [(1, 1), (16, 4), (17, 3), (130, 65)])
def test_a_stored_matrix_gives_the_bits_of_the_packed_one(
    isa: str, kind: str, shape: tuple[int, int]
) -> None:
    parts = parts_of(kind, *shape)
    x = draw(7, shape[1], seed=2)
    fresh = native.Matrix.pack(kind, draw(*shape), parts["bias"])
    found = native.probe_multiply(isa, native.Matrix.stored(**parts), x)
    np.testing.assert_array_equal(found, native.probe_multiply(isa, fresh, x))


@kinds
def test_a_stored_matrix_keeps_the_array_that_it_reads(kind: str) -> None:
    """Panels are not copied: a checkpoint's file stays mapped as long as a matrix of it lives."""
    parts, x = parts_of(kind), draw(3, 7, seed=2)
    matrix = native.Matrix.stored(**parts)
    wanted = native.probe_multiply("", matrix, x)
    del parts
    gc.collect()
    filler = [np.full(4096, 255, np.uint8) for _ in range(64)]
    np.testing.assert_array_equal(native.probe_multiply("", matrix, x), wanted)
    assert len(filler) == 64


@kinds
def test_the_panels_of_a_matrix_outlive_it(kind: str) -> None:
    matrix = native.Matrix.pack(kind, draw(40, 33))
    panels, wanted = matrix.panels, matrix.panels.tobytes()
    del matrix
    gc.collect()
    assert panels.tobytes() == wanted
    with pytest.raises(ValueError, match="read-only"):
        panels[0] = 1


def test_panels_may_be_read_only_and_anywhere_in_memory() -> None:
    parts, x = parts_of("i8"), draw(3, 7, seed=2)
    wanted = native.probe_multiply("", native.Matrix.stored(**parts), x)
    for offset in (1, 2, 3, 5):
        moved = np.zeros(parts["panels"].size + offset, np.uint8)[offset:]
        moved[:] = parts["panels"]
        moved.flags.writeable = False
        matrix = native.Matrix.stored(**(parts | {"panels": moved}))
        np.testing.assert_array_equal(native.probe_multiply("", matrix, x), wanted)


# --- damaged ones ------------------------------------------------------------------------------------------

MOST = 2**31 - 1
BAD_SIZES = [0, -1, -(2**31), MOST, MOST - 14, 2**30, (1 << 24) + 1, (1 << 17) + 1]


@kinds
@pytest.mark.parametrize("name", ["outputs", "inputs"])
@pytest.mark.parametrize("size", BAD_SIZES)
def test_sizes_that_no_matrix_has_are_refused(kind: str, name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"expected \d+ bytes|empty|too large"):
        native.Matrix.stored(**(parts_of(kind) | {name: size}))


@kinds
def test_sizes_whose_bytes_wrap_around_are_refused(kind: str) -> None:
    """2^24 outputs of 2^17 inputs are 2^41 bytes and more; an empty array must not do for them."""
    nothing = {"outputs": 1 << 24, "inputs": 1 << 17, "panels": np.zeros(0, np.uint8)}
    with pytest.raises(ValueError, match=r"expected \d{13,} bytes"):
        native.Matrix.stored(**(parts_of(kind) | nothing))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 19, 31])
@pytest.mark.parametrize("kind", ["i16", "i8"])
def test_scales_that_are_not_finite_are_refused(kind: str, place: int, bad: float) -> None:
    parts = parts_of(kind)
    parts["scales"][place] = bad
    with pytest.raises(ValueError, match="not a finite number"):
        native.Matrix.stored(**parts)


@pytest.mark.parametrize(
    "change",
    [
        {"panels": np.zeros((4, 128), np.uint8)},
        {"panels": np.zeros(512, np.float32)},
        {"panels": None},
        {"scales": np.zeros((2, 16), np.float32)},
        {"scales": "1"},
        {"bias": np.zeros((20, 1), np.float32)},
        {"outputs": 2**40},
        {"outputs": 2.5},
        {"kind": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_parts_of_another_type_or_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        native.Matrix.stored(**(parts_of("i8") | change))


def test_a_stored_fp32_matrix_takes_no_scales() -> None:
    with pytest.raises(ValueError, match="expected 0 scales"):
        native.Matrix.stored(**(parts_of("f32") | {"scales": np.ones(32, np.float32)}))


def test_any_sizes_are_either_right_or_refused() -> None:
    """Sizes and lengths at random: a matrix is made just where its arrays have the lengths that it needs."""
    rng = np.random.default_rng(0)
    made = 0
    for _ in range(2000):
        kind = KINDS[rng.integers(3)]
        outputs, inputs = (int(size) for size in rng.integers(-2, 40, 2))
        group = {"f32": 1, "i16": 2, "i8": 4}[kind]
        padded = -(-outputs // 16) * 16
        wanted = max(0, padded * -(-inputs // group) * 4)
        lengths = {
            "panels": wanted,
            "scales": 0 if kind == "f32" else max(0, padded),
            "bias": max(0, outputs),
        }
        for name in lengths:
            if rng.random() < 0.2:
                lengths[name] = max(0, lengths[name] + int(rng.integers(-17, 18)))
        is_right = outputs > 0 and inputs > 0 and lengths["panels"] == wanted
        is_right &= lengths["scales"] == (0 if kind == "f32" else padded) and lengths["bias"] == outputs
        arguments = (
            np.zeros(lengths["panels"], np.uint8),
            np.zeros(lengths["scales"], np.float32),
            np.zeros(lengths["bias"], np.float32),
        )
        if is_right:
            assert native.Matrix.stored(kind, outputs, inputs, *arguments).outputs == outputs
            made += 1
        else:
            with pytest.raises(ValueError, match=r"expected|empty"):
                native.Matrix.stored(kind, outputs, inputs, *arguments)
    assert made > 500


@isas
def test_any_int8_weights_multiply_without_harm(isa: str) -> None:
    """Damaged integers may break the rule for neighbours, and sums then saturate where there is no VNNI. Their
    numbers are wrong, and no more: outputs whose integers are sound keep their bits."""
    rng = np.random.default_rng(0)
    parts, x = parts_of("i8", 40, 33), draw(13, 33, seed=2)
    sound = native.probe_multiply(isa, native.Matrix.stored(**parts), x)
    panels = parts["panels"].reshape(3, -1)
    panels[1] = rng.integers(0, 256, panels.shape[1])
    found = native.probe_multiply(isa, native.Matrix.stored(**parts), x)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, :16], sound[:, :16])
    np.testing.assert_array_equal(found[:, 32:], sound[:, 32:])


@isas
def test_any_fp32_weights_multiply_without_harm(isa: str) -> None:
    rng = np.random.default_rng(0)
    parts, x = parts_of("f32", 40, 33), draw(13, 33, seed=2)
    parts["panels"] = rng.integers(0, 256, parts["panels"].size).astype(np.uint8)
    assert native.probe_multiply(isa, native.Matrix.stored(**parts), x).shape == (13, 48)
