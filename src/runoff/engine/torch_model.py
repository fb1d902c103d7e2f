"""The packed forward of an encoder and its head in PyTorch, over what lies on the device. Imported only where torch is
wanted; `torch_engine` brings batches there and the outputs back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from runoff.checkpoint.config import Dense, EncoderConfig, LayerNorm, ModelConfig, Normalize
from runoff.checkpoint.weights import Weights
from runoff.engine.torch_attention import Attention
from runoff.engine.torch_kernels import ACTIVATIONS, FP8, Keeps, Kernels, Norm, Rotary, Rows, Tables
from runoff.engine.torch_linear import Linear
from runoff.engine.torch_sequences import Sequences


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch on the device: `ids`, `positions` and `segments` (None: this model has none) [T], and its sequences."""

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor | None
    sequences: Sequences


@dataclass(frozen=True, slots=True)
class Format:
    """Where a model's numbers lie, what products are computed in, and what they give (bf16 for fp8); and whether the
    MLP's first product and its activation are one kernel."""

    device: torch.device
    dtype: torch.dtype
    fuses_mlp: bool = False

    @property
    def product_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype is FP8 else self.dtype


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's matrices and norms. Where only first tokens are wanted of it, `query` and `kv` are `qkv` in two."""

    qkv: Linear | None
    query: Linear | None
    kv: Linear | None
    attn_out: Linear
    attn_norm: Norm | None
    mlp_in: Linear
    mlp_out: Linear
    mlp_norm: Norm


class TorchModel:
    """An encoder, its pooling and its head; call it with a staged batch for outputs [B, L], fp32."""

    def __init__(
        self, model: ModelConfig, weights: Weights, form: Format, kernels: Kernels, attention: Attention
    ) -> None:
        encoder = model.encoder
        assert isinstance(encoder, EncoderConfig), "a static table is summed in numpy"
        self._model, self._encoder, self._form = model, encoder, form
        self._kernels, self._attention = kernels, attention
        self._weights = weights
        self._wants_first = model.pooling == ("cls",)
        self._tables = self._embeddings()
        self._embed_norm = self._norm("embed.norm", encoder.norm_eps)
        self._layers = [self._layer(i) for i in range(encoder.layer_count)]
        self._final = self._norm("final_norm", encoder.norm_eps) if encoder.family == "modernbert" else None
        self._head = [self._step(step) for step in model.head]
        self._rotaries: dict[float, Rotary] = {}
        del self._weights

    def __call__(self, batch: Staged) -> torch.Tensor:
        hidden, rows = self._kernels.embed(self._tables, self._embed_norm, batch)
        run = self._post_norm if self._encoder.family == "bert" else self._pre_norm
        hidden = run(batch, hidden, rows)
        if not self._wants_first:
            hidden = torch.cat([POOLS[mode](hidden, batch.sequences) for mode in self._model.pooling], dim=1)
        for step in self._head:
            hidden = step(hidden)
        return hidden

    def reach(self, positions: int) -> bool:
        """Makes the tables of rotary positions long enough; whether they had to be made anew."""
        encoder = self._encoder
        if encoder.family == "bert":
            return False
        thetas = {encoder.global_rope_theta, encoder.local_rope_theta}
        if all(
            theta in self._rotaries and len(self._rotaries[theta].cosines) >= positions for theta in thetas
        ):
            return False
        length = max(512, 1 << (positions - 1).bit_length())
        half = encoder.head_size // 2
        for theta in thetas:
            # As the numpy reference has them: in double precision the angle of position 8,191 would differ by 5e-4.
            frequencies = 1.0 / theta ** (np.arange(half, dtype=np.float32) / np.float32(half))
            angles = np.arange(length, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
            self._rotaries[theta] = Rotary(self._tensor(np.cos(angles)), self._tensor(np.sin(angles)))
        return True

    # --- layers -----------------------------------------------------------------------------------

    def _pre_norm(self, batch: Staged, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        """ModernBERT: norms come before the matrices, and the residual stream is never normed on the way."""
        for i, layer in enumerate(self._layers):
            hidden, update = self._mixed(i, layer, batch, hidden, rows)
            hidden, rows = self._kernels.add_norm(hidden, update, layer.mlp_norm, "sum")
            update = layer.mlp_out(self._inner(layer, rows, True))
            after = self._layers[i + 1].attn_norm if i + 1 < len(self._layers) else self._final
            assert after is not None, "only layer 0 has no norm before its attention"
            keeps: Keeps = "sum" if i + 1 < len(self._layers) else "norm"
            hidden, rows = self._kernels.add_norm(hidden, update, after, keeps)
        return hidden

    def _post_norm(self, batch: Staged, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        """BERT and RoBERTa: norms come after, and what they give is the residual stream."""
        for i, layer in enumerate(self._layers):
            assert layer.attn_norm is not None, "every layer of BERT has two norms"
            hidden, update = self._mixed(i, layer, batch, hidden, rows)
            hidden, rows = self._kernels.add_norm(hidden, update, layer.attn_norm, "norm")
            update = layer.mlp_out(self._inner(layer, rows, False))
            hidden, rows = self._kernels.add_norm(hidden, update, layer.mlp_norm, "norm")
        return hidden

    def _inner(self, layer: _Layer, rows: Rows, is_gated: bool) -> Rows:
        """The MLP's inner layer, activated."""
        activation = self._encoder.activation
        if self._form.fuses_mlp:
            return layer.mlp_in.activated(rows, activation, is_gated)
        return self._kernels.activate(layer.mlp_in(rows), activation, is_gated)

    def _mixed(
        self, i: int, layer: _Layer, batch: Staged, hidden: torch.Tensor, rows: Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the residual stream of the tokens that go on, what attention adds to it)."""
        encoder = self._encoder
        heads, size = encoder.head_count, encoder.head_size
        rotary, window = None, None
        if encoder.family == "modernbert":
            is_local = encoder.is_local_layer[i]
            window = encoder.local_window if is_local else None
            rotary = self._rotaries[encoder.local_rope_theta if is_local else encoder.global_rope_theta]
        if layer.qkv is not None:
            qkv = layer.qkv(rows).view(-1, 3, heads, size)
            mixed = self._attention.all(qkv, batch.sequences, rotary, window)
        else:
            assert layer.query is not None and layer.kv is not None, "a layer has qkv whole or in two"  # noqa: PT018
            first = batch.sequences.first
            query = layer.query(rows.at(first)).view(-1, heads, size)
            kv = layer.kv(rows).view(-1, 2, heads, size)
            mixed = self._attention.first(query, kv, batch.sequences, rotary, window)
            hidden = hidden[first]
        return hidden, layer.attn_out(self._kernels.rows(mixed.flatten(1)))

    # --- from weights -----------------------------------------------------------------------------

    def _tensor(self, array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(np.array(array, np.float32)).to(device=self._form.device, dtype=dtype)

    def _embeddings(self) -> Tables:
        dtype = self._form.product_dtype
        token = self._tensor(self._weights["embed.token.weight"], dtype)
        if self._encoder.family != "bert":
            return Tables(token)
        names = ("embed.position.weight", "embed.type.weight")
        return Tables(token, *(self._tensor(self._weights[name], dtype) for name in names))

    def _norm(self, name: str, eps: float) -> Norm:
        bias = self._weights.get(f"{name}.bias")
        weight = self._tensor(self._weights[f"{name}.weight"])
        return Norm(weight, None if bias is None else self._tensor(bias), eps)

    def _linear(self, name: str, part: slice = slice(None)) -> Linear:
        weight, bias = self._weights[f"{name}.weight"][part], self._weights.get(f"{name}.bias")
        form = self._form
        return Linear(
            self._tensor(weight, torch.float32 if form.dtype is FP8 else form.dtype),
            None if bias is None else self._tensor(bias[part], form.product_dtype),
            form.dtype,
        )

    def _layer(self, i: int) -> _Layer:
        encoder = self._encoder
        is_split = self._wants_first and i == encoder.layer_count - 1
        has_norm = encoder.family == "bert" or i > 0
        size = encoder.hidden_size
        return _Layer(
            qkv=None if is_split else self._linear(f"{i}.qkv"),
            query=self._linear(f"{i}.qkv", slice(0, size)) if is_split else None,
            kv=self._linear(f"{i}.qkv", slice(size, None)) if is_split else None,
            attn_out=self._linear(f"{i}.attn_out"),
            attn_norm=self._norm(f"{i}.attn_norm", encoder.norm_eps) if has_norm else None,
            mlp_in=self._linear(f"{i}.mlp_in"),
            mlp_out=self._linear(f"{i}.mlp_out"),
            mlp_norm=self._norm(f"{i}.mlp_norm", encoder.norm_eps),
        )

    def _step(self, step: Dense | LayerNorm | Normalize) -> Callable[[torch.Tensor], torch.Tensor]:
        """A step of the head, always in fp32: a head is a thousandth of the work."""
        if isinstance(step, Normalize):
            return lambda x: F.normalize(x, dim=1)
        if isinstance(step, LayerNorm):
            norm = self._norm(step.name, step.eps)
            return lambda x: F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        weight, bias = (
            self._tensor(self._weights[f"{step.name}.weight"]),
            self._weights.get(f"{step.name}.bias"),
        )
        offset = None if bias is None else self._tensor(bias)
        activation = ACTIVATIONS[step.activation]
        if step.needs_projection:
            residual = self._tensor(self._weights[f"{step.name}.residual"])
            return lambda x: activation(F.linear(x, weight, offset)) + F.linear(x, residual)
        if step.has_residual:
            return lambda x: activation(F.linear(x, weight, offset)) + x
        return lambda x: activation(F.linear(x, weight, offset))


# --- pooling ---------------------------------------------------------------------------------------


def _reduced(hidden: torch.Tensor, sequences: Sequences, how: str) -> torch.Tensor:
    """Sums (0 of none) or maxima of each sequence's rows. Rows that fill a graph's batch up are one more, left out."""
    filling = (len(hidden) - sequences.offsets[-1:]).long()
    rows, lengths = hidden, torch.cat([sequences.offsets.diff().long(), filling])
    if hidden.device.type not in ("cpu", "cuda"):  # PyTorch has it for these two
        rows, lengths = rows.cpu(), lengths.cpu()
    initial = 0.0 if how == "sum" else None
    # Unchecked: the check would wait for the device.
    reduced = torch.segment_reduce(rows, how, lengths=lengths, unsafe=True, initial=initial)
    return reduced[:-1].to(hidden.device)


def _lengths(sequences: Sequences) -> torch.Tensor:
    return sequences.offsets.diff().clamp_min(1)[:, None].float()


def _weighted_mean(hidden: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    """Token n of a sequence, from 1, weighs n."""
    places = torch.arange(len(hidden), dtype=torch.int32, device=hidden.device)
    owners = torch.searchsorted(sequences.offsets, places, right=True) - 1
    weights = (places - sequences.offsets[owners] + 1).float()[:, None]
    sums = _reduced(weights, sequences, "sum").clamp_min(1e-9)
    return _reduced(hidden * weights, sequences, "sum") / sums


POOLS: dict[str, Callable[[torch.Tensor, Sequences], torch.Tensor]] = {
    "cls": lambda hidden, sequences: hidden[sequences.first],
    "lasttoken": lambda hidden, sequences: hidden[sequences.offsets[1:].long() - 1],
    "max": lambda hidden, sequences: _reduced(hidden, sequences, "max"),
    "mean": lambda hidden, sequences: _reduced(hidden, sequences, "sum") / _lengths(sequences),
    "mean_sqrt_len_tokens": lambda hidden, sequences: (
        _reduced(hidden, sequences, "sum") / _lengths(sequences).sqrt()
    ),
    "weightedmean": _weighted_mean,
}
"""[T, H] -> [B, H], by what lies on the device alone, so that a graph may hold them."""
