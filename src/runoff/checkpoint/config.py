"""config.json -> frozen `ModelConfig`: what an engine must know of a model, and nothing else.

Every head of every supported family is the same thing here: one pooling, then a row of steps
(`Dense`, `LayerNorm`, `Normalize`). BERT's pooler and classifier, RoBERTa's classification head,
ModernBERT's prediction head and the Ettin modules differ only in the row's contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runoff.contracts import CheckpointError, UnsupportedModelError

Json = Mapping[str, Any]

Family = Literal["bert", "modernbert"]

# Names by which config.json files call the activations that the engines compute. Dotted torch paths
# come from sentence-transformers' Dense modules and activation_fn entries.
ACTIVATIONS = {
    "gelu": "gelu",
    "torch.nn.modules.activation.GELU": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "torch.nn.modules.activation.ReLU": "relu",
    "silu": "silu",
    "swish": "silu",
    "torch.nn.modules.activation.SiLU": "silu",
    "tanh": "tanh",
    "torch.nn.modules.activation.Tanh": "tanh",
    "sigmoid": "sigmoid",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "identity": "identity",
    "torch.nn.modules.linear.Identity": "identity",
}

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A transformer encoder. `max_positions` is the most tokens a sequence may have (None: no hard limit)."""

    family: Family
    vocab_size: int
    hidden_size: int
    layer_count: int
    head_count: int
    intermediate_size: int
    norm_eps: float
    activation: str
    max_positions: int | None
    # BERT and RoBERTa
    type_vocab_size: int = 0
    position_rows: int = 0
    first_position: int = 0
    pad_token_id: int = 0
    # ModernBERT: which layers see only `local_window` tokens to each side, and the RoPE bases
    is_local_layer: tuple[bool, ...] = ()
    local_window: int = 0
    global_rope_theta: float = 0.0
    local_rope_theta: float = 0.0
    has_attention_bias: bool = True
    has_mlp_bias: bool = True
    has_norm_bias: bool = True

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.head_count


@dataclass(frozen=True, slots=True)
class StaticConfig:
    """A table of token vectors [vocab_size, dimension] whose mean is the text's vector."""

    vocab_size: int
    dimension: int
    drops_unknown_token: bool = False
    unknown_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Dense:
    """y = activation(x W^T + b) [+ x, or x R^T]; weights: `name`.weight [out, in], `name`.bias [out]."""

    name: str
    in_features: int
    out_features: int
    activation: str
    has_bias: bool = True
    has_residual: bool = False

    @property
    def needs_projection(self) -> bool:
        """The residual goes through a matrix of its own where the sizes differ."""
        return self.has_residual and self.in_features != self.out_features


@dataclass(frozen=True, slots=True)
class LayerNorm:
    name: str
    size: int
    eps: float = 1e-5  # torch's default; sentence-transformers stores none
    has_bias: bool = True


@dataclass(frozen=True, slots=True)
class Normalize:
    """Divides a vector by its Euclidean length."""


HeadStep = Dense | LayerNorm | Normalize


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """An encoder, how its tokens are pooled (modes are concatenated), and the steps after that."""

    encoder: EncoderConfig | StaticConfig
    pooling: tuple[str, ...]
    head: tuple[HeadStep, ...]

    @property
    def output_size(self) -> int:
        """Labels of a reranker, or dimension of an embedder."""
        for step in reversed(self.head):
            if isinstance(step, Dense):
                return step.out_features
        if isinstance(self.encoder, StaticConfig):
            return self.encoder.dimension
        return self.encoder.hidden_size * len(self.pooling)


def activation_name(value: str, where: str) -> str:
    """Our name of an activation; `UnsupportedModelError` for one that no engine here computes."""
    try:
        return ACTIVATIONS[value]
    except KeyError:
        raise UnsupportedModelError(
            f"{where} asks for the activation {value!r}; Runoff's engines compute {sorted(set(ACTIVATIONS.values()))}"
        ) from None


def encoder_config(config: Json, where: str) -> EncoderConfig:
    """The encoder of a config.json; `UnsupportedModelError` for a family that no engine here runs."""
    model_type = config.get("model_type")
    if model_type == "modernbert":
        return _modernbert_config(config, where)
    if model_type in ("bert", "roberta", "xlm-roberta", "camembert"):
        return _bert_config(config, where)
    raise UnsupportedModelError(
        f"{where} has model_type {model_type!r}; Runoff's engines run bert, roberta, xlm-roberta, camembert "
        "and modernbert"
    )


def _bert_config(config: Json, where: str) -> EncoderConfig:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(f"{where}: position_embedding_type {config['position_embedding_type']!r}")
    if config.get("is_decoder", False):
        raise UnsupportedModelError(f"{where}: is_decoder is true; Runoff's engines run encoders")
    is_bert = config["model_type"] == "bert"
    pad_token_id = config.get("pad_token_id")
    pad_token_id = (0 if is_bert else 1) if pad_token_id is None else int(pad_token_id)
    # RoBERTa numbers positions from pad_token_id + 1, so that many rows of its table are never used.
    first_position = 0 if is_bert else pad_token_id + 1
    rows = _positive(config, "max_position_embeddings", where)
    return EncoderConfig(
        family="bert",
        **_sizes(config, where),
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        activation=activation_name(config.get("hidden_act", "gelu"), where),
        max_positions=rows - first_position,
        type_vocab_size=int(config.get("type_vocab_size", 2)),
        position_rows=rows,
        first_position=first_position,
        pad_token_id=pad_token_id,
    )


def _modernbert_config(config: Json, where: str) -> EncoderConfig:
    layer_count = _positive(config, "num_hidden_layers", where)
    layer_types = config.get("layer_types")
    if layer_types is None:
        every = int(config.get("global_attn_every_n_layers", 3))
        layer_types = ["sliding_attention" if i % every else "full_attention" for i in range(layer_count)]
    unknown = set(layer_types) - {"sliding_attention", "full_attention"}
    if unknown or len(layer_types) != layer_count:
        raise CheckpointError(
            f"{where}: layer_types must name full_attention or sliding_attention for each of {layer_count} layers, "
            f"got {layer_types}"
        )
    rope = config.get("rope_parameters") or {}
    global_theta = _rope_theta(rope, "full_attention", config.get("global_rope_theta"), 160_000.0, where)
    local_theta = _rope_theta(rope, "sliding_attention", config.get("local_rope_theta"), 10_000.0, where)
    return EncoderConfig(
        family="modernbert",
        **_sizes(config, where),
        norm_eps=float(config.get("norm_eps", 1e-5)),
        activation=activation_name(config.get("hidden_activation", "gelu"), where),
        # Rotary positions have no table to run out of; the tokenizer's limit is the only one.
        max_positions=None,
        is_local_layer=tuple(kind == "sliding_attention" for kind in layer_types),
        local_window=int(config.get("local_attention", 128)) // 2,
        global_rope_theta=global_theta,
        local_rope_theta=local_theta,
        has_attention_bias=bool(config.get("attention_bias", False)),
        has_mlp_bias=bool(config.get("mlp_bias", False)),
        has_norm_bias=bool(config.get("norm_bias", False)),
    )


def _rope_theta(rope: Json, kind: str, legacy: float | None, default: float, where: str) -> float:
    parameters = rope.get(kind) or {}
    rope_type = parameters.get("rope_type", "default")
    if rope_type != "default":
        raise UnsupportedModelError(
            f"{where}: rope_type {rope_type!r} of {kind}; only 'default' is known here"
        )
    return float(parameters.get("rope_theta", default if legacy is None else legacy))


def _sizes(config: Json, where: str) -> dict[str, Any]:
    sizes = {
        "vocab_size": _positive(config, "vocab_size", where),
        "hidden_size": _positive(config, "hidden_size", where),
        "layer_count": _positive(config, "num_hidden_layers", where),
        "head_count": _positive(config, "num_attention_heads", where),
        "intermediate_size": _positive(config, "intermediate_size", where),
    }
    if sizes["hidden_size"] % sizes["head_count"]:
        raise CheckpointError(
            f"{where}: hidden_size {sizes['hidden_size']} is not a multiple of "
            f"num_attention_heads {sizes['head_count']}"
        )
    return sizes


def _positive(config: Json, key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"{where}: {key} must be a positive whole number, got {value!r}")
    return value


def label_count(config: Json) -> int:
    """Labels of a sequence-classification config.json; transformers' default is 2."""
    if config.get("id2label"):
        return len(config["id2label"])
    return int(config.get("num_labels", 2))


def classic_head(config: Json, where: str) -> tuple[tuple[str, ...], tuple[HeadStep, ...]]:
    """Pooling and head of a `...ForSequenceClassification` config.json."""
    architecture = (config.get("architectures") or [""])[0]
    hidden, labels = _positive(config, "hidden_size", where), label_count(config)
    if architecture == "BertForSequenceClassification":
        return ("cls",), (
            Dense("bert.pooler.dense", hidden, hidden, "tanh"),
            Dense("classifier", hidden, labels, "identity"),
        )
    if architecture in (
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
        "CamembertForSequenceClassification",
    ):
        return ("cls",), (
            Dense("classifier.dense", hidden, hidden, "tanh"),
            Dense("classifier.out_proj", hidden, labels, "identity"),
        )
    if architecture == "ModernBertForSequenceClassification":
        pooling = config.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise UnsupportedModelError(f"{where}: classifier_pooling {pooling!r}")
        activation = activation_name(config.get("classifier_activation", "gelu"), where)
        has_bias, norm_eps = bool(config.get("classifier_bias", False)), float(config.get("norm_eps", 1e-5))
        return (pooling,), (
            Dense("head.dense", hidden, hidden, activation, has_bias),
            LayerNorm("head.norm", hidden, norm_eps, bool(config.get("norm_bias", False))),
            Dense("classifier", hidden, labels, "identity"),
        )
    raise UnsupportedModelError(
        f"{where} has architecture {architecture!r}; Runoff's engines run Bert, Roberta, XLMRoberta, Camembert "
        "and ModernBert ForSequenceClassification"
    )
