"""The models of the published speed tables: names, hub ids and shapes, as data.

Ettin's are those of the published pretraining configurations (jhu-clsp/ettin-encoder-*); the others are the
config.json files of their hub repositories. Parameters are as the models' cards count them, heads included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["ettin", "modernbert", "bert", "xlm-roberta", "deberta-v2", "qwen2"]
"""How a model's folder looks: "ettin" is ModernBERT with a head of modules, the others are transformers' own."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One model; `heads` of keys and values where they are fewer, `vocabulary` and `positions` in rows."""

    name: str
    hub_id: str
    kind: Kind
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    parameters: float
    positions: int = 512
    key_value_heads: int | None = None
    is_all_local: bool = False


def _ettin(name: str, hidden: int, layers: int, heads: int, intermediate: int, parameters: float) -> Shape:
    hub_id = f"cross-encoder/ettin-reranker-{name}-v1"
    return Shape(name, hub_id, "ettin", hidden, layers, heads, intermediate, 50_368, parameters, 8192)


def _minilm(layers: int, parameters: float) -> Shape:
    hub_id = f"cross-encoder/ms-marco-MiniLM-L{layers}-v2"
    return Shape(f"MiniLM-L{layers}", hub_id, "bert", 384, layers, 12, 1536, 30_522, parameters)


def _xlmr(name: str, hidden: int, layers: int, heads: int, parameters: float, positions: int = 512) -> Shape:
    sizes = (hidden, layers, heads, 4 * hidden, 250_002, parameters, positions)
    return Shape(name, f"BAAI/{name}", "xlm-roberta", *sizes)


def _modernbert(name: str, hub_id: str) -> Shape:
    return Shape(name, hub_id, "modernbert", 768, 22, 12, 1152, 50_368, 149.6e6, 8192)


def _deberta(name: str, hidden: int, layers: int, heads: int, parameters: float) -> Shape:
    sizes = (hidden, layers, heads, 4 * hidden, 128_100, parameters)
    return Shape(name, f"mixedbread-ai/{name}", "deberta-v2", *sizes)


def _qwen2(name: str, hidden: int, layers: int, heads: int, intermediate: int, parameters: float) -> Shape:
    sizes = (hidden, layers, heads, intermediate, 151_936, parameters, 32_768, 2)
    return Shape(name, f"mixedbread-ai/{name}", "qwen2", *sizes)


_ALL = (
    _ettin("17m", 256, 7, 4, 384, 17.6e6),
    _ettin("32m", 384, 10, 6, 576, 32.8e6),
    _ettin("68m", 512, 19, 8, 768, 68.6e6),
    _ettin("150m", 768, 22, 12, 1152, 150.9e6),
    _ettin("400m", 1024, 28, 16, 2624, 401.6e6),
    _ettin("1b", 1792, 28, 28, 3840, 1.00e9),
    _minilm(4, 19.2e6),
    _minilm(6, 22.7e6),
    _minilm(12, 33.4e6),
    _xlmr("bge-reranker-base", 768, 12, 12, 278e6),
    _xlmr("bge-reranker-large", 1024, 24, 16, 560e6),
    _xlmr("bge-reranker-v2-m3", 1024, 24, 16, 568e6, 8192),
    _modernbert("gte-reranker-modernbert-base", "Alibaba-NLP/gte-reranker-modernbert-base"),
    _modernbert("granite-embedding-reranker-english-r2", "ibm-granite/granite-embedding-reranker-english-r2"),
    _deberta("mxbai-rerank-xsmall-v1", 384, 12, 6, 70.8e6),
    _deberta("mxbai-rerank-base-v1", 768, 12, 12, 184e6),
    _deberta("mxbai-rerank-large-v1", 1024, 24, 16, 435e6),
    _qwen2("mxbai-rerank-base-v2", 896, 24, 14, 4864, 494e6),
    _qwen2("mxbai-rerank-large-v2", 1536, 28, 12, 8960, 1.54e9),
)

SHAPES: Mapping[str, Shape] = {shape.name: shape for shape in _ALL}
ETTIN = tuple(shape.name for shape in _ALL if shape.kind == "ettin")
OTHERS = tuple(name for name in SHAPES if name not in ETTIN)

ALL_LOCAL = "17m-all-local"
"""17m whose every layer sees 64 tokens to each side: what length costs without global attention. No such model is
published."""


def named_shape(name: str) -> Shape | None:
    """The shape of a model by its short name or hub id; None for any other."""
    if name == ALL_LOCAL:
        base = SHAPES["17m"]
        return Shape(
            **{each: getattr(base, each) for each in Shape.__slots__}
            | {"name": name, "hub_id": "", "is_all_local": True}
        )
    by_id = {shape.hub_id.lower(): shape for shape in _ALL}
    return SHAPES.get(name) or by_id.get(name.lower())


def config_of(shape: Shape) -> dict[str, Any]:
    """The config.json of a model of this shape, as transformers writes it."""
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "dtype": "float32",
    }
    return sizes | _CONFIGS[shape.kind](shape)


_ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


def _ettin_config(shape: Shape) -> dict[str, Any]:
    """Global attention every third layer, windows of 64 tokens to each side elsewhere."""
    special = {"pad": 50283, "cls": 50281, "sep": 50282, "bos": 50281, "eos": 50282}
    local = range(shape.layers) if shape.is_all_local else [i for i in range(shape.layers) if i % 3]
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "max_position_embeddings": shape.positions,
        "hidden_activation": "gelu",
        "norm_eps": 1e-05,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "global_attn_every_n_layers": 3,
        "layer_types": ["sliding_attention" if i in local else "full_attention" for i in range(shape.layers)],
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "rope_parameters": {
            "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "attention_dropout": 0.0,
        **{f"{role}_token_id": value for role, value in special.items()},
    }


def _modernbert_config(shape: Shape) -> dict[str, Any]:
    """Pooling "mean", which leaves every token in the last layer: the slower of the two that there are."""
    head = {"classifier_pooling": "mean", "classifier_activation": "gelu", "classifier_bias": False}
    return (
        _ettin_config(shape) | head | _ONE_LABEL | {"architectures": ["ModernBertForSequenceClassification"]}
    )


def _bert_config(shape: Shape) -> dict[str, Any]:
    identity = "torch.nn.modules.linear.Identity"
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": shape.positions,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "sentence_transformers": {"activation_fn": identity, "version": "4.1.0"},
        **_ONE_LABEL,
    }


def _xlmr_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": shape.positions + 2,  # positions begin behind the padding token's row
        "type_vocab_size": 1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        **_ONE_LABEL,
    }


def _deberta_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["DebertaV2ForSequenceClassification"],
        "model_type": "deberta-v2",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-07,
        "max_position_embeddings": shape.positions,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "max_relative_positions": -1,
        "type_vocab_size": 0,
        "pad_token_id": 0,
        **_ONE_LABEL,
    }


def _qwen2_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "max_position_embeddings": shape.positions,
        "num_key_value_heads": shape.key_value_heads,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


_CONFIGS = {
    "ettin": _ettin_config,
    "modernbert": _modernbert_config,
    "bert": _bert_config,
    "xlm-roberta": _xlmr_config,
    "deberta-v2": _deberta_config,
    "qwen2": _qwen2_config,
}
