"""Runoff and sentence-transformers, each as something that loads a checkpoint and scores pairs in batches of a size.

This runs inside a child process (child.py), in whichever environment has what the engine needs, and so imports
only the standard library and numpy at the top. All give raw scores, tokenisation included, cut at the same
`max_length`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runoff.bench.runtimes import OnnxRuntime, OpenVINO
from runoff.bench.specs import Settings, Spec, UnavailableError
from runoff.contracts import Pair

Scores = npt.NDArray[np.float32]


class Racer(Protocol):
    """An engine with a checkpoint. A `size` is a batch's, in the spec's unit; None: the engine's own default."""

    about: dict[str, Any]

    def score(self, pairs: Sequence[Pair], size: int | None) -> Scores:
        """Raw scores [N], tokenisation included."""
        ...

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        """What `score` does before anything is computed."""
        ...


class RunoffRacer:
    """`runoff.CrossEncoder` in one precision, on the engine that it chooses or on the one named."""

    def __init__(self, folder: Path, settings: Settings, options: dict[str, Any]) -> None:
        from runoff.crossencoder import CrossEncoder

        known = inspect.signature(CrossEncoder.__init__).parameters
        given = {"precision": options["precision"], "threads": settings.threads}
        if attention := options.get("attention"):
            given["model_kwargs"] = {"attn_implementation": attention}
        engine = options.get("engine")
        if engine and "engine" in known:
            given["engine"] = engine
        elif engine == "torch":
            raise UnavailableError("this version of Runoff has no engine of its own by torch")
        self._model = CrossEncoder(
            str(folder), device=settings.device, max_length=settings.max_length, **given
        )
        if engine == "reference" and self._model.choice.engine != "reference":
            self._use_reference()
        choice = self._model.choice
        self.about: dict[str, Any] = {
            "engine": choice.engine,
            "device": choice.device,
            "precision": choice.precision,
            "reason": choice.reason,
        }
        if engine == "reference":
            self.about |= {"engine": "reference", "reason": "asked for"}

    def _use_reference(self) -> None:
        from runoff.checkpoint.layout import load_weights
        from runoff.engine.reference import ReferenceEngine

        native = self._native
        engine = ReferenceEngine(native.checkpoint.model, load_weights(native.checkpoint))
        self._model._native = dataclasses.replace(native, engine=engine)

    @property
    def _native(self) -> Any:
        if self._model._native is None:
            raise UnavailableError(
                f"Runoff hands it to {self._model.choice.engine}: {self._model.choice.reason}"
            )
        return self._model._native

    def score(self, pairs: Sequence[Any], size: int | None) -> Scores:
        """A document may be its token ids: what an index stores."""
        self._model._token_budget = size
        if pairs and not isinstance(pairs[0][1], str):
            outputs, _ = self._model._logits(list(pairs), "", None, False, self._model._rules)
            return outputs.reshape(-1)
        found = self._model.predict(list(pairs), activation_fn="identity", show_progress_bar=False)
        return np.asarray(found, np.float32)

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        for texts in zip(*pairs, strict=True):
            self._model.tokenize(texts)

    def with_ids(self, pairs: Sequence[Pair]) -> list[Any]:
        """The pairs with token ids in their documents' place."""
        ids = self._model.tokenize([document for _, document in pairs])
        return [(query, tokens) for (query, _), tokens in zip(pairs, ids, strict=True)]


class SentenceTransformersRacer:
    """`sentence_transformers.CrossEncoder`, as its documentation has it but for what `options` say."""

    default_size = 32

    def __init__(self, folder: Path, exports: Path, settings: Settings, options: dict[str, Any]) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(settings.threads)
        backend, file = options.get("backend", "torch"), options.get("file", "")
        model: dict[str, Any] = {}
        if backend == "torch" and "dtype" in options:
            model["dtype"] = getattr(torch, options["dtype"])
        if "attention" in options:
            model["attn_implementation"] = options["attention"]
        if backend == "onnx":
            folder, model = exports / "st-onnx", _onnx_options(exports, file, settings)
        if backend == "openvino":
            folder = exports / ("st-openvino-int8" if file else "st-openvino")
            model["ov_config"] = {"INFERENCE_NUM_THREADS": str(settings.threads)}
        given = {"max_length": settings.max_length, "backend": backend, "model_kwargs": model}
        self._model = CrossEncoder(str(folder), device=settings.device, local_files_only=True, **given)
        self._limit = settings.max_length
        self._identity = torch.nn.Identity()
        self.about: dict[str, Any] = {
            "backend": backend,
            "dtype": options.get("dtype", "float32"),
            "attention": getattr(self._config(), "_attn_implementation", None),
            "file": file,
        }
        if "unpads" in options:
            self._set_unpadding(options["unpads"])

    def _config(self) -> Any:
        """transformers' configuration of the model, if it has one."""
        network = getattr(self._model, "transformers_model", None) or getattr(self._model, "model", None)
        return getattr(network, "config", None)

    def _set_unpadding(self, unpads: bool) -> None:
        first = self._model[0]
        if not hasattr(type(first), "unpad_inputs"):
            raise UnavailableError("this version of sentence-transformers cannot tell padded from unpadded")
        first.unpad_inputs = unpads
        self.about["unpads"] = unpads

    def score(self, pairs: Sequence[Pair], size: int | None) -> Scores:
        found = self._model.predict(
            list(pairs),
            batch_size=size or self.default_size,
            activation_fn=self._identity,
            show_progress_bar=False,
        )
        return np.asarray(found, np.float32).reshape(len(pairs))

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        queries, documents = zip(*pairs, strict=True)
        self._model.tokenizer(list(queries), list(documents), truncation=True, max_length=self._limit)


def _onnx_options(exports: Path, file: str, settings: Settings) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    found = sorted((exports / "st-onnx" / "onnx").glob(file or "model.onnx"))
    if not found:
        raise UnavailableError(f"its exported model is missing: {file or 'model.onnx'}")
    return {"session_options": options, "provider": "CPUExecutionProvider", "file_name": found[0].name}


def made(spec: Spec, folder: Path, exports: Path, settings: Settings) -> Racer:
    """The engine of `spec` with the checkpoint in `folder`, loaded."""
    options = dict(spec.options)
    if spec.runner == "runoff":
        return RunoffRacer(folder, settings, options)
    if spec.runner == "sentence-transformers":
        return SentenceTransformersRacer(folder, exports, settings, options)
    if spec.runner == "onnxruntime":
        return OnnxRuntime(folder, exports, settings, options)
    return OpenVINO(folder, exports, settings, options)
