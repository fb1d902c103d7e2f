"""The MLP's first product with its activation behind it, as one Triton kernel: [T, 2 I] is never written.

Of a layer's memory traffic (48 H + 12 I bytes a token) this saves 8 I: 18 % at the 17m and 150m shapes, 23 % at 1b.
Whether it pays depends on how near to cuBLAS Triton's product comes on a card; `benchmarks/gpu.py` says. Imported only
where a GPU runs it, or the interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runoff.engine.triton_kernels import activated


@triton.jit
def activated_product(
    x,  # [count, K]
    weight,  # [SIZE, K], or of a gated one [2 SIZE, K]: values, then gates
    bias,  # [SIZE] or [2 SIZE]
    out,  # [count, SIZE]
    count,
    K: tl.constexpr,
    SIZE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """activation(x W^T + b), times its gate where there is one; one tile of the result a program.

    Programs go through GROUP tiles of rows for each tile of columns, so that both stay in the L2 cache.
    """
    row_tiles, column_tiles = tl.cdiv(count, BLOCK_M), tl.cdiv(SIZE, BLOCK_N)
    number = tl.program_id(0)
    group = number // (GROUP * column_tiles)
    first = group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    rows = (first + (number % (GROUP * column_tiles)) % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = (number % (GROUP * column_tiles)) // height * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < count, columns < SIZE
    steps = tl.arange(0, BLOCK_K)
    left = x + rows.to(tl.int64)[:, None] * K + steps[None, :]
    right = weight + columns[None, :] * K + steps[:, None]
    value = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        inside = steps + k < K
        a = tl.load(left + k, mask=is_row[:, None] & inside[None, :], other=0.0)
        b = tl.load(right + k, mask=is_column[None, :] & inside[:, None], other=0.0)
        value = tl.dot(a, b, value, input_precision="ieee")
        if IS_GATED:
            b = tl.load(right + SIZE * K + k, mask=is_column[None, :] & inside[:, None], other=0.0)
            gate = tl.dot(a, b, gate, input_precision="ieee")
    if HAS_BIAS:
        value += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    value = activated(value, ACTIVATION)
    if IS_GATED:
        if HAS_BIAS:
            gate += tl.load(bias + SIZE + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
        value *= gate
    target = out + rows.to(tl.int64)[:, None] * SIZE + columns[None, :]
    tl.store(target, value.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
