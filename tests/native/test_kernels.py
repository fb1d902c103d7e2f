"""Every kernel of every instruction set against a readable twin in float64, at awkward sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runoff import _native as native

ISAS = native.available_isas()
EPS = float(np.finfo(np.float32).eps)
ROWS = (1, 2, 5, 6, 7, 13, 97)
SHAPES = ((1, 1), (15, 2), (16, 3), (17, 31), (64, 64), (130, 257), (96, 1152))  # outputs, inputs
NAMES = ("identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid")

Floats = npt.NDArray[np.float32]
isas = pytest.mark.parametrize("isa", ISAS)


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def twin(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    erf = np.vectorize(math.erf)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return {
            "identity": lambda: x,
            "gelu": lambda: x * (1 + erf(x / np.sqrt(2))) / 2,
            "gelu_tanh": lambda: x * (1 + np.tanh(inner)) / 2,
            "relu": lambda: np.maximum(x, 0),
            "silu": lambda: x * sigmoid,
            "tanh": lambda: np.tanh(x),
            "sigmoid": lambda: sigmoid,
        }[name]()


def byte_unit(x: Floats) -> npt.NDArray[np.float64]:
    """A 255th of the way from the least number of a row (or 0) to its greatest, [rows]."""
    wide = x.astype(np.float64)
    span: npt.NDArray[np.float64] = np.maximum(wide.max(axis=1), 0) - np.minimum(wide.min(axis=1), 0)
    return span / 255


def error_of(kind: str, x: Floats, w: Floats) -> npt.NDArray[np.float64]:
    """The most a product of that kind may be off, [rows, outputs].

    f32: K + 2 roundings of partial sums, none larger than the sum of magnitudes. Integers: half a unit in every
    element of both operands (Cauchy and Schwarz over the rounding errors), and the last float multiplications.
    """
    magnitudes = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
    inputs = x.shape[1]
    if kind == "f32":
        return (inputs + 2) * EPS * magnitudes + 1e-30
    x_norm, w_norm = (np.linalg.norm(part.astype(np.float64), axis=1) for part in (x, w))
    half = 0.5 * math.sqrt(inputs)
    if kind == "i16":
        x_unit = np.maximum(x_norm / (65500 - half), np.abs(x).max(axis=1) / 32767)
        w_unit = w_norm / (32700 - half)
    else:
        pairs = np.abs(np.pad(w, ((0, 0), (0, inputs % 2)))).reshape(len(w), -1, 2).sum(axis=2)
        x_unit, w_unit = byte_unit(x), pairs.max(axis=1) / 127
    errors = half * (np.outer(x_unit, w_norm) + np.outer(x_norm, w_unit)) + inputs / 4 * np.outer(
        x_unit, w_unit
    )
    return 1.001 * errors + 4 * EPS * magnitudes + 1e-30


# --- products ----------------------------------------------------------------------------------------------


@isas
@pytest.mark.parametrize("kind", ["f32", "i16", "i8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_numpy_within_their_rounding(
    isa: str, kind: str, shape: tuple[int, int]
) -> None:
    outputs, inputs = shape
    w, bias = draw(outputs, inputs, seed=1), draw(outputs, seed=2)
    for rows in ROWS:
        x = draw(rows, inputs, seed=3)
        exact = x.astype(np.float64) @ w.astype(np.float64).T
        for with_bias in (False, True):
            matrix = native.Matrix.pack(kind, w, bias if with_bias else None)
            found = native.probe_multiply(isa, matrix, x)[:, :outputs]
            wanted = exact + bias if with_bias else exact
            allowed = error_of(kind, x, w) + EPS * (np.abs(wanted) + np.abs(bias))
            assert (np.abs(found - wanted) <= allowed).all()


@isas
@pytest.mark.parametrize("kind", ["f32", "i16", "i8"])
def test_a_row_has_the_same_bits_whatever_is_beside_it(isa: str, kind: str) -> None:
    matrix, x = native.Matrix.pack(kind, draw(80, 130)), draw(31, 130, seed=1)
    together = native.probe_multiply(isa, matrix, x)
    for rows in range(1, 31):
        np.testing.assert_array_equal(native.probe_multiply(isa, matrix, x[rows:]), together[rows:])
        np.testing.assert_array_equal(native.probe_multiply(isa, matrix, x[:rows]), together[:rows])


@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 64, 255, 768])
def test_int8_products_are_the_same_on_every_instruction_set(inputs: int) -> None:
    """A row's peak and the sums of integers are exact; three roundings in the scales follow. (i16 scales by norms,
    whose sums have an order of their own on each instruction set, and so may round a number the other way.)"""
    matrix, x = native.Matrix.pack("i8", draw(40, inputs)), draw(9, inputs, seed=1)
    first, *others = (native.probe_multiply(isa, matrix, x) for isa in ISAS)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=4 * EPS, atol=0)


def integers_of(matrix: Any, width: int) -> npt.NDArray[np.int64]:
    """The packed integers as [outputs padded, inputs padded], read back from the panels."""
    group = 4 // width
    flat = matrix.panels.view(np.int8 if width == 1 else np.int16).astype(np.int64)
    panels = flat.reshape(-(-matrix.outputs // 16), -1, 16, group)
    return panels.transpose(0, 2, 1, 3).reshape(panels.shape[0] * 16, -1)


@pytest.mark.parametrize("inputs", [2, 3, 64, 257, 3840])
@pytest.mark.parametrize("case", ["normal", "equal", "one peak", "alternating"])
def test_packed_integers_cannot_overflow_a_sum(inputs: int, case: str) -> None:
    w = draw(20, inputs)
    if case == "equal":
        w[:] = 0.3
    elif case == "one peak":
        w[:, 1] = 1e4
    elif case == "alternating":
        w[:, ::2], w[:, 1::2] = 1.0, -1.0
    bytes_of = integers_of(native.Matrix.pack("i8", w), 1)
    neighbours = np.abs(np.pad(bytes_of, ((0, 0), (0, bytes_of.shape[1] % 2)))).reshape(len(bytes_of), -1, 2)
    assert neighbours.sum(axis=2).max() <= 128
    words = integers_of(native.Matrix.pack("i16", w), 2)
    assert np.sqrt((words.astype(np.float64) ** 2).sum(axis=1)).max() <= 32700
    assert np.abs(words).max() > 0


@isas
@pytest.mark.parametrize("inputs", [2, 64, 257, 3840])
@pytest.mark.parametrize("case", ["equal", "aligned", "one peak", "opposite"])
def test_the_worst_rows_do_not_overflow(isa: str, inputs: int, case: str) -> None:
    """Rows that lie exactly along the weights reach the largest sums there are."""
    w = np.ones((16, inputs), np.float32)
    if case == "aligned":
        w = draw(16, inputs)
    x = {"opposite": -w, "one peak": np.eye(inputs, dtype=np.float32)[:16] * 1e6}.get(case, w)[:16]
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    for kind in ("i16", "i8"):
        found = native.probe_multiply(isa, native.Matrix.pack(kind, w), np.ascontiguousarray(x))
        assert (np.abs(found - exact) <= error_of(kind, x, w)).all()


@isas
@pytest.mark.parametrize("name", NAMES)
def test_epilogues_apply_what_they_say(isa: str, name: str) -> None:
    number = NAMES.index(name)
    x = draw(7, 33)
    for outputs in (32, 96, 160):
        w = draw(outputs, 33, seed=1) / 6
        matrix = native.Matrix.pack("f32", w)
        exact = x.astype(np.float64) @ w.astype(np.float64).T
        found = native.probe_multiply(isa, matrix, x, form="act", activation=number)
        np.testing.assert_allclose(found, twin(name, exact), rtol=2e-5, atol=2e-6)
        panels = exact.reshape(7, -1, 2, 16)
        gated = (twin(name, panels[:, :, 0]) * panels[:, :, 1]).reshape(7, -1)
        found = native.probe_multiply(isa, matrix, x, form="glu", activation=number)
        np.testing.assert_allclose(found, gated, rtol=5e-5, atol=5e-6)
        found = native.probe_multiply(isa, matrix, x, form="add")
        np.testing.assert_allclose(found, exact + 1, rtol=2e-5, atol=2e-6)


@isas
@pytest.mark.parametrize("half", [8, 16, 32])
def test_rotation_turns_the_pairs_of_a_panel_by_the_rows_position(isa: str, half: int) -> None:
    heads, rows, inputs = 3, 11, 20
    w, x = draw(3 * heads * 2 * half, inputs), draw(rows, inputs, seed=1)
    positions = np.arange(rows, dtype=np.int32)[::-1].copy()
    angles = np.arange(rows)[:, None] * (0.7 ** np.arange(half))
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    rotated = 2 * heads * 2 * half
    found = native.probe_rotate(isa, native.Matrix.pack("f32", w), x, rotated, positions, cosines, sines)
    wanted = (x.astype(np.float64) @ w.astype(np.float64).T).reshape(rows, 3, heads, half // 8, 2, 8)
    cosine, sine = (part[positions].reshape(rows, 1, 1, half // 8, 8) for part in (cosines, sines))
    first, second = wanted[:, :2, :, :, 0].copy(), wanted[:, :2, :, :, 1].copy()
    wanted[:, :2, :, :, 0] = first * cosine - second * sine
    wanted[:, :2, :, :, 1] = second * cosine + first * sine
    np.testing.assert_allclose(found, wanted.reshape(rows, -1), rtol=0, atol=3 * inputs * EPS * 20)


# --- rows --------------------------------------------------------------------------------------------------


@isas
@pytest.mark.parametrize("kind", ["i16", "i8"])
@pytest.mark.parametrize("columns", [1, 2, 3, 7, 64, 259])
def test_rows_are_rounded_to_half_a_unit(isa: str, kind: str, columns: int) -> None:
    x = draw(8, columns) * np.array([1e-30, 1e-3, 1, 1, 1e3, 1e15, 1, 1], np.float32)[:, None]
    x[3] = 0
    x[6, 0] = 1000 * np.abs(x[6]).max()
    found = native.probe_rounded(isa, kind, x)
    unit = np.maximum(np.abs(x).max(axis=1) / 32767, np.linalg.norm(x.astype(np.float64), axis=1) / 65000)
    unit = unit if kind == "i16" else byte_unit(x)
    assert (np.abs(found - x) <= 0.5001 * unit[:, None] + EPS * np.abs(x)).all()
    assert (found[3] == 0).all()


@isas
@pytest.mark.parametrize("columns", [2, 7, 64, 259])
def test_a_row_whose_ends_fall_between_two_bytes_stays_within_them(isa: str, columns: int) -> None:
    """With a unit of 1 the ends -3.5 and 251.5 (the other way round too) are both halves: rounded to even, the
    lower becomes 4 below zero and the upper 252 above, 257 integers."""
    x = np.zeros((2, columns), np.float32)
    x[0, :2], x[1, :2] = (-3.5, 251.5), (3.5, -251.5)
    found = native.probe_rounded(isa, "i8", x)
    assert (np.abs(found - x) <= 0.5).all()


@isas
@pytest.mark.parametrize("kind", ["i16", "i8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 8, 36])
def test_what_is_not_finite_makes_the_whole_row_so(isa: str, kind: str, bad: float, place: int) -> None:
    x = draw(3, 37)
    x[1, place] = bad
    found = native.probe_multiply(isa, native.Matrix.pack(kind, draw(20, 37, seed=1)), x)[:, :20]
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()


@isas
@pytest.mark.parametrize("columns", [1, 7, 16, 33, 256, 1000])
@pytest.mark.parametrize("with_bias", [False, True])
def test_norms_are_those_of_float64(isa: str, columns: int, with_bias: bool) -> None:
    x, weight = draw(5, columns), draw(columns, seed=1)
    x[1] = 3.0  # no variance
    x[2] += 100.0
    bias = draw(columns, seed=2) if with_bias else None
    rows = x.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    wanted = wanted if bias is None else wanted + bias
    found = native.probe_norm(isa, x, weight, bias, 1e-5)
    # The mean of numbers near 100 is off by their ulp, which the norm then divides by a spread of about 1.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-4 * max(1, np.abs(weight).max()))


@isas
@pytest.mark.parametrize("name", NAMES)
def test_activations_follow_float64_everywhere(isa: str, name: str) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), [-1e4, 1e4, -0.0, 0.0, 1e-30, -1e-30, 88.0, -88.0]])
    grid = x.astype(np.float32)[None]
    found = native.probe_activate(isa, NAMES.index(name), grid)
    # 1.5e-7 of the formula for erf and a few roundings, times x
    np.testing.assert_allclose(found, twin(name, grid.astype(np.float64)), rtol=4e-6, atol=2e-6)


@isas
@pytest.mark.parametrize("name", NAMES[:1] + NAMES[1:3] + NAMES[4:])
def test_activations_pass_on_what_is_not_a_number(isa: str, name: str) -> None:
    found = native.probe_activate(isa, NAMES.index(name), np.full((1, 19), np.nan, np.float32))
    assert np.isnan(found).all()


# --- attention ---------------------------------------------------------------------------------------------


def attention(query: Floats, key: Floats, value: Floats, window: int) -> npt.NDArray[np.float64]:
    """Weights are powers of two: scores come scaled by log2(e)."""
    scores = query.astype(np.float64) @ key.astype(np.float64).T
    if window >= 0:
        places = np.arange(len(key))
        scores[np.abs(places[:, None] - places) > window] = -np.inf
    weights = np.exp2(scores - scores.max(axis=1, keepdims=True))
    return weights @ value.astype(np.float64) / weights.sum(axis=1, keepdims=True)


@isas
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 24, 25, 49, 129, 130, 300])
@pytest.mark.parametrize("window", [-1, 0, 1, 5, 64])
def test_attention_equals_the_textbook(isa: str, length: int, window: int) -> None:
    """A weighted mean of numbers around 1 over at most 300 keys: sums of 300 roundings, and scores of size 40."""
    for size in (16, 64, 80):
        query, key, value = (draw(length, size, seed=seed) for seed in range(3))
        wanted = attention(query, key, value, window)
        found = native.probe_attend(isa, query, key, value, window, 0, length)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
        first = native.probe_attend(isa, query, key, value, window, 0, 1, is_single=True)
        np.testing.assert_allclose(first[0], wanted[0], rtol=0, atol=2e-5)


@isas
@pytest.mark.parametrize("window", [-1, 64])
def test_queries_in_tasks_have_the_bits_of_queries_together(isa: str, window: int) -> None:
    query, key, value = (draw(200, 32, seed=seed) for seed in range(3))
    together = native.probe_attend(isa, query, key, value, window, 0, 200)
    for first, last in [(0, 24), (48, 96), (96, 200), (192, 200)]:
        part = native.probe_attend(isa, query, key, value, window, first, last)
        np.testing.assert_array_equal(part[first:last], together[first:last])


@isas
def test_huge_scores_do_not_overflow(isa: str) -> None:
    query, key, value = (draw(40, 16, seed=seed) for seed in range(3))
    found = native.probe_attend(isa, query * 1e4, key * 1e4, value, -1, 0, 40)
    best = (query.astype(np.float64) @ key.T.astype(np.float64)).argmax(axis=1)
    np.testing.assert_allclose(found, value[best], atol=1e-5)


# --- what the benchmarks ask -------------------------------------------------------------------------------


@isas
@pytest.mark.parametrize("kind", ["f32", "i16", "i8"])
def test_stages_can_be_timed(isa: str, kind: str) -> None:
    """benchmarks/roofline.py: no time is judged here, only that there is one and that misfits are refused."""
    matrix = native.Matrix.pack(kind, draw(64, 40, seed=1))
    quantising, product = native.time_multiply(isa, matrix, draw(7, 40), "glu", 1, 2)
    assert 0 <= quantising < 1
    assert 0 < product < 1
    assert 0 < native.time_attend(isa, 30, 8, 32, 2) < 1
    with pytest.raises(ValueError, match="does not fit"):
        native.time_multiply(isa, matrix, draw(7, 39), "store", 0, 1)
    with pytest.raises(ValueError, match="a gate for every panel"):
        native.time_multiply(isa, native.Matrix.pack(kind, draw(48, 40)), draw(7, 40), "glu", 1, 1)
    with pytest.raises(ValueError, match="sizes"):
        native.time_attend(isa, 30, 8, 31, 2)
