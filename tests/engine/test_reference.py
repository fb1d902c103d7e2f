"""The numpy forward and its parts, against torch and against the textbook forms in float64 (standin_dense)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from runoff.checkpoint.config import (
    Dense,
    EncoderConfig,
    Family,
    LayerNorm,
    ModelConfig,
    Normalize,
    StaticConfig,
)
from runoff.contracts import Batch, Encoded
from runoff.engine.reference import (
    ReferenceEngine,
    attend,
    erf,
    gelu,
    layer_norm,
    product,
    rotate,
    sigmoid,
    softmax,
)
from runoff.text.batching import pack
from standin_dense import as_weights, dense_attention, dense_hidden, random_weights, turned

ROUNDING = 2.0**-24
"""The relative error of one fp32 operation."""

WINDOW = 8
# Around the window, twice the window, and a block of 256 queries.
LENGTHS = [1, 2, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 255, 256, 257, 300, 513]


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def packed(lengths: Sequence[int], vocab_size: int = 40) -> Batch:
    """Sequences of random ids, segment 1 in the second half of each."""
    generator = np.random.default_rng(3)
    sequences = [
        Encoded(
            generator.integers(2, vocab_size, length).astype(np.int32),
            (np.arange(length) >= length / 2).astype(np.int32),
        )
        for length in lengths
    ]
    return pack(sequences, rows=range(len(lengths)))


def spans(batch: Batch) -> list[slice]:
    return [slice(*pair) for pair in zip(batch.offsets, batch.offsets[1:], strict=False)]


# --- attention ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 0, 1, WINDOW, 1000])
@pytest.mark.parametrize("length", LENGTHS)
def test_attention_sees_its_window_and_nothing_else(length: int, window: int | None) -> None:
    """A score is a sum of 16 products, wrong by 16 roundings of their sizes; a weight by twice that, and
    the output, a mean of values by these weights, by that share of the largest value."""
    query, key, value = (normal(2, length, 16, seed=seed) for seed in range(3))
    out = np.empty((2, length, 16), np.float32)
    attend(query, key, value, window, out)
    sizes = np.abs(query).sum(-1).max() * np.abs(key).max()
    tolerance = (2 * 16 * sizes + length) * ROUNDING * np.abs(value).max()
    for head in range(2):
        expected = dense_attention(*(part[head].astype(np.float64) for part in (query, key, value)), window)
        np.testing.assert_allclose(out[head], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_first_query_alone_gets_what_it_gets_among_all(length: int) -> None:
    query, key, value = (normal(2, length, 16, seed=seed) for seed in range(3))
    together, alone = np.empty((2, length, 16), np.float32), np.empty((2, 1, 16), np.float32)
    attend(query, key, value, WINDOW, together)
    attend(query[:, :1], key, value, WINDOW, alone)
    np.testing.assert_allclose(alone, together[:, :1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_gives_shares_of_one_without_overflow(scale: float) -> None:
    """exp is good to 2 roundings, the sum over 50 to 50; the difference to the maximum is exact to one."""
    scores = normal(3, 7, 50) * np.float32(scale)
    scores[0, 0, 10:] = -np.inf
    expected = torch.softmax(torch.from_numpy(scores).double(), dim=-1).numpy()
    softmax(scores)
    np.testing.assert_allclose(scores, expected, rtol=(54 + 8 * scale) * ROUNDING, atol=1e-30)
    assert (scores[0, 0, 10:] == 0).all()


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
def test_rotary_positions_turn_pairs_of_the_two_halves(theta: float) -> None:
    """The angle is a product of fp32 numbers: 4 roundings of it, up to 8,000 radians, reach the vector."""
    length, size = 8000, 16
    vectors = normal(length, 2, 3, size)
    expected = np.stack(
        [turned(vectors[:, part, head].astype(np.float64), theta) for part in range(2) for head in range(3)],
        axis=1,
    )
    rotate(vectors, np.arange(length, dtype=np.int32), theta)
    angles = np.arange(length)[:, None] * theta ** (-2 * np.arange(size // 2) / size)
    tolerance = np.tile(4 * (angles + 1) * ROUNDING, 2)[:, None] * 2 * np.abs(vectors).max()
    assert (np.abs(vectors.reshape(length, 6, size) - expected) <= tolerance).all()


def test_position_0_turns_nothing_and_positions_restart() -> None:
    vectors = normal(5, 1, 8)
    twice = np.concatenate([vectors, vectors])
    rotate(twice, np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], np.int32), 10_000.0)
    np.testing.assert_array_equal(twice[0], vectors[0])
    np.testing.assert_array_equal(twice[:5], twice[5:])


# --- products, norms, activations -----------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "outer"), [(32, 48), (256, 768), (384, 1), (1152, 768)])
def test_a_row_of_a_product_does_not_depend_on_how_many_rows_there_are(inner: int, outer: int) -> None:
    """OpenBLAS on AVX-512 takes 16 rows at a time: there the rows are equal bit for bit. On AVX2 it takes 12,
    and may share columns between threads: there they differ by up to 3e-6 where a row's results are about 1."""
    x, weight = normal(200, inner), normal(outer, inner, seed=1) / np.float32(math.sqrt(inner))
    whole = product(x, weight)
    assert 0.5 < whole.std() < 2
    for count in [*range(1, 50), 63, 64, 65, 128, 199]:
        np.testing.assert_allclose(product(x[:count], weight), whole[:count], rtol=0, atol=1e-5)
        np.testing.assert_allclose(product(x[-count:], weight), whole[-count:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33])
def test_a_product_is_the_matrix_product(count: int) -> None:
    x, weight = normal(count, 64), normal(5, 64, seed=1)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    sizes = np.abs(x).astype(np.float64) @ np.abs(weight).T
    assert product(x, weight).shape == (count, 5)
    assert (np.abs(product(x, weight) - expected) <= 64 * ROUNDING * sizes).all()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_equals_torchs(offset: float, has_bias: bool) -> None:
    """The mean of 48 numbers is wrong by a few roundings of their size, which the division by the standard
    deviation (about 1) leaves as it is."""
    x = normal(9, 48) + np.float32(offset)
    weight, bias = normal(48, seed=1), normal(48, seed=2) if has_bias else None
    expected = torch.nn.functional.layer_norm(
        torch.from_numpy(x).double(),
        (48,),
        torch.from_numpy(weight).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        eps=1e-5,
    )
    ours = layer_norm(x, weight, bias, 1e-5)
    tolerance = 8 * ROUNDING * np.abs(x).max() * np.abs(weight).max() * 4
    np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=tolerance)


def test_a_row_of_equal_numbers_is_normed_to_the_bias() -> None:
    weight, bias = normal(16), normal(16, seed=1)
    np.testing.assert_array_equal(layer_norm(np.full((1, 16), 3.0, np.float32), weight, bias, 1e-12)[0], bias)


REALS = np.concatenate([np.linspace(-8, 8, 4001), [-1e4, -0.0, 0.0, 1e-30, 1e4]]).astype(np.float32)


def test_erf_is_good_to_six_ten_millionths() -> None:
    """The formula is good to 1.5e-7 and takes eight roundings of numbers up to 1.5."""
    expected = np.array([math.erf(x) for x in REALS])
    assert np.abs(erf(REALS) - expected).max() < 1.5e-7 + 8 * ROUNDING


def test_gelu_is_the_exact_form_of_torch() -> None:
    """x (1 + erf) / 2: half of erf's error times x, and three roundings of the result."""
    rows = REALS.reshape(-1, 2)
    expected = torch.nn.functional.gelu(torch.from_numpy(rows).double()).numpy()
    assert (np.abs(gelu(rows) - expected) <= np.abs(rows) * (3.2e-7 + 3 * ROUNDING)).all()


def test_gelu_of_more_rows_than_a_block_keeps_them_apart() -> None:
    rows = normal(5000, 40)
    np.testing.assert_array_equal(gelu(rows), np.concatenate([gelu(rows[:3]), gelu(rows[3:])]))
    assert gelu(rows[:0]).shape == (0, 40)


def test_sigmoid_never_overflows() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        shares = sigmoid(np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32))
    assert shares.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    # 1 - 1/(1 + e^-|x|) keeps only what is left of 1: 2^-24 of it.
    x = np.linspace(-30, 30, 601).astype(np.float32)
    np.testing.assert_allclose(sigmoid(x), 1 / (1 + np.exp(-x.astype(np.float64))), rtol=0, atol=2 * ROUNDING)


# --- whole encoders ---------------------------------------------------------------------------------------


def encoder_of(family: Family, **changes: Any) -> EncoderConfig:
    """32 wide, 3 layers; BERT with 600 positions, ModernBERT with one global layer of three."""
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 32,
        "layer_count": 3,
        "head_count": 2,
        "intermediate_size": 48,
        "norm_eps": 1e-5,
        "activation": "gelu",
        "max_positions": None,
    }
    if family == "bert":
        sizes |= {"type_vocab_size": 2, "position_rows": 602}
    else:
        sizes |= {"is_local_layer": (False, True, True), "local_window": WINDOW}
        sizes |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    return EncoderConfig(family=family, **{**sizes, **changes})


ENCODERS = {
    "bert": encoder_of("bert"),
    "roberta": encoder_of("bert", first_position=2, pad_token_id=1),
    "modernbert": encoder_of("modernbert"),
    "modernbert, last layer global": encoder_of("modernbert", is_local_layer=(True, True, False)),
}


def hidden_of(encoder: EncoderConfig, batch: Batch) -> list[npt.NDArray[np.float64]]:
    weights = random_weights(encoder)
    return [dense_hidden(encoder, weights, batch.ids[span], batch.type_ids[span]) for span in spans(batch)]


def engine_of(encoder: EncoderConfig, *pooling: str) -> ReferenceEngine:
    return ReferenceEngine(ModelConfig(encoder, pooling, ()), as_weights(random_weights(encoder)))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_packed_forward_equals_the_textbook_one_sequence_at_a_time(name: str) -> None:
    """Between two norms are sums of at most 48 products of numbers near 1: about 100 roundings a layer, three
    layers of them 2e-5. Measured: 2.4e-6."""
    encoder, batch = ENCODERS[name], packed(LENGTHS)
    pooled = engine_of(encoder, "cls", "mean", "lasttoken").forward(batch)
    expected = [np.concatenate([rows[0], rows.mean(axis=0), rows[-1]]) for rows in hidden_of(encoder, batch)]
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [300], [1, 1, 2]])
def test_computing_only_the_first_tokens_last_layer_changes_nothing(name: str, lengths: list[int]) -> None:
    batch = packed(lengths)
    alone = engine_of(ENCODERS[name], "cls").forward(batch)
    among_all = engine_of(ENCODERS[name], "cls", "max").forward(batch)
    assert alone.shape == (len(lengths), 32)
    np.testing.assert_allclose(alone, among_all[:, :32], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_sequence_does_not_depend_on_its_neighbours(name: str) -> None:
    batch, engine = packed(LENGTHS), engine_of(ENCODERS[name], "cls", "mean")
    together = engine.forward(batch)
    for row, span in enumerate(spans(batch)):
        alone = pack([Encoded(batch.ids[span], batch.type_ids[span])], rows=[0])
        np.testing.assert_allclose(engine.forward(alone)[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert"])
def test_a_token_beyond_the_reach_of_all_windows_changes_nothing(name: str) -> None:
    """Three local layers of 8 tokens to each side: the first token hears of the 24 after it and no more."""
    encoder = encoder_of("modernbert", is_local_layer=(True, True, True))
    engine, batch = engine_of(encoder, "cls"), packed([60])
    first = engine.forward(batch)
    for place, is_heard in [(24, True), (25, False), (59, False)]:
        ids = batch.ids.copy()
        ids[place] = (ids[place] - 2 + 1) % 38 + 2
        changed = engine.forward(pack([Encoded(ids, batch.type_ids)], rows=[0]))
        assert bool((changed != first).any()) == is_heard, place


# --- pooling and heads ------------------------------------------------------------------------------------


def static_engine(table: npt.NDArray[np.float32], *pooling: str, head: tuple[Any, ...] = (), **weights: Any):
    """A table of token vectors: what is pooled is known exactly."""
    model = ModelConfig(StaticConfig(len(table), table.shape[1]), pooling, head)
    return ReferenceEngine(model, as_weights({"embed.token.weight": table, **weights}))


POOLS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
    "max": lambda rows: rows.max(axis=0),
    "mean": lambda rows: rows.mean(axis=0),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(axis=0) / math.sqrt(len(rows)),
    "weightedmean": lambda rows: np.average(rows, axis=0, weights=np.arange(len(rows)) + 1),
}


@pytest.mark.parametrize("mode", POOLS)
def test_a_pool_is_its_formula(mode: str) -> None:
    """A sum of n numbers is wrong by up to n roundings of their sizes."""
    table, batch = normal(40, 6), packed(LENGTHS)
    expected = [POOLS[mode](table[batch.ids[span]].astype(np.float64)) for span in spans(batch)]
    tolerance = 4 * max(LENGTHS) * ROUNDING
    np.testing.assert_allclose(static_engine(table, mode).forward(batch), expected, rtol=0, atol=tolerance)


def test_several_pools_stand_side_by_side() -> None:
    table, batch = normal(40, 6), packed([3, 1])
    both = static_engine(table, "max", "cls").forward(batch)
    parts = [static_engine(table, mode).forward(batch) for mode in ("max", "cls")]
    np.testing.assert_array_equal(both, np.concatenate(parts, axis=1))


@pytest.mark.parametrize("lengths", [[0], [0, 0], [0, 3], [3, 0], [2, 0, 0, 1, 0]])
def test_an_empty_text_has_the_zero_vector_in_a_static_table(lengths: list[int]) -> None:
    table, batch = normal(40, 6), packed(lengths)
    bags = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(table), mode="mean")
    expected = bags(torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.offsets[:-1]).long()).numpy()
    np.testing.assert_allclose(static_engine(table, "mean").forward(batch), expected, rtol=0, atol=1e-6)


def test_normalising_gives_length_one_and_leaves_the_zero_vector() -> None:
    table = normal(40, 6)
    vectors = static_engine(table, "mean", head=(Normalize(),)).forward(packed([4, 0, 1]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], rtol=0, atol=8 * ROUNDING)


@pytest.mark.parametrize("outer", [6, 4])
def test_a_head_takes_its_steps_in_order(outer: int) -> None:
    """Dense with its input added (through a matrix where the sizes differ), LayerNorm, Dense."""
    table, batch = normal(40, 6), packed([1])
    w1, b1, r = normal(outer, 6, seed=1), normal(outer, seed=2), normal(outer, 6, seed=3)
    gain, shift, w2 = normal(outer, seed=4), normal(outer, seed=5), normal(1, outer, seed=6)
    head = (
        Dense("a", 6, outer, "tanh", has_residual=True),
        LayerNorm("n", outer),
        Dense("b", outer, 1, "identity", has_bias=False),
    )
    weights = {"a.weight": w1, "a.bias": b1, "n.weight": gain, "n.bias": shift, "b.weight": w2}
    if outer != 6:
        weights["a.residual"] = r
    x = torch.from_numpy(table[batch.ids])
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    y = torch.tanh(x @ tensors["a.weight"].T + tensors["a.bias"])
    y = y + (x if outer == 6 else x @ tensors["a.residual"].T)
    y = torch.nn.functional.layer_norm(y, (outer,), tensors["n.weight"], tensors["n.bias"])
    ours = static_engine(table, "cls", head=head, **weights).forward(batch)
    np.testing.assert_allclose(ours, (y @ tensors["b.weight"].T).numpy(), rtol=0, atol=1e-5)
