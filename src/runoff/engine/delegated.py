"""Models and devices that Runoff's own engines do not serve, run by sentence-transformers (extra `torch`).

Also the only place where numpy arrays become torch tensors and back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import (
    CheckpointError,
    CutReport,
    FloatArray,
    InputError,
    LengthRules,
    MissingExtraError,
    Pair,
)
from runoff.engine.choose import Choice

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class DelegatedReranker:
    """A sentence-transformers CrossEncoder that answers with raw logits."""

    def __init__(self, name_or_path: str | os.PathLike[str], choice: Choice, options: dict[str, Any]) -> None:
        from sentence_transformers import CrossEncoder

        self._model = CrossEncoder(os.fspath(name_or_path), **_with_dtype(choice, options))
        _refuse_random_head(self._model, Path(name_or_path))

    @property
    def num_labels(self) -> int:
        return int(self._model.num_labels)

    @property
    def activation_fn(self) -> Any:
        return self._model.activation_fn

    @property
    def prompts(self) -> dict[str, str]:
        return {name: prompt or "" for name, prompt in self._model.prompts.items()}

    @property
    def default_prompt_name(self) -> str | None:
        name: str | None = self._model.default_prompt_name
        return name

    @property
    def max_length(self) -> int | None:
        length: int | None = self._model.max_seq_length
        return length

    @max_length.setter
    def max_length(self, value: int | None) -> None:
        self._model.max_seq_length = value

    def logits(
        self,
        pairs: Sequence[Pair | str],
        *,
        prompt: str | None,
        batch_size: int,
        shows_progress: bool,
        rules: LengthRules,
    ) -> tuple[FloatArray, CutReport]:
        """Raw scores [N, L], fp32, and what was cut.

        Raises `InputError` for a document given by its token ids, and for rules that sentence-transformers has not.
        """
        from torch import nn

        if rules.truncation != "longest_first" or rules.long_documents != "truncate":
            raise InputError(
                f"truncation={rules.truncation!r}, long_documents={rules.long_documents!r}: this model is run by "
                "sentence-transformers, which cuts 'longest_first' only"
            )
        text = {} if rules.max_length is None else {"max_length": rules.max_length}

        for row, pair in enumerate(pairs):
            if not isinstance(pair, str) and not all(isinstance(text, str) for text in pair):
                raise InputError(
                    f"pair {row}: sentence-transformers runs this model and takes texts, no token ids; got {pair!r:.80}"
                )
        scores = self._model.predict(
            list(pairs),
            prompt=prompt or "",  # an empty prompt counts as set, so the model's default is not added twice
            batch_size=batch_size,
            show_progress_bar=shows_progress,
            activation_fn=nn.Identity(),
            processing_kwargs={"text": text},
        )
        limit = rules.max_length or self.max_length
        cut = self._cut_report(pairs, prompt or "", batch_size, limit) if limit else CutReport(len(pairs))
        return np.asarray(scores, dtype=np.float32).reshape(len(pairs), -1), cut

    def _cut_report(self, pairs: Sequence[Pair | str], prompt: str, batch_size: int, limit: int) -> CutReport:
        """What a limit cuts off, counted by tokenising once more without one: sentence-transformers does not say."""
        lengths: list[int] = []
        for start in range(0, len(pairs), batch_size):
            features = self._model.preprocess(
                list(pairs[start : start + batch_size]),
                prompt=prompt,
                processing_kwargs={"text": {"truncation": False}},
            )
            lengths += features["attention_mask"].sum(dim=1).tolist()
        cuts = [max(0, length - limit) for length in lengths]
        return CutReport(len(pairs), sum(cut > 0 for cut in cuts), sum(cuts), limit)


class DelegatedEmbedder:
    """A sentence-transformers SentenceTransformer that answers with fp32 vectors."""

    def __init__(self, name_or_path: str | os.PathLike[str], choice: Choice, options: dict[str, Any]) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(os.fspath(name_or_path), **_with_dtype(choice, options))

    @property
    def dimension(self) -> int:
        """Numbers per vector before any are cut off."""
        with self._model.truncate_embeddings(None):
            return int(self._model.get_embedding_dimension() or 0)

    @property
    def truncate_dim(self) -> int | None:
        size: int | None = self._model.truncate_dim
        return size

    @property
    def prompts(self) -> dict[str, str]:
        return {name: prompt or "" for name, prompt in self._model.prompts.items()}

    @property
    def default_prompt_name(self) -> str | None:
        name: str | None = self._model.default_prompt_name
        return name

    @property
    def similarity_name(self) -> str:
        return str(self._model.similarity_fn_name)

    def vectors(
        self, texts: Sequence[str], *, prompt: str | None, batch_size: int, shows_progress: bool
    ) -> FloatArray:
        """Vectors [N, D] as the model gives them."""
        vectors = self._model.encode(
            list(texts), prompt=prompt or "", batch_size=batch_size, show_progress_bar=shows_progress
        )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1)


def _refuse_random_head(model: Any, folder: Path) -> None:
    """Raises `CheckpointError` where transformers made up the weights of a classification head.

    It only logs that a checkpoint lacks them.
    """
    from safetensors import safe_open

    network = model.transformers_model
    files = sorted(folder.glob("*.safetensors"))
    if not files or network is None or not type(network).__name__.endswith("ForSequenceClassification"):
        return
    stored: set[str] = set()
    for file in files:
        with safe_open(str(file), framework="np") as tensors:
            stored.update(tensors.keys())
    body = f"{network.base_model_prefix}."
    missing = [name for name in network.state_dict() if not name.startswith(body) and name not in stored]
    if missing:
        raise CheckpointError(
            f"the weights of {folder} lack its head ({', '.join(sorted(missing)[:4])}); transformers would score by "
            "random ones. Get the checkpoint again from its source"
        )


def _with_dtype(choice: Choice, options: dict[str, Any]) -> dict[str, Any]:
    model_kwargs = dict(options.get("model_kwargs") or {})
    if options.get("backend", "torch") == "torch" and not {"dtype", "torch_dtype"} & set(model_kwargs):
        model_kwargs["dtype"] = _DTYPES[choice.precision]
    from runoff.engine.torch_engine import checked_device

    checked_device(choice.device)
    return {**options, "device": choice.device, "model_kwargs": model_kwargs}


def to_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array as a torch tensor; `MissingExtraError` without torch."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "a torch tensor was asked for and torch is not installed: pip install 'runoff[torch]', or take numpy"
        ) from error
    return torch.from_numpy(np.ascontiguousarray(array))


def apply_to_tensor(function: Callable[[Any], Any], array: FloatArray) -> FloatArray:
    """`function` of torch tensors applied to an array: how torch activations see our scores."""
    result = function(to_tensor(array))
    if hasattr(result, "detach"):  # a function that knows numpy alone answers with an array
        result = result.detach().cpu().numpy()
    return np.asarray(result, dtype=np.float32)
