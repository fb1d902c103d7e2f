"""Which attention a training step uses. Imported only where torch is wanted."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.utils import is_flash_attn_2_available

from runoff.engine.packed_attention import attend_packed, has_packed_attention

BATCHED = "runoff_batched_products"
PACKED = "runoff_packed"

# What a packed batch says beside its ids; sentence-transformers drops keys that are no arguments of the model.
PACKED_KEYS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}


def implementation(family: str, device: str, is_half: bool, dropout: float = 0.0) -> str:
    """What transformers is asked for: on a CPU plain products; on a GPU in bf16 flash attention where it is installed,
    else PyTorch's own packed attention (neither pads anything); else PyTorch's padded one."""
    if device == "cpu":
        if family != "bert":
            return "sdpa"
        AttentionInterface.register(BATCHED, batched_products)
        AttentionMaskInterface.register(BATCHED, eager_mask)
        return BATCHED
    if is_half and is_flash_attn_2_available():
        return "flash_attention_2"
    if is_half and not dropout and has_packed_attention(device):
        return registered_packed()
    return "sdpa"


def registered_packed() -> str:
    """The name of `packed_attention`, known to transformers from now on."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, mask_of_padding)
    return PACKED


def takes_packed(transformer: Any) -> bool:
    """Whether this sentence-transformers module can be given packed batches; makes it let them through."""
    if transformer.config._attn_implementation == PACKED:
        if transformer.model_forward_params is not None:
            transformer.model_forward_params |= PACKED_KEYS
        return True
    return bool(getattr(transformer, "_can_flatten_inputs", lambda: False)())


def mask_of_padding(
    *sizes: Any, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor | None:
    """The mask of a padded batch; a packed one has no padding, and a mask of all its tokens by all would not fit."""
    return None if attention_mask is None else sdpa_mask(*sizes, attention_mask=attention_mask, **options)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention's output [B, t, A, D]: of a packed batch (B = 1, with borders) by sequences; of a padded one, as
    evaluations with sentence-transformers have it, PyTorch's own.

    Source of the window: transformers' ModernBERT hands on half of its window and one more, itself included.
    """
    if cu_seq_lens_q is None:
        padded: torch.Tensor = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=False,
            **options,
        )[0]
        return padded, None
    window = None if sliding_window is None else sliding_window - 1
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]
    return attend_packed(parts, cu_seq_lens_q, max_length_q, window, scaling)[None], None


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
