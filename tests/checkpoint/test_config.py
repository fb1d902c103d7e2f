"""config.json is read into what the engines need, or refused with the key that is wrong."""

from __future__ import annotations

import pytest

from runoff.checkpoint.config import Dense, LayerNorm, classic_head, encoder_config, label_count
from runoff.contracts import CheckpointError, UnsupportedModelError

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BERT = {"model_type": "bert", "max_position_embeddings": 512, "type_vocab_size": 2, **SIZES}
ROBERTA = {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1, **SIZES}
MODERNBERT = {"model_type": "modernbert", **SIZES}


def test_bert_counts_positions_from_zero():
    encoder = encoder_config(BERT, "config.json")
    assert (encoder.first_position, encoder.max_positions, encoder.position_rows) == (0, 512, 512)
    assert (encoder.head_size, encoder.type_vocab_size) == (16, 2)


def test_roberta_counts_positions_from_behind_the_padding():
    encoder = encoder_config(ROBERTA, "config.json")
    assert (encoder.first_position, encoder.max_positions, encoder.position_rows) == (2, 512, 514)


def test_modernbert_sees_everything_in_every_third_layer():
    encoder = encoder_config(MODERNBERT, "config.json")
    assert encoder.is_local_layer == (False, True, True, False)
    assert (encoder.local_window, encoder.max_positions) == (64, None)
    assert (encoder.global_rope_theta, encoder.local_rope_theta) == (160_000.0, 10_000.0)


def test_modernbert_is_read_in_its_old_and_its_new_form():
    old = {"global_rope_theta": 8e4, "local_rope_theta": 5e3, "global_attn_every_n_layers": 2}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 8e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        },
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    }
    assert encoder_config(MODERNBERT | old, "a") == encoder_config(MODERNBERT | new, "b")


@pytest.mark.parametrize("key", sorted(SIZES))
@pytest.mark.parametrize("value", [None, 0, -3, "32", True, 1.5])
def test_a_size_that_is_no_positive_whole_number_is_refused(key, value):
    with pytest.raises(CheckpointError, match=f"config.json: {key} must be a positive whole number"):
        encoder_config(BERT | {key: value}, "config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BERT | {"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        (MODERNBERT | {"layer_types": ["full_attention"]}, "for each of 4 layers"),
        (MODERNBERT | {"layer_types": ["full_attention", "chunked"] * 2}, "full_attention or sliding"),
        (BERT | {"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(config, message):
    with pytest.raises(CheckpointError, match=message):
        encoder_config(config, "config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BERT | {"model_type": "deberta-v2"}, "deberta-v2"),
        (BERT | {"position_embedding_type": "relative_key"}, "relative_key"),
        (BERT | {"is_decoder": True}, "is_decoder"),
        (BERT | {"hidden_act": "mish"}, "mish"),
        (MODERNBERT | {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "yarn"),
    ],
)
def test_what_no_engine_here_computes_is_said_to_be_unsupported(config, message):
    with pytest.raises(UnsupportedModelError, match=message):
        encoder_config(config, "config.json")


@pytest.mark.parametrize(
    ("config", "count"),
    [({}, 2), ({"num_labels": 1}, 1), ({"id2label": {"0": "a"}}, 1), ({"id2label": {"0": "a", "1": "b"}}, 2)],
)
def test_labels_are_counted_as_transformers_counts_them(config, count):
    assert label_count(config) == count


def test_a_classic_head_is_read_by_its_architecture():
    one = {"id2label": {"0": "LABEL_0"}}
    pooling, steps = classic_head(BERT | one | {"architectures": ["BertForSequenceClassification"]}, "c")
    assert pooling == ("cls",)
    assert steps == (
        Dense("bert.pooler.dense", 32, 32, "tanh"),
        Dense("classifier", 32, 1, "identity"),
    )
    modernbert = MODERNBERT | one | {"architectures": ["ModernBertForSequenceClassification"]}
    pooling, steps = classic_head(modernbert | {"classifier_pooling": "mean"}, "c")
    assert pooling == ("mean",)
    assert steps == (
        Dense("head.dense", 32, 32, "gelu", has_bias=False),
        LayerNorm("head.norm", 32, 1e-5, has_bias=False),
        Dense("classifier", 32, 1, "identity"),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertModel"]},
        {"architectures": []},
        {"architectures": ["ModernBertForSequenceClassification"], "classifier_pooling": "max"},
    ],
)
def test_no_head_is_made_up(changes):
    with pytest.raises(UnsupportedModelError):
        classic_head(BERT | changes, "config.json")
