"""Models and devices that Runoff's own engines do not serve, run by sentence-transformers (extra `torch`).

Also the only place where numpy arrays become torch tensors and back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import FloatArray, MissingExtraError, Pair
from runoff.engine.choose import Choice

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class DelegatedReranker:
    """A sentence-transformers CrossEncoder that answers with raw logits."""

    def __init__(self, name_or_path: str | os.PathLike[str], choice: Choice, options: dict[str, Any]) -> None:
        from sentence_transformers import CrossEncoder

        self._model = CrossEncoder(os.fspath(name_or_path), **_with_dtype(choice, options))

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
        **options: Any,
    ) -> FloatArray:
        """Raw scores [N, L], fp32."""
        from torch import nn

        scores = self._model.predict(
            list(pairs),
            prompt=prompt or "",  # an empty prompt counts as set, so the model's default is not added twice
            batch_size=batch_size,
            show_progress_bar=shows_progress,
            activation_fn=nn.Identity(),
            **options,
        )
        return np.asarray(scores, dtype=np.float32).reshape(len(pairs), -1)


class DelegatedEmbedder:
    """A sentence-transformers SentenceTransformer that answers with fp32 vectors."""

    def __init__(self, name_or_path: str | os.PathLike[str], choice: Choice, options: dict[str, Any]) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(os.fspath(name_or_path), **_with_dtype(choice, options))

    @property
    def dimension(self) -> int:
        return int(self._model.get_embedding_dimension() or 0)

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


def _with_dtype(choice: Choice, options: dict[str, Any]) -> dict[str, Any]:
    model_kwargs = dict(options.get("model_kwargs") or {})
    if options.get("backend", "torch") == "torch" and not {"dtype", "torch_dtype"} & set(model_kwargs):
        model_kwargs["dtype"] = _DTYPES[choice.precision]
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
    return np.asarray(function(to_tensor(array)).detach().cpu().numpy(), dtype=np.float32)
