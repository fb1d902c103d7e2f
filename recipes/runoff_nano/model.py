"""The student: MiniLM's encoder under a fresh head in the released layout."""

import torch

from start import autocast, padded, start_model_folder


def start_model(pooling: str):
    """A sentence-transformers CrossEncoder in the released layout: MiniLM's encoder, a fresh head."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("batched_matmul", batched_attention)
    AttentionMaskInterface.register("batched_matmul", eager_mask)
    # BERT's own pooler stays in the file though nothing reads it: without it transformers warns of missing weights.
    encoder = Transformer(
        str(start_model_folder()), max_seq_length=512, model_kwargs={"attn_implementation": "batched_matmul"}
    )
    width = encoder.get_embedding_dimension()
    linear = torch.nn.Identity()
    head = [
        Pooling(width, pooling),
        Dense(width, width, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(width),
        Dense(width, 1, activation_function=linear, module_output_name="scores"),
    ]
    model = CrossEncoder(modules=[encoder, *head], device="cpu", activation_fn=linear)
    # Frozen: 11.7M of the 22.7M parameters, whose rare rows this little data would hardly touch. eval() turns dropout
    # off, which a single pass over the data does not need; gradients still flow.
    encoder.model.embeddings.word_embeddings.weight.requires_grad_(False)
    return model.eval()


def batched_attention(_, query, key, value, attention_mask, scaling, **_unused) -> tuple[torch.Tensor, None]:
    """Attention output [batch, tokens, heads, head size] by plain matrix products.

    PyTorch's fused CPU attention spends 35 % of a training step in its backward at head size 32 (profiled, 2 cores);
    this form takes about 60 % of its time, forward and backward together.
    """
    batch, heads, tokens, size = query.shape
    flat = [x.reshape(batch * heads, tokens, size) for x in (query * scaling, key, value)]
    logits = torch.bmm(flat[0], flat[1].transpose(1, 2)).view(batch, heads, tokens, tokens)
    if attention_mask is not None:
        logits = logits + attention_mask[:, :, :1].to(logits.dtype)
    mixed = torch.bmm(logits.softmax(-1).view(batch * heads, tokens, tokens), flat[2])
    return mixed.view(batch, heads, tokens, size).transpose(1, 2).contiguous(), None


def score_pairs(model, encoded: list, chunk_tokens: int = 4096) -> torch.Tensor:
    """Raw scores [pairs] in input order, computed in chunks of near-equal length so that padding costs little."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    parts, start = [], 0
    while start < len(order):
        stop = start + max(1, chunk_tokens // len(encoded[order[start]].ids))
        with autocast():
            features = model(padded([encoded[i] for i in order[start:stop]]))
        parts.append(features["scores"].float().view(-1))
        start = stop
    return torch.cat(parts)[torch.argsort(torch.tensor(order))]
