"""Teachers that are causal language models: a fixed question about the pair, and how much likelier one answer is.

For those that their hub folder does not describe to sentence-transformers, which would then ask for "yes" and "no" in
words of its own. A score is the difference of two tokens' logits at the last place, before any softmax.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runoff.contracts import CheckpointError, FloatArray, InputError, Pair

LONGEST = 8192
"""Tokens of a question with its pair: what both families' own code takes."""
CPU_TOKENS, GPU_TOKENS = 4096, 32768
"""Of a batch, padding counted."""


@dataclass(frozen=True, slots=True)
class Template:
    """How a family is asked. Of a long pair the end of `body` is cut, and `before` and `after` stay whole.

    models      words that the model's name has, in lower case
    yes, no     the answers whose logits are compared; each must be one token
    """

    models: tuple[str, ...]
    before: str
    body: str
    after: str
    yes: str
    no: str


TEMPLATES = {
    # AnswerDotAI/rerankers, rerankers/models/mxbai_v2.py: the reference that its makers point to.
    "mxbai-rerank-v2": Template(
        ("mxbai-rerank-", "-v2"),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
        "query: {query}\ndocument: {document}",
        "\nYou are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n",
        "1",
        "0",
    ),
    # The model card of Qwen3-Reranker, with its default instruction.
    "qwen3-reranker": Template(
        ("qwen3-reranker",),
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {query}\n"
        "<Document>: {document}",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "yes",
        "no",
    ),
}


def template_for(name: str, folder: Path) -> str | None:
    """The template that a model needs, None for one that is no bare causal language model.

    `InputError` for a bare causal model of an unknown family: asked in the wrong words it would teach nonsense.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None  # whoever loads it says what is wrong
    architectures = config.get("architectures") or [""]
    if not str(architectures[0]).endswith("ForCausalLM") or (folder / "modules.json").exists():
        return None
    lowered = name.lower()
    for key, template in TEMPLATES.items():
        if all(word in lowered for word in template.models):
            return key
    raise InputError(
        f"{name} is a causal language model, and nothing in its folder says how it is asked. Say --template "
        f"{' or '.join(TEMPLATES)} if it was trained that way"
    )


class PromptedTeacher:
    """A causal language model's raw scores. `folder` has its files, `name` is what the scores are known by."""

    def __init__(
        self, name: str, folder: Path, template: str, *, device: str, dtype: str, max_length: int = LONGEST
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if template not in TEMPLATES:
            raise InputError(f"expected a template among {', '.join(TEMPLATES)}, got {template!r}")
        self.name, self._template, self._device = name, TEMPLATES[template], device
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._model = model.to(device).eval()
        self._before, self._after = (
            self._ids(text) for text in (self._template.before, self._template.after)
        )
        self._answers = [self._answer(text) for text in (self._template.yes, self._template.no)]
        self._room = max_length - len(self._before) - len(self._after)
        if self._room < 1:
            raise InputError(
                f"expected a length of more than {max_length - self._room} tokens, which the question alone has, got "
                f"{max_length}"
            )

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _answer(self, text: str) -> int:
        ids = self._ids(text)
        if len(ids) != 1:
            raise CheckpointError(
                f"{self.name}: expected the answer {text!r} to be one token, its tokenizer makes {len(ids)} of it. Is "
                "it of this template's family?"
            )
        return ids[0]

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        """[N], in fp32."""
        from runoff.distill.steps import cut

        texts = [self._template.body.format(query=query, document=document) for query, document in pairs]
        bodies = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        rows = [[*self._before, *ids[: self._room], *self._after] for ids in bodies]
        lengths = np.array([len(row) for row in rows], np.int32)
        budget = CPU_TOKENS if self._device == "cpu" else GPU_TOKENS
        scores = np.zeros(len(rows), np.float32)
        for part in cut(lengths, np.ones_like(lengths), budget):
            scores[part] = self._scored([rows[row] for row in part])
        return scores

    def _scored(self, rows: Sequence[Sequence[int]]) -> Any:
        """Scores of rows of ids, longest first, padded on the left: the last place carries the answer."""
        import torch

        width = len(rows[0])
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = torch.tensor(row)
            mask[number, width - len(row) :] = 1
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(self._device),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
        yes, no = (logits[:, token].float() for token in self._answers)
        return (yes - no).cpu().numpy()
