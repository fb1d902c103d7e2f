"""Kernels at the edges of fp32: tiny and huge numbers, outliers, what is not finite, ties, the longest sequences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from runoff import _native as native

ISAS = native.available_isas()
EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
isas = pytest.mark.parametrize("isa", ISAS)
integer_kinds = pytest.mark.parametrize("kind", ["i16", "i8"])


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# --- rows and weights of any size --------------------------------------------------------------------------


def unit_of(kind: str, x: Doubles) -> Doubles:
    """Half of it is the most that a number of the row is rounded by."""
    if kind == "i8":
        span: Doubles = np.maximum(x.max(axis=1), 0) - np.minimum(x.min(axis=1), 0)
        return span / 255
    peak = np.abs(x).max(axis=1)
    norm = np.linalg.norm(x, axis=1)
    return np.maximum(peak / 32_767, norm / (65_500 - 0.5 * math.sqrt(x.shape[1])))


SHAPES_OF_ROWS = ("normal", "equal", "one outlier")
# Squares of the first three are 0 in fp32, of the next two have lost bits, and the last three's sum is infinite.
FACTORS = (1e-33, 1e-30, 1e-25, 1e-22, 1e-20, 1e-15, 1e-5, 1.0, 1e5, 1e15, 1e19, 1e25, 1e35)


@isas
@integer_kinds
@pytest.mark.parametrize("shape", SHAPES_OF_ROWS)
def test_rows_of_any_size_are_rounded_as_if_they_were_near_1(isa: str, kind: str, shape: str) -> None:
    """Two products bring a number to its integer (1 and 3 roundings): 0.1 unit at 32,767 beside the half. Sums are
    those of the rounded rows: had one overflowed, its sign would be wrong. The weights are packed to half a unit
    too; sums of Cauchy and Schwarz bound both."""
    inputs = 300
    plain = draw(2, inputs) if shape != "equal" else np.ones((2, inputs), np.float32)
    if shape == "one outlier":
        plain[:, 7] = 50  # beyond half of the norm: int16, not the norm, is what limits the row
    w = np.concatenate([draw(15, inputs, seed=1), np.ones((1, inputs), np.float32)])
    matrix = native.Matrix.pack(kind, w)
    rows, weights = plain.astype(np.float64), w.astype(np.float64)
    exact = rows @ weights.T
    unit = unit_of(kind, rows)
    pair = np.abs(weights).reshape(16, -1, 2).sum(axis=2).max(axis=1) / 127
    w_unit = pair if kind == "i8" else np.linalg.norm(weights, axis=1) / (32_700 - 0.5 * math.sqrt(inputs))
    half = 0.6 * math.sqrt(inputs)
    norms = np.linalg.norm(rows, axis=1), np.linalg.norm(weights, axis=1)
    allowed = half * (np.outer(unit, norms[1]) + np.outer(norms[0], w_unit))
    allowed += half**2 * np.outer(unit, w_unit) + 8 * EPS * np.abs(exact)
    for factor in FACTORS:
        x = (rows * factor).astype(np.float32)
        rounded = native.probe_rounded(isa, kind, x).astype(np.float64) / factor
        assert (np.abs(rounded - rows) <= 0.6 * unit[:, None] + 4 * EPS * np.abs(rows)).all(), factor
        found = native.probe_multiply(isa, matrix, x).astype(np.float64) / factor
        assert (np.abs(found - exact) <= allowed).all(), factor


@isas
@integer_kinds
def test_rows_too_small_for_a_factor_become_zeros(isa: str, kind: str) -> None:
    """32,767 / 1e-36 is no fp32 number. What is lost is smaller than anything that a model could tell from zero."""
    x = np.stack([np.full(37, 1e-37), np.full(37, 1e-44), np.zeros(37), np.full(37, -1e-40)]).astype(
        np.float32
    )
    w = draw(16, 37, seed=1)
    found = native.probe_multiply(isa, native.Matrix.pack(kind, w), x)
    assert (np.abs(found) <= 37 * 1.01e-37 * np.abs(w).max()).all()
    assert (native.probe_rounded(isa, kind, x)[2] == 0).all()


@isas
@integer_kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_what_is_not_finite_shows_whatever_is_beside_it(isa: str, kind: str, bad: float, size: float) -> None:
    for columns, place in [(1, 0), (16, 15), (37, 3), (37, 36)]:
        x = (draw(3, columns) * size).astype(np.float32)
        x[1, place] = bad
        found = native.probe_multiply(isa, native.Matrix.pack(kind, draw(20, columns, seed=1)), x)[:, :20]
        assert not np.isfinite(found[1]).any()
        assert np.isfinite(found[[0, 2]]).all()


@isas
@integer_kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_shows_in_its_output_and_no_other(
    isa: str, kind: str, bad: float
) -> None:
    w = draw(20, 37)
    w[4, 9] = bad
    found = native.probe_multiply(isa, native.Matrix.pack(kind, w), draw(3, 37, seed=1))[:, :20]
    assert not np.isfinite(found[:, 4]).any()
    assert np.isfinite(np.delete(found, 4, axis=1)).all()


@isas
@integer_kinds
def test_weights_of_any_size_are_packed_as_if_they_were_near_1(isa: str, kind: str) -> None:
    """Outputs have scales of their own: each is the product of its own weights, relative to them."""
    factors = np.array([1e-30, 1e-20, 1e-5, 1, 1e5, 1e20, 1e30, 0], np.float64)[:, None]
    w, x = draw(8, 64).astype(np.float64), draw(5, 64, seed=1)
    near_1 = native.probe_multiply(isa, native.Matrix.pack(kind, w.astype(np.float32)), x)[:, :8]
    found = native.probe_multiply(isa, native.Matrix.pack(kind, (w * factors).astype(np.float32)), x)[:, :8]
    sizes = np.abs(x).astype(np.float64) @ np.abs(w).T
    # The weights times a factor are rounded to fp32, which may move an integer by one unit where it was a tie.
    unit = 1e-4 if kind == "i16" else 1e-2
    assert (np.abs(found[:, :7] / factors[:7, 0] - near_1[:, :7]) <= unit * sizes[:, :7]).all()
    assert (found[:, 7] == 0).all()


# --- norms and activations ---------------------------------------------------------------------------------


@isas
@pytest.mark.parametrize("columns", [1, 7, 256, 1000])
@pytest.mark.parametrize("mean", [0.0, 1e3, -1e5])
def test_a_large_mean_costs_a_norm_only_its_rounding(isa: str, columns: int, mean: float) -> None:
    """The mean is wrong by at most log2(columns) + columns / 16 roundings of it, every difference by as much and
    one more, and the spread of these rows is about 1. With one column the spread is 0: eps alone divides."""
    x = (draw(4, columns) + mean).astype(np.float32)
    weight, bias = draw(columns, seed=1), draw(columns, seed=2)
    rows = x.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    wanted = centred / spread * weight + bias
    off = (columns / 4 + 12) * EPS / 2 * np.abs(rows).max(axis=1, keepdims=True)
    # A shifted mean moves the difference, and adds its square to the variance.
    moved = off / spread * (1 + np.abs(centred) * (2 * np.abs(centred).mean() + off) / spread**2)
    allowed = np.abs(weight) * (moved + 8 * EPS * np.abs(centred) / spread) + 2 * EPS * np.abs(wanted)
    assert (np.abs(native.probe_norm(isa, x, weight, bias, 1e-5) - wanted) <= allowed + 1e-7).all()


@isas
def test_a_row_of_equal_numbers_is_normed_to_the_bias(isa: str) -> None:
    """Sums of 48 times 3 are exact, so is their mean."""
    weight, bias = draw(48), draw(48, seed=1)
    x = np.full((1, 48), 3, np.float32)
    np.testing.assert_array_equal(native.probe_norm(isa, x, weight, bias, 1e-12)[0], bias)


NAMES = ("identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid")
NOT_A_LIMIT = None  # 0 times infinity: anything that is not finite
LIMITS = {  # at minus and plus infinity
    "identity": (-np.inf, np.inf),
    "gelu": (NOT_A_LIMIT, np.inf),
    "gelu_tanh": (NOT_A_LIMIT, np.inf),
    "relu": (0.0, np.inf),
    "silu": (NOT_A_LIMIT, np.inf),
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
}


@isas
@pytest.mark.parametrize("name", NAMES)
def test_activations_have_their_limits_at_infinity(isa: str, name: str) -> None:
    """exp2 stops at 2^127, so what should be 0 may be 2^-127. Vectors of every length get the same."""
    for count in (1, 3, 4, 8, 16, 19):
        for bad, wanted in zip((-np.inf, np.inf), LIMITS[name], strict=True):
            found = native.probe_activate(isa, NAMES.index(name), np.full((1, count), bad, np.float32))
            if wanted is NOT_A_LIMIT:
                assert not np.isfinite(found).any()
            else:
                np.testing.assert_allclose(found, np.full((1, count), wanted), rtol=0, atol=TINY)


@isas
@pytest.mark.parametrize("name", NAMES)
def test_activations_pass_on_what_is_not_a_number_and_nothing_else(isa: str, name: str) -> None:
    x = draw(1, 37)
    alone = native.probe_activate(isa, NAMES.index(name), x)
    for place in (0, 5, 36):
        spoilt = x.copy()
        spoilt[0, place] = np.nan
        found = native.probe_activate(isa, NAMES.index(name), spoilt)
        assert np.isnan(found[0, place])
        np.testing.assert_array_equal(np.delete(found, place), np.delete(alone, place))


@isas
@pytest.mark.parametrize("name", NAMES)
def test_activations_of_zero_are_exact(isa: str, name: str) -> None:
    found = native.probe_activate(isa, NAMES.index(name), np.array([[0.0, -0.0]], np.float32))
    wanted = 0.5 if name == "sigmoid" else 0.0
    np.testing.assert_allclose(found, np.full((1, 2), wanted), rtol=0, atol=EPS)


def error_of_activation(name: str, x: Doubles) -> Doubles:
    """The most an activation may be off.

    exp2 is good to 1.2e-7, and its argument, up to 43 for |x| = 30, to half a unit in the last place: 43 times
    6e-8 times ln 2 = 1.8e-6 of a power at the far end, and less where it counts. The erf of gelu is good to 1.5e-7.
    """
    power = 1.2e-7 + np.abs(x) * EPS / 2 * 1.5
    share = np.exp(-np.abs(x))  # of a power beside the 1 it is added to
    return {
        "identity": 0 * x,
        "relu": 0 * x,
        "gelu": np.abs(x) * (1.5e-7 / 2 + 4 * EPS),
        "gelu_tanh": np.abs(x) * (4 * EPS + np.minimum(power * 4, 1e-6)),
        "silu": np.abs(x) * (2 * EPS + power * share),
        "tanh": 3 * EPS + 2 * power * share,
        "sigmoid": 2 * EPS + power * share,
    }[name]


def exact_activation(name: str, x: Doubles) -> Doubles:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    sigmoid = 1 / (1 + np.exp(-x))
    return {
        "identity": x,
        "relu": np.maximum(x, 0),
        "gelu": x * (1 + erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": x * (1 + np.tanh(inner)) / 2,
        "silu": x * sigmoid,
        "tanh": np.tanh(x),
        "sigmoid": sigmoid,
    }[name]


@isas
@pytest.mark.parametrize("name", NAMES)
def test_activations_are_good_to_a_few_roundings(isa: str, name: str) -> None:
    x = np.linspace(-30, 30, 24_001).astype(np.float32)[None]
    found = native.probe_activate(isa, NAMES.index(name), x)
    wide = x.astype(np.float64)
    assert (np.abs(found - exact_activation(name, wide)) <= error_of_activation(name, wide)).all()


# --- attention ---------------------------------------------------------------------------------------------


def exact_attention(query: Floats, key: Floats, value: Floats, window: int) -> tuple[Doubles, Doubles]:
    """The output, and the most each row's may be off.

    A score is a sum of D products, wrong by D roundings of their sizes; a weight by ln 2 of that, and 2e-7 of its
    own. The output is a mean by these weights, in at most `length` additions.
    """
    scores = query.astype(np.float64) @ key.astype(np.float64).T
    sizes = np.abs(query).astype(np.float64) @ np.abs(key).astype(np.float64).T
    if window >= 0:
        places = np.arange(len(key))
        scores[np.abs(places[:, None] - places) > window] = -np.inf
    weights = np.exp2(scores - scores.max(axis=1, keepdims=True))
    out = weights @ value.astype(np.float64) / weights.sum(axis=1, keepdims=True)
    wrong = query.shape[1] * EPS * sizes.max(axis=1) + 2e-7 + len(key) * EPS / 2
    return out, 2 * wrong[:, None] * np.abs(value).max()


@isas
@pytest.mark.parametrize("size", [16, 32, 64, 80, 128])
@pytest.mark.parametrize("window", [-1, 0, 1, 64, 600])
def test_attention_of_every_head_size_equals_the_textbook(isa: str, size: int, window: int) -> None:
    for length in (1, 17, 25, 130, 513):
        query, key, value = (draw(length, size, seed=seed) for seed in range(3))
        query = query / np.float32(math.sqrt(size))
        wanted, allowed = exact_attention(query, key, value, window)
        found = native.probe_attend(isa, query, key, value, window, 0, length)
        assert (np.abs(found - wanted) <= allowed).all(), length
        for first in range(0, length, 24 * 7):
            one = native.probe_attend(isa, query, key, value, window, first, first + 1, is_single=True)[0]
            assert (np.abs(one - wanted[first]) <= allowed[first]).all(), (length, first)


@isas
@pytest.mark.parametrize("is_single", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e15, -1e15])
def test_ties_share_their_weight_equally(isa: str, is_single: bool, size: float) -> None:
    """Keys that are all alike give every token of the window the same weight, however large the scores are."""
    length, window = 70, 9
    query, key, value = np.ones((length, 16)), np.full((length, 16), size), draw(length, 16)
    parts = [part.astype(np.float32) for part in (query, key, value)]
    last = 1 if is_single else length
    found = native.probe_attend(isa, *parts, window, 0, last, is_single=is_single)
    for row in range(last):
        near = value[max(0, row - window) : row + window + 1].astype(np.float64)
        np.testing.assert_allclose(found[row], near.mean(axis=0), rtol=0, atol=20 * EPS * np.abs(near).max())


@isas
@pytest.mark.parametrize("is_single", [False, True])
def test_a_score_far_above_all_others_takes_all_the_weight(isa: str, is_single: bool) -> None:
    """Differences beyond 126 are weights of exactly 0; scores of 1e30 neither overflow nor vanish."""
    query, key, value = np.ones((48, 16), np.float32), np.zeros((48, 16), np.float32), draw(48, 16)
    for place in (0, 15, 16, 47):
        for score in (130.0, 1e10, 1e30):
            keys = key.copy()
            keys[place, 3] = score
            last = 1 if is_single else 48
            found = native.probe_attend(isa, query, keys, value, -1, 0, last, is_single=is_single)
            np.testing.assert_array_equal(found[:last], np.repeat(value[place : place + 1], last, axis=0))


@isas
def test_scores_below_all_range_still_have_a_largest(isa: str) -> None:
    query, value = np.ones((20, 16), np.float32), draw(20, 16)
    key = np.full((20, 16), -1e36, np.float32)
    key[11] *= np.float32(0.5)
    found = native.probe_attend(isa, query, key, value, -1, 0, 20)
    np.testing.assert_array_equal(found, np.repeat(value[11:12], 20, axis=0))
