"""Matrix products of a packed forward: in the engine's format, or in fp8 with a scale for each row and each output.
Imported only where torch is wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from runoff.engine.torch_kernels import FP8, FP8_GREATEST, Rows


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
