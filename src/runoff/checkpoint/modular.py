"""modules.json -> what its modules compute: a `ModelConfig`, or a clear refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Module:
    """A row of modules.json: the last word of its type, its folder, and its own config."""

    kind: str
    folder: str
    config: Mapping[str, Any]


def read_modules(folder: Path) -> list[Module]:
    rows = read_json(folder / MODULES)
    modules = []
    for row in rows if isinstance(rows, list) else []:
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
        raise CheckpointError(f"{folder / MODULES} must be a list of modules, got {type(rows).__name__}")
    return modules


def modular_model(folder: Path, modules: list[Module]) -> tuple[ModelConfig, tuple[str, ...]]:
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
            steps.append(_dense_step(module, where))
        elif module.kind == "LayerNorm":
            steps.append(LayerNorm(module.folder, int(module.config["dimension"])))
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
    if settings.get("query_expansion"):
        raise UnsupportedModelError(f"{folder}: query_expansion is set (a multi-vector model)")


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


def _dense_step(module: Module, where: str) -> Dense:
    config = module.config
    for key in ("in_features", "out_features"):
        if not isinstance(config.get(key), int):
            raise CheckpointError(f"{where}: {key} must be a whole number, got {config.get(key)!r}")
    source = config.get("module_input_name", "sentence_embedding")
    if source != "sentence_embedding":
        raise UnsupportedModelError(f"{where}: module_input_name {source!r}")
    # sentence-transformers' Dense is a tanh layer unless its config says otherwise (notes A7).
    activation = config.get("activation_function") or "torch.nn.modules.activation.Tanh"
    if not activation.startswith("torch."):
        raise CheckpointError(
            f"{where}: activation_function {activation!r} is code; Runoff runs none from checkpoints"
        )
    return Dense(
        module.folder,
        config["in_features"],
        config["out_features"],
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
