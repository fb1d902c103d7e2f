"""A finished training run made by hand: the tiny student of the family's layout, and what `runoff train` says of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import nn

from standin_tiny import SHAPE
from standin_tokenizers import modernbert_tokenizer, wordpiece_tokenizer
from standins import bert_like_config, modernbert_config, spread_scores, spread_weights

RUN: dict[str, Any] = {
    "kind": "run",
    "complete": True,
    "recipe": {
        "name": "laptop",
        "backbone": "some-org/tiny-encoder",
        "pooling": "mean",
        "loss": {"mse": 1.0, "listwise": 0.5},
        "learning_rate": 0.000234,
        "global_batch": 64,
        "group": 8,
        "epochs": 1.0,
        "warmup": 0.03,
        "max_length": 256,
        "precision": "auto",
        "seed": 12,
        "frozen": ["embeddings"],
    },
    "rows": {
        "folder": "rows",
        "identity": {
            "mixture": {
                "name": "ours",
                "seed": 12,
                "subsets": [
                    {"name": "manuals", "folder": "build/m"},
                    {"name": "faq", "dataset": "some-org/faq"},
                ],
            },
            "shard_rows": 100,
        },
        "counts": {"rows": 12345, "queries": 678, "held_out_queries": 55},
    },
    "backbone": {"name": "some-org/tiny-encoder", "sha256": "ab" * 32},
    "parameters": 1234567,
    "machine": {"processor": "Abacus 9000", "cores": 2, "flags": ["avx2"], "device": "cpu", "processes": 1},
    "versions": {"runoff": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    "precision": "fp32",
    "steps": 190,
    "pairs": 12160,
    "tokens": 1987654,
    "seconds": 4321.0,
    "loss": 0.4711,
    "metric": "held_out_ndcg@10",
    "evaluations": [
        {"step": 60, "metrics": {"held_out_ndcg@10": 0.6111, "held_out_loss": 1.5}},
        {"step": 120, "metrics": {"held_out_ndcg@10": 0.7333, "held_out_loss": 1.1}},
        {"step": 180, "metrics": {"held_out_ndcg@10": 0.7222, "held_out_loss": 1.0}},
    ],
    "best": {"step": 120, "value": 0.7333},
    "last": {"step": 180, "value": 0.7222},
    "chosen": "best",
}
"""run.json as `runoff train` writes it at the end."""

ROWS: dict[str, Any] = {
    "kind": "labels",
    "identity": RUN["rows"]["identity"],
    "complete": True,
    "subsets": {
        "manuals": {"taken": 12000, "held_out": 0, "licence": "cc-by-4.0"},
        "faq": {"taken": 345, "held_out": 55, "licence": "mit"},
    },
    "mixture": RUN["rows"]["identity"]["mixture"],
}
"""manifest.json of the rows, as `runoff mix` writes it."""


def build_student(folder: Path, kind: str) -> Path:
    """Encoder ("bert", "modernbert") -> Pooling -> Dense(GELU) -> LayerNorm -> Dense named scores, fp32."""
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    source = folder.with_name(f"{folder.name}-encoder")
    if kind == "bert":
        backbone: Any = transformers.BertModel(
            bert_like_config(transformers.BertConfig, SHAPE, vocab_size=30522)
        )
        tokenizer = wordpiece_tokenizer()
        tokenizer.model_max_length = 512
    else:
        backbone = transformers.ModernBertModel(modernbert_config(SHAPE))
        tokenizer = modernbert_tokenizer(7999)
    spread_weights(backbone, 21)
    backbone.save_pretrained(source)
    tokenizer.save_pretrained(source)
    width = SHAPE.hidden
    middle = Dense(width, width, bias=False, activation_function=nn.GELU())
    last = Dense(width, 1, activation_function=nn.Identity(), module_output_name="scores")
    norm = LayerNorm(width)
    pooling = Pooling(width, "mean" if kind == "bert" else "cls")
    modules = [Transformer(str(source)), pooling, middle, norm, last]
    model = CrossEncoder(modules=modules, device="cpu", activation_fn=nn.Identity())
    for place, module in enumerate([middle, norm, last]):
        spread_weights(module, 31 + place)
    spread_scores(model, last.linear)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def build_run(folder: Path, kind: str, **changes: Any) -> Path:
    """RUN with its model, log and picture; `changes` are of run.json."""
    folder.mkdir(parents=True)
    build_student(folder / "model", kind)
    (folder / "curves.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", encoding="utf-8")
    (folder / "log.jsonl").write_text('{"step": 1, "kind": "step", "loss": 2.0}\n', encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({**RUN, **changes}, indent=2), encoding="utf-8")
    return folder


def build_rows(folder: Path, **changes: Any) -> Path:
    """The folder of rows that the run was trained on, its manifest alone."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**ROWS, **changes}), encoding="utf-8")
    return folder
