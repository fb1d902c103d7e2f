"""A checkpoint of the training -> sentence-transformers files in bf16."""

import torch

from files import edit_json
from model import start_model
from train import restore


def export(args) -> None:
    model = start_model(args.pooling)
    state = restore(args.run_folder / "checkpoint.pt", model)
    model.to(torch.bfloat16).save_pretrained(str(args.out), create_model_card=False)
    # The file holds bf16 weights; float32 here makes sentence-transformers upcast them and compute in fp32.
    edit_json(args.out / "config.json", {"dtype": "float32"})
    # MiniLM's tokenizer file pads and cuts every text to 128 tokens for whoever reads it without transformers.
    edit_json(args.out / "tokenizer.json", {"padding": None, "truncation": None}, indent=None)
    edit_json(
        args.out / "tokenizer_config.json",
        drop=(
            "max_length",
            "stride",
            "truncation_strategy",
            "is_local",
            "local_files_only",
            "pad_to_multiple_of",
        ),
    )
    for file in args.out.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in args.out.rglob("*.safetensors"))
    print(
        f"exported step {state['step']} ({state['pairs']} pairs) to {args.out}: {size / 1e6:.1f} MB of weights"
    )
