"""The elementwise work and the attention of a packed forward as Triton kernels: one pass over memory each.

Readable twins: `torch_kernels.Eager` and `torch_attention.Blocked`. Kernels take whole rows, so that a norm and the
addition before it read and write every number once. Imported only where a GPU runs them, or the interpreter
(TRITON_INTERPRET=1), which is how the tests run them on a CPU.

Annotated for Triton, whose arguments are pointers, numbers and, in capitals, what is fixed when a kernel is compiled.
A `count` of rows is no such thing: Triton would compile anew for 1, for multiples of 16 and for the rest.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634

# Activations by number: a kernel is compiled for each.
IDENTITY, GELU, GELU_TANH, RELU, SILU = range(5)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        x = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    elif ACTIVATION == 2:  # tanh(z) = 2 sigmoid(2z) - 1, so this is x sigmoid(2z)
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x / (1.0 + tl.exp(-2.0 * inner))
    elif ACTIVATION == 3:
        x = tl.maximum(x, 0.0)
    elif ACTIVATION == 4:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def _store_row(x, out, scales, rows, columns, mask, stride, IS_FP8: tl.constexpr):
    """Stores rows as they are, or in fp8 with a scale for each: its greatest number becomes 448, e4m3's greatest."""
    place = rows[:, None] * stride + columns[None, :]
    if IS_FP8:
        scale = tl.maximum(tl.max(tl.abs(x), 1), 1e-12) / 448.0
        x = x / scale[:, None]
        tl.store(scales + rows, scale, mask=tl.max(mask.to(tl.int32), 1) > 0)
    tl.store(out + place, x.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])
def norm_rows(
    hidden,
    update,
    ids,
    table,
    positions,
    position_table,
    types,
    type_table,
    weight,
    bias,
    out,
    scales,
    count,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SOURCE: tl.constexpr,  # 1: hidden + update; 2: rows of a table; 3: of three tables
    KEEPS: tl.constexpr,  # what becomes the residual stream: 1 the sum, 2 the normed rows
    HAS_BIAS: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """[hidden + update, or embedding rows] -> LayerNorm -> out; the residual stream `hidden` stays in fp32."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    rows = rows.to(tl.int64)
    mask = (rows[:, None] < count) & (columns[None, :] < SIZE)
    place = rows[:, None] * SIZE + columns[None, :]
    if SOURCE >= 2:
        looked_up = tl.load(ids + rows, mask=rows < count, other=0).to(tl.int64)
        x = tl.load(table + looked_up[:, None] * SIZE + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        if SOURCE == 3:
            at = tl.load(positions + rows, mask=rows < count, other=0).to(tl.int64)
            x += tl.load(position_table + at[:, None] * SIZE + columns[None, :], mask=mask, other=0.0).to(
                tl.float32
            )
            at = tl.load(types + rows, mask=rows < count, other=0).to(tl.int64)
            x += tl.load(type_table + at[:, None] * SIZE + columns[None, :], mask=mask, other=0.0).to(
                tl.float32
            )
    else:
        x = tl.load(hidden + place, mask=mask, other=0.0)
        x += tl.load(update + place, mask=mask, other=0.0).to(tl.float32)
    if KEEPS == 1:
        tl.store(hidden + place, x, mask=mask)
    mean = tl.sum(x, 1) / SIZE
    centred = tl.where(mask, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / SIZE
    x = centred * (1.0 / tl.sqrt(variance + eps))[:, None]
    x *= tl.load(weight + columns, mask=columns < SIZE, other=0.0)[None, :]
    if HAS_BIAS:
        x += tl.load(bias + columns, mask=columns < SIZE, other=0.0)[None, :]
    if KEEPS == 2:
        tl.store(hidden + place, x, mask=mask)
    _store_row(x, out, scales, rows, columns, mask, SIZE, IS_FP8)


@triton.jit(do_not_specialize=["count"])
def activate_rows(
    inner,
    out,
    scales,
    count,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """[rows, SIZE] activated, or of [rows, 2 SIZE] the first half activated times the second."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = (rows[:, None] < count) & (columns[None, :] < SIZE)
    stride = 2 * SIZE if IS_GATED else SIZE
    place = rows[:, None] * stride + columns[None, :]
    x = activated(tl.load(inner + place, mask=mask, other=0.0).to(tl.float32), ACTIVATION)
    if IS_GATED:
        x *= tl.load(inner + place + SIZE, mask=mask, other=0.0).to(tl.float32)
    _store_row(x, out, scales, rows, columns, mask, SIZE, IS_FP8)


@triton.jit
def rotate_rows(
    qk,  # [rows, stride]: the parts to turn lie first, PARTS vectors of 2 * HALF
    cosines,  # [positions, HALF]
    sines,
    positions,
    stride,
    PARTS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,  # PARTS * HALF, filled to a power of two
):
    """Rotary positions, in place: one row of all heads' queries and keys a program."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    mask = place < PARTS * HALF
    part, element = place // HALF, place % HALF
    at = tl.load(positions + row).to(tl.int64)
    cos = tl.load(cosines + at * HALF + element, mask=mask, other=1.0)
    sin = tl.load(sines + at * HALF + element, mask=mask, other=0.0)
    low = qk + row * stride + part * 2 * HALF + element
    first = tl.load(low, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(low + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(low, (first * cos - second * sin).to(qk.dtype.element_ty), mask=mask)
    tl.store(low + HALF, (second * cos + first * sin).to(qk.dtype.element_ty), mask=mask)


@triton.jit
def _halves(
    base, rows, length, cosines, sines, STRIDE: tl.constexpr, HALF: tl.constexpr, TURNS: tl.constexpr
):
    """The two halves of some rows' vectors, in fp32 and turned by the rows' positions if they are to be.

    They are separate operands of a product, so that turning them needs no shuffle: q k^T is the sum of two products.
    """
    inside = (rows < length)[:, None]
    element = tl.arange(0, HALF)[None, :]
    place = base + rows.to(tl.int64)[:, None] * STRIDE + element
    low = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    if TURNS:
        cos = tl.load(cosines + rows[:, None] * HALF + element, mask=inside, other=1.0)
        sin = tl.load(sines + rows[:, None] * HALF + element, mask=inside, other=0.0)
        turned = low * cos - high * sin
        high = high * cos + low * sin
        low = turned
    return low, high


@triton.jit
def attend_tiles(
    qkv,  # [T, 3, A, D]
    out,  # [T, A, D]
    offsets,  # [B + 1]
    tiles,  # [n, 2]: the sequence, and its first row here; a sequence below 0 is none
    cosines,  # [positions, D / 2]
    sines,
    scale,  # times log2(e): softmax is computed with powers of two
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    WINDOW: tl.constexpr,  # tokens seen to each side; below 0: all
    TURNS: tl.constexpr,  # whether queries and keys are rotated here
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """softmax(q k^T) v of BLOCK_M queries of one sequence and head, online over blocks of keys; fp32 is no tf32."""
    sequence = tl.load(tiles + 2 * tl.program_id(0))
    if sequence < 0:
        return
    start = tl.load(tiles + 2 * tl.program_id(0) + 1)
    HALF: tl.constexpr = SIZE // 2
    STRIDE: tl.constexpr = 3 * HEADS * SIZE
    kind = qkv.dtype.element_ty
    begin = tl.load(offsets + sequence).to(tl.int64)
    length = (tl.load(offsets + sequence + 1).to(tl.int64) - begin).to(tl.int32)
    base = qkv + begin * STRIDE + tl.program_id(1) * SIZE
    rows = start + tl.arange(0, BLOCK_M)
    whole = tl.arange(0, SIZE)[None, :]
    low, high = _halves(base, rows, length, cosines, sines, STRIDE, HALF, TURNS)
    low, high = (low * scale).to(kind), (high * scale).to(kind)
    first_key, last_key = 0, length
    if WINDOW >= 0:
        first_key = tl.maximum(start - WINDOW, 0) // BLOCK_N * BLOCK_N
        last_key = tl.minimum(start + BLOCK_M + WINDOW, length)
    greatest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for key in range(first_key, last_key, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        key_low, key_high = _halves(base + HEADS * SIZE, columns, length, cosines, sines, STRIDE, HALF, TURNS)
        scores = tl.dot(low, tl.trans(key_low.to(kind)), input_precision="ieee")
        scores = tl.dot(high, tl.trans(key_high.to(kind)), scores, input_precision="ieee")
        seen = (columns < length)[None, :]
        if WINDOW >= 0:
            distance = rows[:, None] - columns[None, :]
            seen = seen & (distance <= WINDOW) & (distance >= -WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(greatest, tl.max(scores, 1))
        # A row that has seen no key yet has -inf here, and -inf - -inf is no number.
        level = tl.where(new == float("-inf"), 0.0, new)
        shares = tl.exp2(scores - level[:, None])
        shrink = tl.exp2(greatest - level)
        total = total * shrink + tl.sum(shares, 1)
        place = base + 2 * HEADS * SIZE + columns.to(tl.int64)[:, None] * STRIDE + whole
        value = tl.load(place, mask=(columns < length)[:, None], other=0.0)
        mixed = tl.dot(shares.to(kind), value, mixed * shrink[:, None], input_precision="ieee")
        greatest = new
    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
    target = out + (begin + rows)[:, None] * (HEADS * SIZE) + tl.program_id(1) * SIZE + whole
    tl.store(target, mixed.to(out.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def attend_first(
    query,  # [B, A, D]
    kv,  # [T, 2, A, D]
    out,  # [B, A, D]
    offsets,
    cosines,
    sines,
    scale,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    TURNS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What the first token of a sequence sees, for one head: its query stands at position 0 and needs no turning."""
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = SIZE // 2
    STRIDE: tl.constexpr = 2 * HEADS * SIZE
    begin = tl.load(offsets + sequence).to(tl.int64)
    length = (tl.load(offsets + sequence + 1).to(tl.int64) - begin).to(tl.int32)
    half, whole = tl.arange(0, HALF), tl.arange(0, SIZE)
    mine = sequence * HEADS * SIZE + head * SIZE
    low = tl.load(query + mine + half).to(tl.float32) * scale
    high = tl.load(query + mine + HALF + half).to(tl.float32) * scale
    base = kv + begin * STRIDE + head * SIZE
    last_key = length
    if WINDOW >= 0:
        last_key = tl.minimum(length, WINDOW + 1)
    # Per column, so that nothing is reduced inside the loop; the columns are joined at its end.
    greatest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    mixed = tl.zeros([BLOCK_N, SIZE], tl.float32)
    for key in range(0, last_key, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        is_seen = columns < last_key
        key_low, key_high = _halves(base, columns, last_key, cosines, sines, STRIDE, HALF, TURNS)
        scores = tl.sum(key_low * low[None, :], 1) + tl.sum(key_high * high[None, :], 1)
        scores = tl.where(is_seen, scores, float("-inf"))
        new = tl.maximum(greatest, scores)
        level = tl.where(new == float("-inf"), 0.0, new)
        share = tl.exp2(scores - level)
        shrink = tl.exp2(greatest - level)
        total = total * shrink + share
        place = base + HEADS * SIZE + columns.to(tl.int64)[:, None] * STRIDE + whole[None, :]
        value = tl.load(place, mask=is_seen[:, None], other=0.0)
        mixed = mixed * shrink[:, None] + share[:, None] * value.to(tl.float32)
        greatest = new
    top = tl.max(greatest, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.exp2(greatest - top)
    sum_of_all = tl.sum(total * weight, 0)
    result = tl.sum(mixed * weight[:, None], 0) / tl.where(sum_of_all > 0.0, sum_of_all, 1.0)
    tl.store(out + mine + whole, result.to(out.dtype.element_ty))
