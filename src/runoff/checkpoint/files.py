"""The files of a checkpoint by name, and how they are read: JSON and safetensors, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runoff.checkpoint.weights import Tensor, read_safetensors
from runoff.contracts import CheckpointError

CONFIG = "config.json"
MODULES = "modules.json"
ST_CONFIG = "config_sentence_transformers.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

# What a download takes: no pickles, no ONNX or OpenVINO copies, no training checkpoints, no images. The hub's
# "*" also matches folders; *.txt and *.model are vocabularies of tokenizers that a delegated model may need.
DOWNLOAD_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
DOWNLOAD_EXCEPT = ("onnx/*", "openvino/*", "checkpoint-*/*", "original/*")


def read_json(path: Path, default: Any = None, kind: type = dict) -> Any:
    """The contents of a JSON file, an object unless `kind` is list; `default` where it is absent and one is given."""
    if not path.is_file():
        if default is not None:
            return default
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete; download or save it again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); the file is damaged: download or save the checkpoint again"
        ) from error
    if not isinstance(content, kind):
        raise CheckpointError(
            f"{path} must hold a JSON {'object' if kind is dict else 'list'}, got {type(content).__name__}; "
            "the file is damaged: download or save the checkpoint again"
        )
    return content


def read_weights_of(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if (folder / WEIGHTS_INDEX).is_file():
        weight_map = read_json(folder / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / WEIGHTS_INDEX} has no weight_map: the file is damaged")
        shards = sorted({str(shard) for shard in weight_map.values()})
        merged: dict[str, Tensor] = {}
        for shard in shards:
            merged.update(read_safetensors(folder / Path(shard).name))
        return merged
    refuse_pickles(folder)
    raise CheckpointError(
        f"{folder / WEIGHTS} is missing: the checkpoint is incomplete, or published only in another format (a "
        f"pickle is never downloaded); download it again, or use a revision that has {WEIGHTS}"
    )


def refuse_pickles(folder: Path) -> None:
    """Raises `CheckpointError` for weights that lie there as a pickle and in no safe form."""
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern))
    pickles = [name for name in pickles if not name.startswith("training_args")]
    if pickles and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has its weights only as {', '.join(pickles)}; Runoff never unpickles. Convert them to "
            f"{WEIGHTS} (save_pretrained in a current transformers does), or use a revision that has it"
        )


def read_transformer_settings(folder: Path) -> dict[str, Any]:
    """Module 0's own settings: the first of the historical file names that exists."""
    for name in TRANSFORMER_CONFIGS:
        if (folder / name).is_file():
            settings: dict[str, Any] = read_json(folder / name)
            return settings
    return {}
