"""Stand-in checkpoints: random weights in the true shapes, written by sentence-transformers and transformers.

Every builder takes the folder to fill and returns it. Weights are seeded and spread, so that scores differ
between pairs by about `SCORE_SPREAD` and a mistake anywhere in the forward pass shows.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding
from tokenizers import Tokenizer
from torch import nn

from standin_texts import sample_text
from standin_tokenizers import (
    minilm_folder,
    modernbert_tokenizer,
    roberta_tokenizer,
    wordpiece_tokenizer,
    xlm_roberta_tokenizer,
)

SCORE_SPREAD = 2.0
"""Standard deviation of the raw scores over a dozen short pairs, which the last linear is scaled to."""


@dataclass(frozen=True)
class EncoderShape:
    hidden: int
    layers: int
    intermediate: int
    heads: int

    def cut_to(self, layers: int | None) -> EncoderShape:
        return self if layers is None else EncoderShape(self.hidden, layers, self.intermediate, self.heads)


ETTIN_SHAPES = {
    "17m": EncoderShape(256, 7, 384, 4),
    "32m": EncoderShape(384, 10, 576, 6),
    "68m": EncoderShape(512, 19, 768, 8),
    "150m": EncoderShape(768, 22, 1152, 12),
    "400m": EncoderShape(1024, 28, 2624, 16),
    "1b": EncoderShape(1792, 28, 3840, 28),
}
MINILM_L6 = EncoderShape(384, 6, 1536, 12)
BERT_BASE = EncoderShape(768, 12, 3072, 12)


# --- weights -----------------------------------------------------------------------------------------


@torch.no_grad()
def spread_weights(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Replaces every weight by a seeded draw: embeddings N(0, 1), linears of `gain`, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.weight.normal_(0.0, 1.0, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, gain / math.sqrt(module.in_features), generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.weight.normal_(1.0, 0.2, generator=generator)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            module.bias.normal_(0.0, 0.2, generator=generator)


@torch.no_grad()
def spread_scores(model: CrossEncoder, last_linear: nn.Linear) -> None:
    """Scales `last_linear` so that a dozen short pairs score around 0.5, `SCORE_SPREAD` apart."""
    generator = np.random.default_rng(7)
    pairs = [(sample_text(6, generator), sample_text(24, generator)) for _ in range(12)]
    raw = model.predict(pairs, activation_fn=nn.Identity(), convert_to_tensor=True).reshape(12, -1)
    last_linear.weight *= SCORE_SPREAD / float(raw.std(dim=0).mean())
    last_linear.bias.zero_()
    raw = model.predict(pairs, activation_fn=nn.Identity(), convert_to_tensor=True).reshape(12, -1)
    last_linear.bias += 0.5 - raw.mean(dim=0)


@contextmanager
def _backbone_folder(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> Iterator[str]:
    """A plain transformers folder, from which sentence-transformers builds its own."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder


def modernbert_config(shape: EncoderShape, **changes: Any) -> transformers.ModernBertConfig:
    return transformers.ModernBertConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        vocab_size=50368,
        **{"max_position_embeddings": 7999, **changes},
    )


def bert_like_config(kind: type, shape: EncoderShape, **changes: Any) -> Any:
    return kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        **changes,
    )


# --- rerankers ---------------------------------------------------------------------------------------


def build_ettin_reranker(
    folder: Path, size: str, *, layers: int | None = None, labels: int = 1, seed: int = 1, **config: Any
) -> Path:
    """The modular layout: ModernBERT, Pooling(cls), Dense(GELU), LayerNorm, Dense named `scores`."""
    shape = ETTIN_SHAPES[size].cut_to(layers)
    backbone = transformers.ModernBertModel(modernbert_config(shape, **config))
    spread_weights(backbone, seed)
    with _backbone_folder(backbone, modernbert_tokenizer(7999)) as source:
        encoder = Transformer(source)
    width = shape.hidden
    middle = Dense(width, width, bias=False, activation_function=nn.GELU())
    last = Dense(width, labels, bias=True, activation_function=nn.Identity(), module_output_name="scores")
    norm = LayerNorm(width)
    model = CrossEncoder(
        modules=[encoder, Pooling(width, pooling_mode="cls"), middle, norm, last],
        device="cpu",
        activation_fn=nn.Identity(),
    )
    for place, module in enumerate([middle, norm, last]):
        spread_weights(module, seed + 100 + place)
    spread_scores(model, last.linear)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def save_classifier(folder: Path, model: transformers.PreTrainedModel, tokenizer: Any) -> Path:
    """The classic layout: a transformers folder with config, weights and tokenizer, and nothing else."""
    with _backbone_folder(model, tokenizer) as source:
        scorer = CrossEncoder(source, device="cpu")
    head = scorer.model.classifier
    spread_scores(scorer, head if isinstance(head, nn.Linear) else head.out_proj)
    scorer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_bert_classifier(
    folder: Path, *, shape: EncoderShape = MINILM_L6, labels: int = 1, seed: int = 1
) -> Path:
    """BERT in the shape and style of ms-marco-MiniLM-L6: no modules.json, Identity named by legacy keys."""
    config = bert_like_config(transformers.BertConfig, shape, vocab_size=30522, num_labels=labels)
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 512
    model = transformers.BertForSequenceClassification(config)
    spread_weights(model, seed)
    save_classifier(folder, model, tokenizer)
    identity = "torch.nn.modules.linear.Identity"
    edit_json(folder / "config.json", sentence_transformers={"activation_fn": identity, "version": "4.1.0"})
    edit_json(folder / "config.json", sbert_ce_default_activation_function=identity)
    return folder


def build_minilm_reranker(folder: Path) -> Path:
    """The real all-MiniLM-L6-v2 encoder and pooler with a random classifier on top."""
    model = transformers.BertForSequenceClassification.from_pretrained(minilm_folder(), num_labels=1)
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 512
    spread_weights(model.classifier, 6)
    return save_classifier(folder, model, tokenizer)


def build_roberta_classifier(folder: Path, *, shape: EncoderShape = MINILM_L6, labels: int = 1) -> Path:
    tokenizer = roberta_tokenizer()
    config = _roberta_config(transformers.RobertaConfig, shape, len(tokenizer), labels)
    model = transformers.RobertaForSequenceClassification(config)
    spread_weights(model, 2)
    return save_classifier(folder, model, tokenizer)


def build_xlm_roberta_classifier(
    folder: Path, *, shape: EncoderShape = BERT_BASE, labels: int = 1, vocab_size: int | None = None
) -> Path:
    """bge-reranker-base's shape; its vocabulary has 250,002 rows, the tokenizer's own size by default."""
    tokenizer = xlm_roberta_tokenizer()
    config = _roberta_config(transformers.XLMRobertaConfig, shape, vocab_size or len(tokenizer), labels)
    model = transformers.XLMRobertaForSequenceClassification(config)
    spread_weights(model, 3)
    return save_classifier(folder, model, tokenizer)


def _roberta_config(kind: type, shape: EncoderShape, vocab_size: int, labels: int) -> Any:
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": vocab_size, "num_labels": labels, "max_position_embeddings": 514}
    return bert_like_config(kind, shape, type_vocab_size=1, layer_norm_eps=1e-5, **special, **sizes)


def build_modernbert_classifier(
    folder: Path, *, size: str = "150m", layers: int | None = None, pooling: str = "cls", labels: int = 1
) -> Path:
    """ModernBertForSequenceClassification as in gte-reranker-modernbert-base, `pooling` cls or mean."""
    config = modernbert_config(
        ETTIN_SHAPES[size].cut_to(layers),
        classifier_pooling=pooling,
        num_labels=labels,
        max_position_embeddings=8192,
    )
    model = transformers.ModernBertForSequenceClassification(config)
    spread_weights(model, 4)
    return save_classifier(folder, model, modernbert_tokenizer(8192))


def build_deberta_classifier(folder: Path) -> Path:
    """A tiny DeBERTa-v2, which no engine of ours runs."""
    tokenizer = wordpiece_tokenizer()
    sizes = {"vocab_size": 30522, "max_position_embeddings": 512, "num_labels": 1}
    config = bert_like_config(transformers.DebertaV2Config, EncoderShape(32, 2, 64, 2), **sizes)
    model = transformers.DebertaV2ForSequenceClassification(config)
    spread_weights(model, 7)
    return save_classifier(folder, model, tokenizer)


def build_causal_reranker(folder: Path) -> Path:
    """A tiny Qwen3 whose score is the difference of two tokens' logits, as sentence-transformers saves it."""
    tokenizer = modernbert_tokenizer(512)
    shape = {"head_dim": 16, "num_key_value_heads": 2, "vocab_size": 50368, "tie_word_embeddings": True}
    config = bert_like_config(transformers.Qwen3Config, EncoderShape(32, 2, 64, 2), **shape)
    model = transformers.Qwen3ForCausalLM(config)
    spread_weights(model, 5)
    with _backbone_folder(model, tokenizer) as source:
        encoder = Transformer(source, transformer_task="text-generation")
    modules = [encoder, LogitScore(true_token_id=300, false_token_id=301)]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def build_bare_causal(folder: Path) -> Path:
    """A tiny Qwen2 as transformers saves it: nothing says that it is a reranker."""
    shape = {"num_key_value_heads": 2, "vocab_size": 50368, "tie_word_embeddings": True}
    model = transformers.Qwen2ForCausalLM(
        bert_like_config(transformers.Qwen2Config, EncoderShape(32, 2, 64, 2), **shape)
    )
    spread_weights(model, 5)
    model.save_pretrained(folder)
    modernbert_tokenizer(8192).save_pretrained(folder)
    return folder


# --- embedders ---------------------------------------------------------------------------------------


def build_static_embedder(folder: Path, *, dimension: int = 1024, normalize: bool = False) -> Path:
    """One vector a token, averaged: the layout of static-retrieval-mrl-en-v1."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    table = np.random.default_rng(9).normal(size=(30522, dimension)).astype(np.float32)
    modules: list[nn.Module] = [StaticEmbedding(tokenizer, embedding_weights=table)]
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def build_model2vec_embedder(
    folder: Path, *, dimension: int = 64, normalize: bool = True, clustered: bool = False
) -> Path:
    """The model2vec format; `clustered` adds its vocabulary quantisation (rows shared, a weight a token)."""
    from model2vec import StaticModel

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    generator = np.random.default_rng(10)
    rows = 4096 if clustered else 30522
    table = generator.normal(size=(rows, dimension)).astype(np.float32)
    quantised: dict[str, Any] = {}
    if clustered:
        quantised["token_mapping"] = generator.integers(rows, size=30522)
        quantised["weights"] = generator.uniform(0.1, 2.0, size=30522).astype(np.float32)
    StaticModel(table, tokenizer, normalize=normalize, **quantised).save_pretrained(folder)
    return folder


def build_encoder_embedder(
    folder: Path, kind: str, *, pooling: str, normalize: bool = True, shape: EncoderShape = MINILM_L6
) -> Path:
    """An encoder with pooling: `kind` "bert" (bge-small's form with pooling "cls") or "modernbert"."""
    backbone: transformers.PreTrainedModel
    if kind == "bert":
        backbone = transformers.BertModel(bert_like_config(transformers.BertConfig, shape, vocab_size=30522))
        tokenizer = wordpiece_tokenizer()
        tokenizer.model_max_length = 512
    else:
        backbone = transformers.ModernBertModel(modernbert_config(shape))
        tokenizer = modernbert_tokenizer(7999)
    spread_weights(backbone, 11)
    with _backbone_folder(backbone, tokenizer) as source:
        modules: list[nn.Module] = [Transformer(source), Pooling(shape.hidden, pooling_mode=pooling)]
    if normalize:
        modules.append(Normalize())
    prompts = {"query": "query: ", "document": "passage: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


# --- edits to a saved checkpoint ---------------------------------------------------------------------


def edit_json(path: Path, *, remove: tuple[str, ...] = (), **changes: Any) -> None:
    """Sets and removes keys of a JSON object in place."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if key not in remove}
    path.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def use_old_module_names(folder: Path) -> None:
    """Writes `sentence_transformers.models.X`, the names before 5.4, into modules.json."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rsplit('.', 1)[-1]}"
    path.write_text(json.dumps(modules), encoding="utf-8")


def use_old_pooling_config(folder: Path) -> None:
    """Rewrites 1_Pooling/config.json with the booleans that came before `pooling_mode`."""
    path = folder / "1_Pooling" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    modes["mean_sqrt_len_tokens"] = "mean_sqrt_len_tokens"
    old: dict[str, Any] = {"word_embedding_dimension": config["embedding_dimension"]}
    old |= {f"pooling_mode_{name}": config["pooling_mode"] == mode for name, mode in modes.items()}
    path.write_text(json.dumps(old), encoding="utf-8")


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Loads a safetensors file, lets `change` edit the mapping of its tensors, and writes it back."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def store_as_bf16(folder: Path) -> None:
    """Rounds every weight file to bfloat16, as half-size checkpoints are published."""
    for path in folder.rglob("*.safetensors"):
        change_tensors(
            path, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()})
        )
    if "dtype" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        edit_json(folder / "config.json", dtype="bfloat16")


def copied(source: Path, target: Path) -> Path:
    """A copy of a checkpoint that may be edited."""
    shutil.copytree(source, target)
    return target


def place_in_hub_cache(folder: Path, repo_id: str, cache_dir: Path, revision: str = "main") -> Path:
    """Puts a checkpoint where huggingface_hub looks for a downloaded one, in the place of one of that name;
    returns the snapshot folder."""
    commit = hashlib.sha1(f"{repo_id}@{revision}".encode()).hexdigest()
    repo = cache_dir / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / revision).write_text(commit, encoding="utf-8")
    shutil.rmtree(repo / "snapshots" / commit, ignore_errors=True)
    return copied(folder, repo / "snapshots" / commit)
