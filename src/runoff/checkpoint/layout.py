"""Which files make a checkpoint, and which model they are: a folder -> `Checkpoint`.

Layouts known here: modular sentence-transformers (modules.json), classic sequence classification
(config.json and a classifier in model.safetensors), plain encoders, static tables, and model2vec.
Anything that could be misread is refused: no head is ever invented.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runoff.checkpoint.config import (
    HeadStep,
    ModelConfig,
    Normalize,
    StaticConfig,
    activation_name,
    classic_head,
    encoder_config,
)
from runoff.checkpoint.files import (
    CONFIG,
    MODULES,
    ST_CONFIG,
    TOKENIZER_CONFIG,
    WEIGHTS,
    read_json,
    read_weights_of,
)
from runoff.checkpoint.modular import Module, modular_model, read_modules
from runoff.checkpoint.quantized import Quantization, load_quantized, read_quantization
from runoff.checkpoint.weights import Tensor, Weights, canonical_weights
from runoff.contracts import CheckpointError, CheckpointNotFoundError, UnsupportedModelError

logger = logging.getLogger(__name__)

Role = Literal["reranker", "embedder"]


@dataclass(frozen=True, slots=True)
class TextConfig:
    """How texts become tokens: the limit with special tokens (None: none), lower-casing asked for outside
    tokenizer.json, whether segment ids are fed to the model, and the class that transformers would load the
    tokenizer with ("" for its generic one)."""

    max_length: int | None
    lowercases: bool
    has_segments: bool
    truncation_side: str = "right"
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder, read and checked except for its weights, which `load_weights` maps."""

    folder: Path
    role: Role
    model: ModelConfig
    text: TextConfig
    activation: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    module_folders: tuple[str, ...] = ()
    root_folder: str = ""
    quantization: Quantization | None = None


def read_checkpoint(folder: Path, role: Role) -> Checkpoint:
    """What the model in `folder` is.

    Raises `CheckpointNotFoundError` for a folder without a model, `CheckpointError` for one that is
    incomplete or would be misread, `UnsupportedModelError` for one that only other software can run.
    """
    checkpoint = _read(folder, role)
    return replace(checkpoint, quantization=read_quantization(folder, checkpoint.model, role))


def _read(folder: Path, role: Role) -> Checkpoint:
    if not (folder / CONFIG).is_file() and not (folder / MODULES).is_file():
        raise CheckpointNotFoundError(
            f"{folder} holds neither {CONFIG} nor {MODULES}; expected a model folder as saved by "
            "sentence-transformers or transformers"
        )
    if not (folder / MODULES).is_file():
        return _read_plain(folder, role)
    modules = read_modules(folder)
    st_config = read_json(folder / ST_CONFIG, default={})
    _warn_of_requirements(st_config, folder)
    if role == "embedder":
        return _read_embedder(folder, modules, st_config)
    try:
        return _read_reranker(folder, modules, st_config)
    except UnsupportedModelError as error:
        if [module.kind for module in modules] == ["Transformer"] or st_config.get(
            "model_type"
        ) == "CrossEncoder":
            raise
        raise CheckpointError(
            f"{folder / ST_CONFIG} does not say model_type CrossEncoder, so that sentence-transformers, which would "
            f"have to run it ({error}), would drop its modules and score by a random head; add "
            '"model_type": "CrossEncoder" there if it is one'
        ) from error


def load_weights(checkpoint: Checkpoint) -> Weights:
    """The weights of `checkpoint`, memory-mapped and checked for names and shapes."""
    if checkpoint.quantization is not None:
        return load_quantized(checkpoint.folder, checkpoint.model, checkpoint.quantization)
    root = read_weights_of(checkpoint.folder / checkpoint.root_folder)
    modules = {name: read_weights_of(checkpoint.folder / name) for name in checkpoint.module_folders}
    if isinstance(checkpoint.model.encoder, StaticConfig):
        root = _folded_table(root)
    return canonical_weights(checkpoint.model, root, modules, str(checkpoint.folder))


# --- modules.json ------------------------------------------------------------------------------------


def _read_reranker(folder: Path, modules: list[Module], st_config: Mapping[str, Any]) -> Checkpoint:
    kinds = [module.kind for module in modules]
    first = modules[0]
    task = first.config.get("transformer_task")
    if kinds == ["Transformer"] and task in (None, "sequence-classification"):
        return _read_plain(folder / first.folder, "reranker", first.config, st_config, at=folder)
    if kinds[0] != "StaticEmbedding" and (
        kinds[0] != "Transformer" or task not in (None, "feature-extraction")
    ):
        raise UnsupportedModelError(f"{folder} is made of {' -> '.join(kinds)} (task {task!r})")
    ends_in_scores = modules[-1].kind == "Dense" and modules[-1].config.get("module_output_name") == "scores"
    if not ends_in_scores:
        # sentence-transformers would drop these modules and put a random classifier on the encoder (A11).
        if (folder / first.folder / CONFIG).is_file() and _is_classifier(
            read_json(folder / first.folder / CONFIG)
        ):
            return _read_plain(folder / first.folder, "reranker", first.config, st_config, at=folder)
        raise CheckpointError(
            f"{folder} is no reranker: its modules ({' -> '.join(kinds)}) end in an embedding, not in 'scores'. "
            "Load it with runoff.Embedder, or choose a cross-encoder; a random head is never put on it"
        )
    if st_config.get("model_type") != "CrossEncoder":
        logger.warning(
            "%s: config_sentence_transformers.json does not say model_type CrossEncoder, but modules.json ends in "
            "scores; it is read as the reranker it is (sentence-transformers would drop its head)",
            folder,
        )
    model, folders = modular_model(folder, modules, role="reranker")
    return Checkpoint(
        folder=folder,
        role="reranker",
        model=model,
        text=_text_config(folder / first.folder, model, first.config),
        activation=_reranker_activation(
            st_config, read_json(folder / first.folder / CONFIG), model.output_size, str(folder)
        ),
        prompts=st_config.get("prompts") or {},
        default_prompt_name=st_config.get("default_prompt_name"),
        module_folders=folders,
        root_folder=first.folder,
    )


def _read_embedder(folder: Path, modules: list[Module], st_config: Mapping[str, Any]) -> Checkpoint:
    if modules[0].kind == "StaticEmbedding":
        return _read_static(folder, modules, st_config)
    kind = st_config.get("model_type") or "SentenceTransformer"
    if kind == "CrossEncoder":
        raise CheckpointError(f"{folder} is a reranker, not an embedder: load it with runoff.CrossEncoder")
    if kind != "SentenceTransformer":
        raise CheckpointError(
            f"{folder} is a {kind}, which gives no single vector a text; choose a SentenceTransformer model"
        )
    model, folders = modular_model(folder, modules, role="embedder")
    return Checkpoint(
        folder=folder,
        role="embedder",
        model=model,
        text=_text_config(folder / modules[0].folder, model, modules[0].config),
        activation="identity",
        prompts=st_config.get("prompts") or {},
        default_prompt_name=st_config.get("default_prompt_name"),
        similarity=st_config.get("similarity_fn_name") or "cosine",
        truncate_dim=st_config.get("truncate_dim"),
        module_folders=folders,
        root_folder=modules[0].folder,
    )


def _warn_of_requirements(st_config: Mapping[str, Any], folder: Path) -> None:
    if st_config.get("requirements"):
        logger.warning(
            "%s names requirements %s for sentence-transformers; Runoff's own engines use none of them",
            folder,
            dict(st_config["requirements"]),
        )


# --- no modules.json, static tables --------------------------------------------------------------------------


def _is_classifier(config: Mapping[str, Any]) -> bool:
    return str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")


def _refuse_without_head(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for an encoder alone: sentence-transformers would add a random head (A12).

    A causal model scores by its logits for "yes" and "no" and needs no other head.
    """
    if _is_classifier(config) or str((config.get("architectures") or [""])[0]).endswith("ForCausalLM"):
        return
    raise CheckpointError(
        f"{folder} has architecture {config.get('architectures')}, which holds no classification head; "
        "a reranker needs one (…ForSequenceClassification, or a modules.json that ends in scores). "
        "A random head is never put on it"
    )


def _read_plain(
    folder: Path,
    role: Role,
    settings: Mapping[str, Any] | None = None,
    st_config: Mapping[str, Any] | None = None,
    at: Path | None = None,
) -> Checkpoint:
    """A transformers folder: a sequence classifier as reranker, an encoder with mean pooling as embedder."""
    config_file = folder / CONFIG
    config = read_json(config_file)
    st_config = read_json(folder / ST_CONFIG, default={}) if st_config is None else st_config
    if config.get("model_type") == "model2vec":
        if role == "reranker":
            raise CheckpointError(
                f"{folder} is a model2vec embedder, not a reranker: load it with runoff.Embedder"
            )
        normalizes = bool(config.get("normalize", True))
        return _static_checkpoint(folder, "", (Normalize(),) * normalizes, {}, drops_unknown_token=True)
    if role == "reranker":
        _refuse_without_head(folder, config)
    encoder = encoder_config(config, str(config_file))
    if role == "reranker":
        pooling, steps = classic_head(config, str(config_file))
        model = ModelConfig(encoder, pooling, steps)
        activation = _reranker_activation(st_config, config, model.output_size, str(folder))
    else:
        model, activation = ModelConfig(encoder, ("mean",), ()), "identity"
    return Checkpoint(
        folder=at or folder,
        role=role,
        model=model,
        # Without a modules.json sentence-transformers never looks at sentence_bert_config.json.
        text=_text_config(folder, model, settings or {}),
        activation=activation,
        prompts=st_config.get("prompts") or {},
        default_prompt_name=st_config.get("default_prompt_name"),
        similarity=st_config.get("similarity_fn_name") or "cosine",
        truncate_dim=st_config.get("truncate_dim"),
        root_folder="" if at is None else str(folder.relative_to(at)) if folder != at else "",
    )


def _read_static(folder: Path, modules: list[Module], st_config: Mapping[str, Any]) -> Checkpoint:
    if extra := [module.kind for module in modules[1:] if module.kind != "Normalize"]:
        raise UnsupportedModelError(f"{folder}: StaticEmbedding followed by {extra}")
    return _static_checkpoint(folder, modules[0].folder, (Normalize(),) * (len(modules) > 1), st_config)


def _static_checkpoint(
    folder: Path,
    root_folder: str,
    steps: tuple[HeadStep, ...],
    st_config: Mapping[str, Any],
    drops_unknown_token: bool = False,
) -> Checkpoint:
    table = _folded_table(read_weights_of(folder / root_folder))
    name = next((name for name in ("embedding.weight", "embeddings") if name in table), None)
    if name is None or len(table[name].shape) != 2:
        raise CheckpointError(
            f"{folder / root_folder / WEIGHTS} must hold a table [tokens, dimension] named embedding.weight or "
            f"embeddings, got {sorted(table)}"
        )
    rows, dimension = table[name].shape
    return Checkpoint(
        folder=folder,
        role="embedder",
        model=ModelConfig(StaticConfig(rows, dimension, drops_unknown_token), ("mean",), steps),
        text=TextConfig(max_length=None, lowercases=False, has_segments=False),
        activation="identity",
        prompts=st_config.get("prompts") or {},
        default_prompt_name=st_config.get("default_prompt_name"),
        similarity=st_config.get("similarity_fn_name") or "cosine",
        truncate_dim=st_config.get("truncate_dim"),
        root_folder=root_folder,
    )


def _folded_table(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """model2vec may share rows (`mapping`) and weigh tokens (`weights`): one row per token id again."""
    if "embeddings" not in tensors or not ({"mapping", "weights"} & set(tensors)):
        return dict(tensors)
    table = tensors["embeddings"].float32()
    if "mapping" in tensors:
        table = table[tensors["mapping"].data.astype(np.int64)]
    if "weights" in tensors:
        table = table * tensors["weights"].float32()[:, None]
    return {"embeddings": Tensor(table, "F32")}


# --- weights, texts, activation ---------------------------------------------------------------------------


def _text_config(folder: Path, model: ModelConfig, settings: Mapping[str, Any]) -> TextConfig:
    """The tokenizer's settings; the limit is the first of those that sentence-transformers honours (A5)."""
    tokenizer, config = read_json(folder / TOKENIZER_CONFIG, default={}), read_json(folder / CONFIG)
    encoder = model.encoder
    assert not isinstance(encoder, StaticConfig)
    text_settings = ((settings.get("processing_kwargs") or {}).get("text")) or {}
    if unknown := set(text_settings) - {"max_length", "truncation", "padding"}:
        raise UnsupportedModelError(f"{folder}: processing_kwargs.text sets {sorted(unknown)}")
    processor = settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
    limit = (
        text_settings.get("max_length") or processor.get("model_max_length") or settings.get("max_seq_length")
    )
    if limit is None:
        declared = tokenizer.get("model_max_length")
        # transformers writes 10^30 for "no limit"
        limit = int(declared) if declared is not None and declared < 1e9 else None
        positions = config.get("max_position_embeddings")
        limit = min((value for value in (limit, positions) if value is not None), default=None)
    if encoder.max_positions is not None:
        limit = encoder.max_positions if limit is None else min(limit, encoder.max_positions)
    class_name = _tokenizer_class(tokenizer, config)
    # A tokenizer whose inputs do not include token_type_ids feeds none, and the model sees segment 0 (B7).
    # The generic class of transformers 5 is such a one unless its config says otherwise.
    inputs = tokenizer.get("model_input_names")
    if inputs is None:
        inputs = ("token_type_ids",) if class_name in _CLASSES_WITH_SEGMENTS else ()
    return TextConfig(
        max_length=limit,
        lowercases=bool(settings.get("do_lower_case", False)),
        has_segments=encoder.type_vocab_size > 1 and "token_type_ids" in inputs,
        truncation_side=tokenizer.get("truncation_side", "right"),
        class_name=class_name,
    )


# The classes of transformers 5 that give token_type_ids unasked; the others named BERT's are the same one.
_CLASSES_WITH_SEGMENTS = ("BertTokenizer", "ConvBertTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer")
_SAME_AS_BERT = ("ElectraTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer", "LayoutLMTokenizer")
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}


def _tokenizer_class(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class that transformers 5 loads the tokenizer with: the one named, else the model type's own."""
    named = tokenizer.get("tokenizer_class") or config.get("tokenizer_class")
    if config.get("model_type") == "modernbert":  # generic whatever is named: many name a wrong one
        return ""
    if named is None:
        return _CLASS_OF_MODEL.get(str(config.get("model_type")), "")
    class_name = str(named).removesuffix("Fast")
    if class_name in ("PreTrainedTokenizer", "TokenizersBackend"):
        return ""
    return "BertTokenizer" if class_name in _SAME_AS_BERT else class_name


def _reranker_activation(
    st_config: Mapping[str, Any], config: Mapping[str, Any], labels: int, where: str
) -> str:
    """What turns logits into scores, by sentence-transformers' precedence (A14): the saved one, the two
    legacy keys of config.json, else a sigmoid for one label and nothing for several."""
    path = (
        st_config.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )
    if path is not None and not str(path).startswith("torch."):
        logger.warning(
            "%s: activation_fn %r is code of its own and is not run; the default is used", where, path
        )
        path = None
    if path is None:
        return "sigmoid" if labels == 1 else "identity"
    return activation_name(path, where)
