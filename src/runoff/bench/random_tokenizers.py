"""Tokenizers for checkpoints with random weights: trained on docstrings, with the true models' special ids and
templates, so that a pair is laid out as the true model lays it out. Pieces are fewer than theirs (6,000)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from runoff.bench.prose import prose
from runoff.bench.shapes import Shape

_PIECES = 6_000


def write_tokenizer(folder: Path, shape: Shape) -> None:
    """Writes tokenizer.json and tokenizer_config.json of a model of this shape."""
    tokenizer, special, inputs = _MADE[shape.kind](shape)
    tokenizer.save(str(folder / "tokenizer.json"))
    limit = 7999 if shape.kind == "ettin" else shape.positions
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": limit,
        "model_input_names": inputs,
        **{f"{role}_token": token for role, token in special.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")


_CLS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_PLAIN = ["input_ids", "attention_mask"]


@cache
def _byte_level_pieces() -> dict[str, Any]:
    """vocab and merges of a byte-level BPE."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_PIECES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(prose(), trainer)
    pieces: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return pieces


def _byte_level(filled_to: int) -> Any:
    """A byte-level BPE whose vocabulary has `filled_to` rows, those that no text gives included."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = _byte_level_pieces()
    vocab = dict(pieces["vocab"])
    vocab |= {f"<filler {index}>": index for index in range(len(vocab), filled_to)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge) for merge in pieces["merges"]]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _modernbert(_shape: Shape) -> tuple[Any, dict[str, str], list[str]]:
    """ModernBERT's ids: [CLS] 50281, [SEP] 50282, [PAD] 50283, 50,368 in all."""
    from tokenizers import processors

    tokenizer = _byte_level(50254)
    # Runs of 24 down to 2 spaces are pieces of their own there.
    tokenizer.add_tokens([" " * length for length in range(24, 1, -1)])
    named = ["|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer.add_special_tokens([*named, "[MASK]", *(f"[unused{index}]" for index in range(83))])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 50281), ("[SEP]", 50282)],
    )
    return tokenizer, _CLS, _PLAIN


def _bert(_shape: Shape) -> tuple[Any, dict[str, str], list[str]]:
    """Uncased WordPiece with BERT's ids: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=_PIECES, special_tokens=["[UNK]"], show_progress=False)
    trained.train_from_iterator(prose(), trainer)
    special = ["[PAD]", *(f"[unused{index}]" for index in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [piece for piece, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    listed = [*special, *(piece for piece in pieces if piece != "[UNK]")]
    vocab = {piece: index for index, piece in enumerate(listed)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in special if "unused" not in token])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 101), ("[SEP]", 102)],
    )
    return tokenizer, _CLS, ["input_ids", "token_type_ids", "attention_mask"]


def _unigram(special: list[str], unknown: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=_PIECES - 1000, special_tokens=special, unk_token=unknown, show_progress=False
    )
    # A quarter of the prose: all of it takes ten times as long and gives the same length of pieces.
    tokenizer.train_from_iterator(prose()[::4], trainer)
    return tokenizer


def _xlm_roberta(_shape: Shape) -> tuple[Any, dict[str, str], list[str]]:
    """Unigram in XLM-RoBERTa's form: `<s> A </s></s> B </s>`, <s> 0, <pad> 1, </s> 2, <unk> 3."""
    from tokenizers import processors

    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>"], "<unk>")
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    return tokenizer, special | {"unk": "<unk>", "mask": "<mask>"}, _PLAIN


def _deberta(_shape: Shape) -> tuple[Any, dict[str, str], list[str]]:
    """Unigram in DeBERTa-v3's form: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3."""
    from tokenizers import processors

    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]")
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer, _CLS, ["input_ids", "token_type_ids", "attention_mask"]


def _qwen2(_shape: Shape) -> tuple[Any, dict[str, str], list[str]]:
    """Byte-level BPE without a template; the true model also lays a prompt of about 100 tokens around a pair."""
    tokenizer = _byte_level(len(_byte_level_pieces()["vocab"]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer, {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}, _PLAIN


_MADE = {
    "ettin": _modernbert,
    "modernbert": _modernbert,
    "bert": _bert,
    "xlm-roberta": _xlm_roberta,
    "deberta-v2": _deberta,
    "qwen2": _qwen2,
}
