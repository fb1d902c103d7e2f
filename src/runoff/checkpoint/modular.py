"""modules.json -> what its modules compute: a `ModelConfig`, or a clear refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runoff.checkpoint.config import (
    POOLING_MODES,
    Dense,
    HeadStep,
    LayerNorm,
    ModelConfig,
    Normalize,
    activation_name,
    encoder_config,
)
from runoff.checkpoint.files import CONFIG, MODULES, read_json, read_transformer_settings
from runoff.contracts import CheckpointError, UnsupportedModelError

_SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True, slots=True)
class Module:
    """A row of modules.json: the last word of its type, its folder, and its own config."""

    kind: str
    folder: str
    config: Mapping[str, Any]


def read_modules(folder: Path) -> list[Module]:
    modules = []
    for row in read_json(folder / MODULES, kind=list):
        if not isinstance(row, dict):
            raise CheckpointError(
                f"{folder / MODULES} must list objects, got {row!r:.80}: the file is damaged"
            )
        kind, name = str(row.get("type", "")), str(row.get("path", ""))
        if (
            not kind.startswith("sentence_transformers.")
            or ".." in Path(name).parts
            or Path(name).is_absolute()
        ):
            raise CheckpointError(
                f"{folder / MODULES} asks for the module {kind!r} in {name!r}; Runoff runs no code from "
                "checkpoints: only modules of sentence_transformers in the checkpoint's own folders are read"
            )
        # Types moved between packages over the years; only the class name stayed (notes A2).
        config_file = folder / name / CONFIG
        config = (
            read_transformer_settings(folder / name)
            if kind.endswith("Transformer")
            else read_json(config_file, {})
        )
        modules.append(Module(kind.rsplit(".", 1)[-1], name, config))
    if not modules:
        raise CheckpointError(f"{folder / MODULES} lists no module: the file is damaged")
    return modules


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a model, of its root and its modules, by their paths in the folder."""
    paths = (path for name in _folders(folder) for path in (folder / name).glob("*.safetensors"))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def weight_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each of `weight_files`."""
    digests = {}
    for name in weight_files(folder):
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def small_files(folder: Path) -> list[str]:
    """The files of a model that are no weights: configs, tokenizer, licences, of its root and its modules."""
    found = []
    for name in sorted(_folders(folder)):
        for path in sorted((folder / name).iterdir()) if (folder / name).is_dir() else ():
            is_licence = path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
            is_index = path.name.endswith(".index.json")
            is_small = path.suffix in _SMALL_SUFFIXES and not path.name.startswith(".")
            if path.is_file() and not is_index and (is_small or is_licence):
                found.append((Path(name) / path.name).as_posix())
    return found


def _folders(folder: Path) -> set[str]:
    """The model's own folder, "", and those of its modules."""
    if not (folder / MODULES).is_file():
        return {""}
    return {"", *(module.folder for module in read_modules(folder))}


def modular_model(
    folder: Path, modules: list[Module], role: Literal["reranker", "embedder"]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Transformer -> Pooling -> steps as a `ModelConfig`, and the folders that hold step weights."""
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UnsupportedModelError(
            f"{folder} is made of {' -> '.join(kinds)}, not Transformer -> Pooling -> ..."
        )
    _check_transformer_settings(modules[0].config, folder)
    config_file = folder / modules[0].folder / CONFIG
    encoder = encoder_config(read_json(config_file), str(config_file))
    pooling = _pooling_modes(modules[1], folder)
    steps: list[HeadStep] = []
    folders = []
    for module in modules[2:]:
        where = str(folder / module.folder / CONFIG)
        if module.kind == "Normalize":
            steps.append(Normalize())
            continue
        if module.kind == "Dense":
            is_last = module is modules[-1]
            steps.append(_dense_step(module, where, ends_in_scores=role == "reranker" and is_last))
        elif module.kind == "LayerNorm":
            steps.append(LayerNorm(module.folder, _whole_number(module.config, "dimension", where)))
        elif module.kind == "Dropout":  # does nothing outside training
            continue
        else:
            raise UnsupportedModelError(
                f"{folder / MODULES}: no engine here computes the module {module.kind}"
            )
        folders.append(module.folder)
    _check_sizes(encoder.hidden_size * len(pooling), steps, folder)
    return ModelConfig(encoder, pooling, tuple(steps)), tuple(folders)


def _check_transformer_settings(settings: Mapping[str, Any], folder: Path) -> None:
    text = (settings.get("modality_config") or {"text": {}}).get("text")
    if text is None:
        raise UnsupportedModelError(f"{folder}: modality_config has no text input")
    expected = {"method": "forward", "method_output_name": "last_hidden_state"}
    for key, value in expected.items():
        if text.get(key, value) != value:
            raise UnsupportedModelError(
                f"{folder}: modality_config asks for {key}={text[key]!r}, not {value!r}"
            )
    for key in ("query_expansion", "query_length", "document_length"):
        if settings.get(key):
            raise UnsupportedModelError(f"{folder}: {key} is set, which only sentence-transformers applies")
    for name, known in _KNOWN_SETTINGS.items():
        given = settings.get(name) or {}
        if unknown := sorted(set(given) - known - {"trust_remote_code"}):
            raise UnsupportedModelError(f"{folder}: the Transformer module's {name} sets {unknown}")


# What a saved Transformer module may pass on to transformers without changing any score here.
_KNOWN_SETTINGS = {
    name: known
    for names, known in (
        (
            ("model_kwargs", "model_args"),
            {"dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "use_safetensors"},
        ),
        (("processor_kwargs", "tokenizer_args"), {"model_max_length"}),
        (("config_kwargs", "config_args"), set[str]()),
    )
    for name in names
}


def _pooling_modes(module: Module, folder: Path) -> tuple[str, ...]:
    config = module.config
    modes = config.get("pooling_mode")
    if modes is None:
        # The order in which sentence-transformers concatenates them (notes A6).
        legacy = (
            "cls_token",
            "max_tokens",
            "mean_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        )
        modes = [
            mode
            for mode, key in zip(_LEGACY_ORDER, legacy, strict=True)
            if config.get(f"pooling_mode_{key}", False)
        ] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := set(modes) - set(POOLING_MODES):
        raise UnsupportedModelError(f"{folder / module.folder / CONFIG}: pooling_mode {sorted(unknown)}")
    if config.get("include_prompt", True) is False:
        raise UnsupportedModelError(f"{folder / module.folder / CONFIG}: include_prompt is false")
    return modes


_LEGACY_ORDER = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def _whole_number(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise CheckpointError(f"{where}: {key} must be a positive whole number, got {value!r}")
    return value


def _dense_step(module: Module, where: str, ends_in_scores: bool) -> Dense:
    config = module.config
    in_features, out_features = (_whole_number(config, key, where) for key in ("in_features", "out_features"))
    # A step that reads or writes anything else would not be part of the chain that we compute.
    names = {"module_input_name": "sentence_embedding"}
    names["module_output_name"] = "scores" if ends_in_scores else "sentence_embedding"
    for key, expected in names.items():
        if (config.get(key) or "sentence_embedding") != expected:
            raise UnsupportedModelError(f"{where}: {key} {config[key]!r}, expected {expected!r}")
    # sentence-transformers' Dense is a tanh layer unless its config says otherwise (notes A7).
    activation = config.get("activation_function") or "torch.nn.modules.activation.Tanh"
    if not activation.startswith("torch."):
        raise CheckpointError(
            f"{where}: activation_function {activation!r} is code; Runoff runs none from checkpoints"
        )
    return Dense(
        module.folder,
        in_features,
        out_features,
        activation_name(activation, where),
        bool(config.get("bias", True)),
        bool(config.get("use_residual", False)),
    )


def _check_sizes(size: int, steps: list[HeadStep], folder: Path) -> None:
    for step in steps:
        expected = (
            step.in_features
            if isinstance(step, Dense)
            else step.size
            if isinstance(step, LayerNorm)
            else size
        )
        if expected != size:
            raise CheckpointError(f"{folder}: module {step} takes {expected} features but gets {size}")
        size = step.out_features if isinstance(step, Dense) else size
