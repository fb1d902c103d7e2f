"""Matrix products of a packed forward: in the engine's format, or in fp8 with a scale for each row and each output.
Imported only where torch is wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from runoff.engine.torch_kernels import FP8, FP8_GREATEST, Rows

# Of the fused product: 125 registers and 96 KiB of shared memory on sm_90, 143 and 64 on sm_80, nothing spilled; wider
# tiles spill on sm_80. Compiled for both, timed on neither.
_TILE_M, _TILE_N = 128, 64


class Linear:
    """x W^T + b of `Rows` [T, I]: [T, O] in the weight's format, or bf16 where that is fp8.

    fp8 is e4m3 with dynamic scales: a row of x is divided by its greatest number over 448, a row of W likewise, and
    the product is multiplied by both. On a card it is `torch._scaled_mm`; on a CPU the same numbers are multiplied in
    fp32, so that the error of fp8 can be measured on any machine.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._bias, self._is_fp8 = bias, dtype is FP8
        self._scales: torch.Tensor | None = None
        self._weight = weight
        if self._is_fp8:
            scales = weight.abs().amax(dim=1).clamp_min(1e-12) / FP8_GREATEST
            self._weight, self._scales = (weight / scales[:, None]).to(FP8), scales

    def __call__(self, rows: Rows) -> torch.Tensor:
        if not self._is_fp8:
            return F.linear(rows.values, self._weight, self._bias)
        assert rows.scales is not None, "rows of an fp8 engine come with their scales"
        assert self._scales is not None, "an fp8 matrix has a scale for each output"
        if rows.values.device.type != "cpu":
            product: torch.Tensor = torch._scaled_mm(
                rows.values,
                self._weight.t(),
                scale_a=rows.scales[:, None],
                scale_b=self._scales[None, :],
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        else:
            product = (rows.values.float() @ self._weight.float().t()) * rows.scales[:, None] * self._scales
            product = product.to(torch.bfloat16)
        return product if self._bias is None else product + self._bias

    def activated(self, rows: Rows, activation: str, is_gated: bool) -> Rows:
        """The product activated (and of a gated one the first half times the second), in one Triton kernel."""
        import triton

        from runoff.engine import triton_kernels
        from runoff.engine.triton_products import activated_product

        assert not self._is_fp8, "the fused product has no scales"
        count, size = len(rows.values), len(self._weight) // (2 if is_gated else 1)
        out = torch.empty(count, size, dtype=rows.values.dtype, device=rows.values.device)
        grid = (triton.cdiv(count, _TILE_M) * triton.cdiv(size, _TILE_N),)
        activated_product[grid](
            rows.values, self._weight, self._weight if self._bias is None else self._bias, out, count,
            K=rows.values.shape[1], SIZE=size, ACTIVATION=getattr(triton_kernels, activation.upper()),
            IS_GATED=is_gated, HAS_BIAS=self._bias is not None,
            BLOCK_M=_TILE_M, BLOCK_N=_TILE_N, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3,
        )  # fmt: skip
        return Rows(out)
