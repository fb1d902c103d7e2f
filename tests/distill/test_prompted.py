"""Causal language models as teachers: asked as they were trained, the same whatever is in the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from runoff.contracts import CheckpointError, InputError
from runoff.distill.prompted import TEMPLATES, PromptedTeacher, Template, template_for
from standins import build_bare_causal

PAIRS = [
    ("how tall is K2", "K2 is 8,611 m high."),
    ("{odd}", "braces {0} and 100 %"),
    ("boats", "float " * 60),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_bare_causal(tmp_path_factory.mktemp("qwen") / "mxbai-rerank-tiny-v2")


def made(folder, template="mxbai-rerank-v2", **options):
    return PromptedTeacher(folder.name, folder, template, **{"device": "cpu", "dtype": "float32", **options})


def plainly(folder, template: Template, query: str, document: str, room: int = 100_000) -> float:
    """One pair, no batch, no padding: the answers' logits behind the whole text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    parts = (template.before, template.body.format(query=query, document=document), template.after)
    before, body, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in parts)
    with torch.inference_mode():
        logits = model(torch.tensor([[*before, *body[:room], *after]])).logits[0, -1]
    yes, no = (
        tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (template.yes, template.no)
    )
    return float(logits[yes] - logits[no])


def test_scores_are_the_difference_of_the_answers_logits_whatever_is_in_the_batch(folder):
    expected = [plainly(folder, TEMPLATES["mxbai-rerank-v2"], *pair) for pair in PAIRS]
    assert np.ptp(expected) > 0.01
    assert np.allclose(made(folder).score_pairs(PAIRS), expected, atol=1e-4)
    assert np.allclose(made(folder).score_pairs(PAIRS[:1]), expected[:1], atol=1e-4)
    assert made(folder).score_pairs([]).shape == (0,)


def test_a_long_pair_loses_its_end_and_the_question_stays_whole(folder):
    teacher = made(folder)
    room = 20
    length = len(teacher._before) + room + len(teacher._after)
    found = made(folder, max_length=length).score_pairs(PAIRS[2:])
    assert found[0] == pytest.approx(plainly(folder, TEMPLATES["mxbai-rerank-v2"], *PAIRS[2], room), abs=1e-4)
    with pytest.raises(InputError, match="expected a length of more than"):
        made(folder, max_length=length - room)


def test_templates_say_what_the_families_were_trained_with():
    mxbai, qwen = TEMPLATES["mxbai-rerank-v2"], TEMPLATES["qwen3-reranker"]
    assert (mxbai.yes, mxbai.no, qwen.yes, qwen.no) == ("1", "0", "yes", "no")
    assert mxbai.after.endswith("Relevance:<|im_end|>\n<|im_start|>assistant\n")
    assert qwen.after.endswith("<think>\n\n</think>\n\n")


def test_a_bare_causal_model_is_asked_by_its_name_and_an_unknown_one_is_refused(folder, tmp_path):
    assert template_for("mixedbread-ai/mxbai-rerank-large-v2", folder) == "mxbai-rerank-v2"
    assert template_for("Qwen/Qwen3-Reranker-0.6B", folder) == "qwen3-reranker"
    with pytest.raises(InputError, match="nothing in its folder says how it is asked"):
        template_for("somebody/llama", folder)


def test_a_model_that_describes_itself_needs_no_template(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (tmp_path / "modules.json").write_text("[]")
    assert template_for("mixedbread-ai/mxbai-rerank-large-v2", tmp_path) is None
    (tmp_path / "modules.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    assert template_for("mixedbread-ai/mxbai-rerank-large-v2", tmp_path) is None


def test_an_answer_that_is_several_tokens_is_refused(folder, monkeypatch):
    odd = Template((), "", "{query} {document}", "", "certainly not", "0")
    monkeypatch.setitem(TEMPLATES, "odd", odd)
    with pytest.raises(CheckpointError, match="expected the answer 'certainly not' to be one token"):
        made(folder, "odd")
