"""Which attention a training step uses. Imported only where torch is wanted."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.utils import is_flash_attn_2_available

BATCHED = "runoff_batched_products"


def implementation(family: str, device: str, is_half: bool) -> str:
    """What transformers is asked for: flash attention where it is installed and the arithmetic is bf16 (it takes no
    fp32; sentence-transformers then drops all padding), PyTorch's own on any other GPU, plain products on a CPU."""
    if device != "cpu":
        return "flash_attention_2" if is_half and is_flash_attn_2_available() else "sdpa"
    if family != "bert":
        return "sdpa"
    AttentionInterface.register(BATCHED, batched_products)
    AttentionMaskInterface.register(BATCHED, eager_mask)
    return BATCHED


def batched_products(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attention's output [B, t, A, D] by plain matrix products.

    PyTorch's fused CPU attention spent 35 % of a training step in its backward at head size 32 (profiled, 2 cores);
    this form takes about 60 % of its time, forward and backward together.
    """
    batch, heads, tokens, size = query.shape
    flat = [x.reshape(batch * heads, tokens, size) for x in (query * scaling, key, value)]
    logits = torch.bmm(flat[0], flat[1].transpose(1, 2)).view(batch, heads, tokens, tokens)
    if attention_mask is not None:
        logits = logits + attention_mask[:, :, :1].to(logits.dtype)
    shares = logits.softmax(-1)
    if dropout:
        shares = torch.nn.functional.dropout(shares, dropout)
    mixed = torch.bmm(shares.view(batch * heads, tokens, tokens), flat[2])
    return mixed.view(batch, heads, tokens, size).transpose(1, 2).contiguous(), None
