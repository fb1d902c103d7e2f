"""Models that Runoff's engines do not run are run by sentence-transformers, to the same scores, or refused."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from torch import nn

import standins
from runoff import CrossEncoder, Embedder
from runoff.contracts import CheckpointError, CutReport, InputError, MissingExtraError
from runoff.engine import choose
from standin_texts import sample_candidates
from standin_tokenizers import modernbert_tokenizer
from standins import EncoderShape

CANDIDATES = sample_candidates(1, 12, longest_words=60)[0]
PAIRS = CANDIDATES.pairs
# The same program does the arithmetic; only the batches differ.
TOLERANCE = 1e-5

QWEN_TEMPLATE = """{%- for message in messages %}
{%- if message['role'] == 'system' %}<system>{{ message['content'] }}{% endif -%}
{%- if message['role'] == 'query' %}<query>{{ message['content'] }}{% endif -%}
{%- if message['role'] == 'document' %}<document>{{ message['content'] }}{% endif -%}
{%- endfor %}<answer>"""


def build_chat_reranker(folder: Path) -> Path:
    """A tiny Qwen3 in Qwen3-Reranker's layout: LogitScore of two tokens, a chat template, a prompt, a sigmoid."""
    tokenizer = modernbert_tokenizer(96)
    tokenizer.chat_template = QWEN_TEMPLATE
    shape = {"head_dim": 16, "num_key_value_heads": 2, "vocab_size": 50368, "tie_word_embeddings": True}
    config = standins.bert_like_config(transformers.Qwen3Config, EncoderShape(32, 2, 64, 2), **shape)
    model = transformers.Qwen3ForCausalLM(config)
    standins.spread_weights(model, 5)
    backbone = folder.parent / f"{folder.name}-backbone"
    model.save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    reranker = sentence_transformers.CrossEncoder(
        modules=[
            Transformer(str(backbone), transformer_task="text-generation"),
            LogitScore(true_token_id=300, false_token_id=301),
        ],
        device="cpu",
        prompts={"query": "Judge the document"},
        default_prompt_name="query",
    )
    reranker.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def folders(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    chat = build_chat_reranker(tmp_path_factory.mktemp("chat") / "model")
    return {"deberta": tiny("deberta"), "causal": tiny("causal"), "chat": chat}


NAMES = ["deberta", "causal", "chat"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_activations_and_ranking_are_those_of_sentence_transformers(
    name: str, folders: dict[str, Path]
) -> None:
    ours = CrossEncoder(folders[name], device="cpu")
    theirs = sentence_transformers.CrossEncoder(str(folders[name]), device="cpu")
    assert (ours.choice.engine, ours.device, ours.num_labels) == ("sentence-transformers", "cpu", 1)
    assert ours.max_seq_length == theirs.max_seq_length
    raw = ours.predict(PAIRS, activation_fn=nn.Identity())
    expected = theirs.predict(PAIRS, activation_fn=nn.Identity())
    assert expected.std() > 0.1, "scores too alike for a mistake to show"
    np.testing.assert_allclose(raw, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        ours.score(CANDIDATES.query, CANDIDATES.documents), expected, rtol=0, atol=TOLERANCE
    )
    ranked = ours.rank(CANDIDATES.query, CANDIDATES.documents, top_k=5, return_documents=True)
    reference = theirs.rank(CANDIDATES.query, list(CANDIDATES.documents), top_k=5, return_documents=True)
    assert [hit["corpus_id"] for hit in ranked] == [hit["corpus_id"] for hit in reference]
    assert [hit["text"] for hit in ranked] == [hit["text"] for hit in reference]


def test_a_chat_reranker_s_own_prompt_reaches_it_once(folders: dict[str, Path]) -> None:
    ours = CrossEncoder(folders["chat"], device="cpu")
    theirs = sentence_transformers.CrossEncoder(str(folders["chat"]), device="cpu")
    assert (ours.prompts, ours.default_prompt_name) == ({"query": "Judge the document"}, "query")
    answers = []
    for prompt in (None, "Judge the document", "Something else", ""):
        answers.append(ours.predict(PAIRS, prompt=prompt, activation_fn="identity"))
        expected = theirs.predict(PAIRS, prompt=prompt, activation_fn=nn.Identity())
        np.testing.assert_allclose(answers[-1], expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert all(np.abs(answers[0] - other).max() > 1e-3 for other in answers[2:])


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_cuts_as_in_sentence_transformers(name: str, folders: dict[str, Path]) -> None:
    theirs = sentence_transformers.CrossEncoder(str(folders[name]), device="cpu", max_length=40)
    expected = theirs.predict(PAIRS, activation_fn=nn.Identity())
    limited = CrossEncoder(folders[name], device="cpu", max_length=40)
    later = CrossEncoder(folders[name], device="cpu")
    later.max_seq_length = 40
    for ours in (limited, later):
        assert ours.max_seq_length == 40
        found = ours.predict(PAIRS, activation_fn="identity")
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_limit_cuts_is_counted(name: str, folders: dict[str, Path]) -> None:
    theirs = sentence_transformers.CrossEncoder(str(folders[name]), device="cpu", max_length=10_000)
    lengths = [int(theirs.preprocess([pair])["attention_mask"].sum()) for pair in PAIRS]
    limit = sorted(lengths)[len(lengths) // 2]
    cuts = [length - limit for length in lengths if length > limit]
    assert cuts
    limited = CrossEncoder(folders[name], device="cpu")
    if limited.prompts:
        limited.default_prompt_name = None
    assert limited.predict([("short", "pair")]).cut.cut_pairs == 0
    found = limited.predict(PAIRS, processing_kwargs={"text": {"max_length": limit}})
    assert found.cut == CutReport(len(PAIRS), len(cuts), sum(cuts), limit)


def test_one_delegated_model_serves_many_threads(folders: dict[str, Path]) -> None:
    """The first call sets the tokenizer's padding and truncation; here six threads make it at once."""
    samples = sample_candidates(6, 8, longest_words=40)
    expected = [CrossEncoder(folders["deberta"], device="cpu").predict(sample.pairs) for sample in samples]
    ours = CrossEncoder(folders["deberta"], device="cpu")
    found: dict[tuple[int, int], Any] = {}
    barrier = threading.Barrier(6)

    def work(row: int) -> None:
        barrier.wait()
        for turn in range(10):
            found[row, turn] = ours.predict(samples[row].pairs, batch_size=3 + turn % 3)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60, "a thread died"
    for (row, _), scores in found.items():
        np.testing.assert_allclose(scores, expected[row], rtol=0, atol=TOLERANCE)


# --- what it cannot do, it says ---------------------------------------------------------------------------


def test_what_only_our_engines_do_is_refused(folders: dict[str, Path]) -> None:
    ours = CrossEncoder(folders["deberta"], device="cpu")
    assert ours.tokenizer_fingerprint is None
    with pytest.raises(InputError, match="takes texts, not token ids"):
        ours.tokenize(["a text"])
    with pytest.raises(InputError, match=r"pair 1: .* takes texts, no token ids"):
        ours.score("query", ["a text", np.array([1, 2], np.int32)])
    for option in ({"truncation": "document"}, {"truncation": "error"}, {"long_documents": "passages"}):
        with pytest.raises(InputError, match="cuts 'longest_first' only"):
            ours.predict(PAIRS, **option)
    with pytest.raises(InputError, match="pair 0: Unsupported input type NoneType"):
        ours.predict([("q", None)])


def test_an_empty_input_never_reaches_it(folders: dict[str, Path]) -> None:
    ours = CrossEncoder(folders["deberta"], device="cpu")
    assert ours.predict([]).shape == (0,)
    assert ours.rank("query", []) == []
    assert ours.predict([]).cut == CutReport()


@pytest.mark.parametrize("name", NAMES)
def test_without_the_extra_the_error_names_the_extra_and_the_model_type(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "is_installed", lambda package: False)
    model_type = {"deberta": "deberta-v2"}.get(name, "text-generation")
    with pytest.raises(MissingExtraError, match=rf"{model_type}.*pip install 'runoff\[torch\]'"):
        CrossEncoder(folders[name])


def test_an_embedder_of_another_architecture_names_the_extra_too(
    tiny_copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_copy("bert-embedder")
    standins.edit_json(folder / "config.json", model_type="mpnet")
    monkeypatch.setattr(choose, "is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"mpnet.*pip install 'runoff\[torch\]'"):
        Embedder(folder)


# --- never unpickled, never random ------------------------------------------------------------------------


class Planted:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _explode, ("a checkpoint was unpickled",)


def _explode(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_checkpoint_is_refused_and_never_opened(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Planted()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        CrossEncoder(folder, device="cpu")


@pytest.mark.parametrize("lost", ["classifier.weight", "pooler.dense.bias"])
def test_a_head_that_transformers_would_make_up_is_refused(
    lost: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["deberta"], tmp_path / "headless"))
    standins.change_tensors(folder / "model.safetensors", lambda tensors: tensors.pop(lost))
    assert sentence_transformers.CrossEncoder(str(folder), device="cpu").predict([("q", "d")]).shape == (1,)
    with pytest.raises(CheckpointError, match=rf"lack its head \({lost}\)"):
        CrossEncoder(folder, device="cpu")


def test_weights_in_several_files_are_all_looked_at(folders: dict[str, Path], tmp_path: Path) -> None:
    model = transformers.DebertaV2ForSequenceClassification.from_pretrained(folders["deberta"])
    folder = Path(shutil.copytree(folders["deberta"], tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    expected = CrossEncoder(folders["deberta"], device="cpu").predict(PAIRS)
    np.testing.assert_array_equal(CrossEncoder(folder, device="cpu").predict(PAIRS), expected)


# --- precision and device reach it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_precision_asked_for_is_the_one_it_computes_in(
    precision: Any, dtype: Any, folders: dict[str, Path]
) -> None:
    seen: list[Any] = []
    ours = CrossEncoder(folders["deberta"], device="cpu", precision=precision)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            seen.append(module.weight.dtype) if isinstance(module, nn.Linear) else None
        )
    )
    try:
        scores = ours.predict(PAIRS)
    finally:
        handle.remove()
    assert set(seen) == {dtype}
    assert scores.dtype == np.float32


def test_a_dtype_in_model_kwargs_goes_before_the_precision(folders: dict[str, Path]) -> None:
    exact = CrossEncoder(folders["deberta"], device="cpu").predict(PAIRS)
    half = CrossEncoder(folders["deberta"], device="cpu", model_kwargs={"dtype": "bfloat16"}).predict(PAIRS)
    assert 1e-4 < np.abs(exact - half).max() < 0.5
