"""A folder is read as the model it is, scores as sentence-transformers scores it, or is refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import sentence_transformers
import torch

import standins
from runoff import CrossEncoder, Embedder
from runoff.contracts import CheckpointError, CheckpointNotFoundError
from standins import edit_json

PAIRS = [("what is mars", "a red planet"), ("apple", "apple was founded in cupertino"), ("", "")]
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
TANH = "torch.nn.modules.activation.Tanh"


def assert_scores_as_the_reference(folder):
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(
        CrossEncoder(folder, precision="fp32").predict(PAIRS), theirs, rtol=0, atol=1e-4
    )


def set_activation(folder, path):
    edit_json(folder / "config_sentence_transformers.json", activation_fn=path)


def is_logged(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


# --- modules.json -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["sentence_transformers.models", "sentence_transformers.base.models"])
def test_module_names_of_every_release_are_known(spelling, tiny, tiny_copy):
    folder = tiny_copy("ettin")
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"{spelling}.{module['type'].rsplit('.', 1)[-1]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    expected = CrossEncoder(tiny("ettin")).predict(PAIRS)
    np.testing.assert_array_equal(CrossEncoder(folder).predict(PAIRS), expected)


def test_an_old_pooling_config_is_known(tiny_copy):
    folder = tiny_copy("ettin")
    standins.use_old_pooling_config(folder)
    standins.use_old_module_names(folder)
    assert_scores_as_the_reference(folder)


@pytest.mark.parametrize(
    "mode",
    ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["lasttoken", "cls", "mean"]],
)
def test_every_pooling_gives_the_vectors_of_the_reference(mode, tiny_copy):
    folder = tiny_copy("bert-embedder")
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode=mode)
    texts = ["mars", "a red planet with two moons", ""]
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(Embedder(folder).encode(texts), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{"activation_function": TANH}, {"activation_function": SIGMOID}])
def test_a_dense_layer_uses_the_activation_it_names(changes, tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / "2_Dense" / "config.json", **changes)
    assert_scores_as_the_reference(folder)


def test_a_dense_layer_without_an_activation_is_a_tanh_layer(tiny, tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / "2_Dense" / "config.json", remove=("activation_function",))
    assert_scores_as_the_reference(folder)
    assert not np.allclose(CrossEncoder(folder).predict(PAIRS), CrossEncoder(tiny("ettin")).predict(PAIRS))


def test_a_dense_layer_may_add_its_input(tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / "2_Dense" / "config.json", use_residual=True)
    assert_scores_as_the_reference(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "evil_package.Dense"}, "Runoff runs no code"),
        ({"path": "../2_Dense"}, "Runoff runs no code"),
        ({"path": "/2_Dense"}, "Runoff runs no code"),
    ],
)
def test_modules_from_elsewhere_are_refused(change, message, tiny_copy):
    folder = tiny_copy("ettin")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2].update(change)
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=message):
        CrossEncoder(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("2_Dense/config.json", {"in_features": None}, "in_features must be a positive whole number"),
        ("2_Dense/config.json", {"in_features": 31}, "takes 31 features but gets 32"),
        ("2_Dense/config.json", {"activation_function": "my.Swoosh"}, "is code"),
        ("3_LayerNorm/config.json", {"dimension": "32"}, "dimension must be a positive whole number"),
        ("3_LayerNorm/config.json", {"dimension": 16}, "takes 16 features but gets 32"),
        ("config.json", {"num_attention_heads": 3}, "not a multiple"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(file, changes, message, tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        CrossEncoder(folder)


@pytest.mark.parametrize(
    "file", ["modules.json", "config.json", "config_sentence_transformers.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", ["", "{", "7", '"text"', "\xff\xfe"])
def test_a_damaged_config_is_refused_by_its_name(file, content, tiny_copy):
    folder = tiny_copy("ettin")
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=f"{file}.*damaged"):
        CrossEncoder(folder)


@pytest.mark.parametrize("content", ["[]", "[1]", "{}"])
def test_a_list_of_modules_that_lists_none_is_refused(content, tiny_copy):
    folder = tiny_copy("ettin")
    (folder / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"modules\.json.*damaged"):
        CrossEncoder(folder)


def test_a_damaged_tokenizer_is_refused(tiny_copy):
    folder = tiny_copy("ettin")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:5000])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read.*damaged"):
        CrossEncoder(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        CrossEncoder(folder)


def test_a_missing_config_is_refused(tiny_copy, tmp_path):
    folder = tiny_copy("ettin")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        CrossEncoder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match=r"neither config\.json nor modules\.json"):
        CrossEncoder(tmp_path / "empty")


# --- A11, A12: no random head ----------------------------------------------------------------------------


def test_a_reranker_that_lost_its_model_type_keeps_its_head(tiny, tiny_copy, caplog):
    folder = tiny_copy("ettin")
    edit_json(folder / "config_sentence_transformers.json", remove=("model_type",))
    with caplog.at_level(logging.WARNING, "runoff"):
        scores = CrossEncoder(folder).predict(PAIRS)
    np.testing.assert_array_equal(scores, CrossEncoder(tiny("ettin")).predict(PAIRS))
    assert len(is_logged(caplog, "does not say model_type CrossEncoder")) == 1


@pytest.mark.parametrize("name", ["bert-embedder", "modernbert-embedder"])
def test_an_embedder_is_no_reranker(name, tiny):
    with pytest.raises(CheckpointError, match=r"is no reranker.*runoff\.Embedder"):
        CrossEncoder(tiny(name))


def test_an_encoder_alone_gets_no_head(tiny_copy):
    folder = tiny_copy("ettin")
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match=r"ModernBertModel.*holds no classification head"):
        CrossEncoder(folder)


def test_a_delegated_encoder_alone_gets_no_head_either(tiny_copy):
    folder = tiny_copy("deberta")
    edit_json(folder / "config.json", architectures=["DebertaV2Model"])
    with pytest.raises(CheckpointError, match=r"DebertaV2Model.*holds no classification head"):
        CrossEncoder(folder)


def test_modules_that_would_be_dropped_are_not_delegated(tiny_copy):
    folder = tiny_copy("causal")
    edit_json(folder / "config_sentence_transformers.json", remove=("model_type",))
    with pytest.raises(CheckpointError, match="would drop its modules and score by a random head"):
        CrossEncoder(folder)


def test_a_static_table_or_a_model2vec_model_is_no_reranker(tiny):
    for name in ("static", "model2vec"):
        with pytest.raises(CheckpointError, match=r"runoff\.Embedder"):
            CrossEncoder(tiny(name))


def test_a_reranker_is_no_embedder(tiny):
    with pytest.raises(CheckpointError, match=r"load it with runoff\.CrossEncoder"):
        Embedder(tiny("ettin"))


def test_a_sparse_encoder_is_no_embedder(tiny_copy):
    folder = tiny_copy("bert-embedder")
    edit_json(folder / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(CheckpointError, match="is a SparseEncoder"):
        Embedder(folder)


# --- A3, A14: prompts, activation, requirements ------------------------------------------------------------


@pytest.mark.parametrize("path", [IDENTITY, SIGMOID, TANH, None])
def test_a_modular_reranker_uses_the_activation_it_names(path, tiny_copy):
    folder = tiny_copy("ettin")
    set_activation(folder, path)
    assert_scores_as_the_reference(folder)


def test_a_modular_reranker_without_an_activation_gives_a_sigmoid(tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / "config_sentence_transformers.json", remove=("activation_fn",))
    assert_scores_as_the_reference(folder)
    assert CrossEncoder(folder).activation_fn.name == "sigmoid"


def test_several_labels_without_an_activation_stay_as_they_are(tiny_copy):
    folder = tiny_copy("ettin-3-labels")
    edit_json(folder / "config_sentence_transformers.json", remove=("activation_fn",))
    assert_scores_as_the_reference(folder)


@pytest.mark.parametrize(
    ("new", "old", "name"),
    [
        (IDENTITY, None, "identity"),
        (None, IDENTITY, "identity"),
        (TANH, IDENTITY, "tanh"),
        (None, None, "sigmoid"),
    ],
)
def test_a_classic_reranker_uses_the_keys_of_older_releases_in_order(new, old, name, tiny_copy):
    folder = tiny_copy("bert")
    edit_json(
        folder / "config.json", remove=("sentence_transformers", "sbert_ce_default_activation_function")
    )
    if new is not None:
        edit_json(folder / "config.json", sentence_transformers={"activation_fn": new})
    if old is not None:
        edit_json(folder / "config.json", sbert_ce_default_activation_function=old)
    assert CrossEncoder(folder).activation_fn.name == name
    assert_scores_as_the_reference(folder)


def test_the_saved_activation_goes_before_the_keys_of_older_releases(tiny_copy):
    folder = tiny_copy("ettin")
    set_activation(folder, TANH)
    edit_json(folder / "config.json", sbert_ce_default_activation_function=SIGMOID)
    assert_scores_as_the_reference(folder)
    assert CrossEncoder(folder, activation_fn="identity").activation_fn.name == "identity"


def test_an_activation_that_is_code_is_not_run(tiny_copy, caplog):
    folder = tiny_copy("ettin")
    set_activation(folder, "os.system")
    with caplog.at_level(logging.WARNING, "runoff"):
        assert CrossEncoder(folder).activation_fn.name == "sigmoid"
    assert is_logged(caplog, "'os.system' is code of its own and is not run")


def test_saved_prompts_are_those_of_the_reference(tiny_copy):
    folder = tiny_copy("ettin")
    file = folder / "config_sentence_transformers.json"
    edit_json(file, prompts={"web": "query: ", "empty": None}, default_prompt_name="web")
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    ours = CrossEncoder(folder)
    assert (ours.prompts, ours.default_prompt_name) == (theirs.prompts, theirs.default_prompt_name)
    assert_scores_as_the_reference(folder)


def test_requirements_for_other_software_are_named_and_not_enforced(tiny_copy, caplog):
    folder = tiny_copy("ettin")
    edit_json(folder / "config_sentence_transformers.json", requirements={"transformers": ">=99"})
    with caplog.at_level(logging.WARNING, "runoff"):
        CrossEncoder(folder)
    assert is_logged(caplog, "transformers")


# --- texts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "declared", "limit"),
    [
        ({"max_seq_length": 20}, 512, 20),
        ({"processing_kwargs": {"text": {"max_length": 24}}}, 512, 24),
        ({"tokenizer_args": {"model_max_length": 28}}, 512, 28),
        ({}, 100, 100),
        ({}, 1000000000000000019884624838656, 7999),
    ],
)
def test_the_limit_is_the_one_the_reference_honours(settings, declared, limit, tiny_copy):
    folder = tiny_copy("ettin")
    edit_json(folder / "sentence_bert_config.json", **settings)
    edit_json(folder / "tokenizer_config.json", model_max_length=declared)
    ours = CrossEncoder(folder)
    assert ours.max_seq_length == limit
    long = [("a planet " * 20, "red moon " * 60)]
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(long)
    np.testing.assert_allclose(ours.predict(long), theirs, rtol=0, atol=1e-5)


def test_a_classic_reranker_takes_no_more_than_its_positions(tiny_copy):
    folder = tiny_copy("roberta")
    edit_json(folder / "tokenizer_config.json", remove=("model_max_length",))
    ours = CrossEncoder(folder)
    assert ours.max_seq_length == 512
    assert np.isfinite(ours.predict([("a", "planet " * 900)])).all()


def test_without_modules_the_sentence_bert_config_is_not_read(tiny_copy):
    folder = tiny_copy("bert")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": true}')
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    assert CrossEncoder(folder).max_seq_length == theirs.max_seq_length == 512


@pytest.mark.parametrize("key", ["query_length", "document_length"])
def test_limits_by_task_are_left_to_the_reference(key, tiny_copy):
    folder = tiny_copy("bert-embedder")
    edit_json(folder / "sentence_bert_config.json", **{key: 6})
    ours = Embedder(folder)
    assert ours.choice.engine == "sentence-transformers"
    assert key in ours.choice.reason


# --- B7: segments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "warns"),
    [
        ({}, False),
        ({"tokenizer_class": "BertTokenizerFast"}, False),
        ({"tokenizer_class": "TokenizersBackend"}, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),
        ({"tokenizer_class": "NoSuchTokenizer"}, True),
        ({"model_input_names": ["input_ids", "attention_mask"]}, True),
        (
            {
                "tokenizer_class": "TokenizersBackend",
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            },
            False,
        ),
    ],
)
def test_segments_are_fed_where_the_reference_feeds_them(changes, warns, tiny_copy, caplog):
    folder = tiny_copy("bert")
    edit_json(folder / "tokenizer_config.json", **changes)
    with caplog.at_level(logging.WARNING, "runoff"):
        assert_scores_as_the_reference(folder)
    assert len(is_logged(caplog, "both get segment 0")) == warns


def test_a_model_without_segments_never_warns_of_them(tiny, caplog):
    # Its template gives the document segment 1, its tokenizer feeds none, and the model knows none.
    with caplog.at_level(logging.WARNING, "runoff"):
        CrossEncoder(tiny("ettin"))
        CrossEncoder(tiny("roberta"))
    assert not is_logged(caplog, "segment")


def test_segments_change_the_scores_of_the_stand_in(tiny, tiny_copy):
    folder = tiny_copy("bert")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    difference = CrossEncoder(folder).predict(PAIRS) - CrossEncoder(tiny("bert")).predict(PAIRS)
    assert np.abs(difference).max() > 1e-2, "otherwise the tests above show nothing"


# --- embedders -------------------------------------------------------------------------------------------


def test_an_embedder_keeps_its_dense_layers(tiny, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense

    model = SentenceTransformer(str(tiny("bert-embedder")), device="cpu")
    torch.manual_seed(3)
    model.append(Dense(32, 8))
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    texts = ["a red planet", "mars"]
    ours = Embedder(tmp_path / "model")
    assert ours.choice.engine != "sentence-transformers"
    np.testing.assert_allclose(ours.encode(texts), model.encode(texts), rtol=0, atol=1e-5)


def test_a_plain_encoder_is_an_embedder_by_its_mean(tiny_copy):
    folder = tiny_copy("bert-embedder")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    texts = ["a red planet", "mars"]
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(Embedder(folder).encode(texts), theirs, rtol=0, atol=1e-5)
