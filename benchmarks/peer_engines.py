"""The engines that the benchmarks compare, each as something that loads a checkpoint and scores pairs.

This runs inside a child process (peer_process.py), in whichever environment has what the engine needs, and so
imports only the standard library and numpy at the top. All give raw scores, tokenisation included, cut
at the same `max_length`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Pairs = Sequence[tuple[str, str]]
Feeds = dict[str, np.ndarray]

TOKEN_BUDGETS = (512, 1024, 2048)
TUNING_PAIRS = 32
TUNING_SECONDS = 0.3


class UnavailableError(Exception):
    """This machine or environment cannot run the engine; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How every engine of one run is used."""

    threads: int = 2
    max_length: int = 512


@dataclass(frozen=True)
class Spec:
    """One engine: its name in tables, the distributions it needs, the exports it reads, and how it is made."""

    label: str
    make: Callable[[Path, Path, Settings], Any]
    packages: tuple[str, ...]
    exports: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # one of these instruction sets, or it is left out unless named


# --- ours --------------------------------------------------------------------------------------------


class Runoff:
    """`runoff.CrossEncoder` in one precision; "reference" is its plain numpy engine."""

    def __init__(self, folder: Path, _exports: Path, settings: Settings, precision: str = "auto") -> None:
        from runoff import CrossEncoder

        options: dict[str, Any] = {"precision": "fp32" if precision == "reference" else precision}
        if "threads" in inspect.signature(CrossEncoder.__init__).parameters:
            options["threads"] = settings.threads
        self._model = CrossEncoder(str(folder), device="cpu", max_length=settings.max_length, **options)
        if precision == "reference":
            self._use_reference()
        choice = self._model.choice
        self.about = {"engine": choice.engine, "precision": choice.precision, "reason": choice.reason}
        if precision == "reference":
            self.about |= {"engine": "reference", "reason": "asked for"}

    def _use_reference(self) -> None:
        from runoff.checkpoint.layout import load_weights
        from runoff.engine.reference import ReferenceEngine

        native = self._model._native
        engine = ReferenceEngine(native.checkpoint.model, load_weights(native.checkpoint))
        self._model._native = dataclasses.replace(native, engine=engine)

    def score(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._model.predict(pairs, activation_fn="identity", show_progress_bar=False))


# --- sentence-transformers ---------------------------------------------------------------------------


class SentenceTransformers:
    """`sentence_transformers.CrossEncoder` as its documentation has it: batches of 32 pairs."""

    batch_size = 32

    def __init__(
        self,
        folder: Path,
        exports: Path,
        settings: Settings,
        backend: str = "torch",
        dtype: str = "float32",
        file: str = "",
    ) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(settings.threads)
        model: dict[str, Any] = {}
        if backend == "torch" and dtype != "float32":
            model["dtype"] = getattr(torch, dtype)
        if backend == "onnx":
            folder, model = exports / "st-onnx", _st_onnx_options(exports, file, settings)
        if backend == "openvino":
            folder = exports / ("st-openvino-int8" if file else "st-openvino")
            model["ov_config"] = {"INFERENCE_NUM_THREADS": str(settings.threads)}
        options = {"max_length": settings.max_length, "backend": backend, "model_kwargs": model}
        self._model = CrossEncoder(str(folder), device="cpu", local_files_only=True, **options)
        self._identity = torch.nn.Identity()
        self.about = {"backend": backend, "dtype": dtype, "batch": self.batch_size, "file": file}

    def score(self, pairs: Pairs) -> np.ndarray:
        scores = self._model.predict(
            list(pairs),
            batch_size=self.batch_size,
            activation_fn=self._identity,
            show_progress_bar=False,
        )
        return np.asarray(scores, np.float32)


def _st_onnx_options(exports: Path, file: str, settings: Settings) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    found = sorted((exports / "st-onnx" / "onnx").glob(file or "model.onnx"))
    if not found:
        raise UnavailableError(f"its exported model is missing: {file or 'model.onnx'}")
    return {"session_options": options, "provider": "CPUExecutionProvider", "file_name": found[0].name}


# --- runtimes, used directly -------------------------------------------------------------------------


class Batches:
    """Ids by the checkpoint's tokenizer on all its threads; padded batches of pairs of similar length.

    `token_budget` is the most tokens of a batch, padding included; `group` instead puts so many pairs into a
    batch as they come.
    """

    def __init__(self, folder: Path, settings: Settings, group: int = 0) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(settings.max_length)
        self._tokenizer.no_padding()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self._pad = int(config.get("pad_token_id") or 0)
        self._group = group
        self.token_budget = 1024

    def of(self, pairs: Pairs, names: Sequence[str]) -> Iterator[tuple[np.ndarray, Feeds]]:
        """(rows, inputs of these names) of each batch, the longest first."""
        encoded = self._tokenizer.encode_batch(list(pairs))
        lengths = np.array([len(each.ids) for each in encoded])
        for rows in self._rows(lengths):
            shape = (len(rows), int(lengths[rows].max()))
            ids = np.full(shape, self._pad, np.int64)
            mask, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
            for place, row in enumerate(rows):
                length = lengths[row]
                ids[place, :length] = encoded[row].ids
                segments[place, :length] = encoded[row].type_ids
                mask[place, :length] = 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
            yield rows, {name: feeds[name] for name in names}

    def _rows(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        if self._group:
            yield from (
                np.arange(len(lengths))[at : at + self._group] for at in range(0, len(lengths), self._group)
            )
            return
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, self.token_budget // int(lengths[order[start]]))
            yield order[start : start + count]
            start += count


class OnnxRuntime:
    """ONNX Runtime with all graph optimisations: one session of all threads, or one thread a batch."""

    def __init__(self, folder: Path, exports: Path, settings: Settings, file: str, group: int = 0) -> None:
        self._file, self._threads = str(exports / file), settings.threads
        self._batches = Batches(folder, settings, group)
        self._group = group
        self._use("threads")

    def _use(self, way: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self._threads if way == "threads" else 1
        self._session = onnxruntime.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]
        self._pool = ThreadPoolExecutor(self._threads) if way == "streams" else None
        self.about = {"way": way, "token_budget": self._batches.token_budget}
        if self._group:
            self.about = {"way": way, "pairs_a_batch": self._group}

    def score(self, pairs: Pairs) -> np.ndarray:
        scores = np.empty(len(pairs), np.float32)

        def run(batch: tuple[np.ndarray, Feeds]) -> None:
            rows, feeds = batch
            scores[rows] = self._session.run(None, feeds)[0][:, 0]

        list((self._pool.map if self._pool else map)(run, self._batches.of(pairs, self._names)))
        return scores

    def tune(self, pairs: Pairs) -> None:
        if not self._group:
            tune(self, self._batches, self._use, ("threads", "streams"), pairs)


class OpenVINO:
    """OpenVINO on the exported graph; one request of all threads (latency), or a stream a thread (throughput)."""

    def __init__(
        self, folder: Path, exports: Path, settings: Settings, file: str, precision: str = "f32"
    ) -> None:
        import openvino

        self._core = openvino.Core()
        known = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in known:
            raise UnavailableError(f"OpenVINO finds no bf16 on this processor, only {', '.join(known)}")
        self._file, self._threads, self._precision = str(exports / file), settings.threads, precision
        self._batches = Batches(folder, settings)
        self._use("latency")

    def _use(self, way: str) -> None:
        import openvino

        self._compiled = self._core.compile_model(
            self._file,
            "CPU",
            {
                "PERFORMANCE_HINT": way.upper(),
                "INFERENCE_NUM_THREADS": self._threads,
                "INFERENCE_PRECISION_HINT": self._precision,
            },
        )
        self._names = [each.get_any_name() for each in self._compiled.inputs]
        self._queue = openvino.AsyncInferQueue(self._compiled)
        self.about = {"way": way, "token_budget": self._batches.token_budget, "precision": self._precision}

    def score(self, pairs: Pairs) -> np.ndarray:
        scores = np.empty(len(pairs), np.float32)

        def keep(request: Any, rows: np.ndarray) -> None:
            scores[rows] = request.get_output_tensor().data[:, 0]

        self._queue.set_callback(keep)
        for rows, feeds in self._batches.of(pairs, self._names):
            self._queue.start_async(feeds, rows)
        self._queue.wait_all()
        return scores

    def tune(self, pairs: Pairs) -> None:
        tune(self, self._batches, self._use, ("latency", "throughput"), pairs)


def tune(
    engine: Any, batches: Batches, use: Callable[[str], None], ways: Sequence[str], pairs: Pairs
) -> None:
    """Leaves the engine in the fastest of its ways, with the fastest of the token budgets."""

    def seconds() -> float:
        engine.score(pairs)
        found: list[float] = []
        while len(found) < 2 or (sum(found) < TUNING_SECONDS and len(found) < 20):
            began = time.perf_counter()
            engine.score(pairs)
            found.append(time.perf_counter() - began)
        return min(found)

    by_way = {}
    for way in ways:
        use(way)
        by_way[way] = seconds()
    best = min(by_way, key=lambda way: by_way[way])
    if engine.about["way"] != best:
        use(best)
    by_budget = {batches.token_budget: by_way[best]}
    for batches.token_budget in TOKEN_BUDGETS:
        if batches.token_budget not in by_budget:
            by_budget[batches.token_budget] = seconds()
    batches.token_budget = min(by_budget, key=lambda budget: by_budget[budget])
    engine.about["token_budget"] = batches.token_budget


# --- all of them -------------------------------------------------------------------------------------


def _of(kind: type, **options: Any) -> Callable[[Path, Path, Settings], Any]:
    return lambda folder, exports, settings: kind(folder, exports, settings, **options)


_OURS = ("numpy", "tokenizers", "safetensors", "huggingface-hub")
_ST = ("sentence-transformers", "torch")
_ST_ONNX = (*_ST, "optimum-onnx", "onnxruntime")
_ST_OPENVINO = (*_ST, "optimum-intel", "openvino")
_ORT, _OV = ("onnxruntime", "tokenizers"), ("openvino", "tokenizers")
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "avx10")

ENGINES = {
    "runoff-int8": Spec("Runoff int8", _of(Runoff, precision="int8"), _OURS),
    "runoff-bf16": Spec("Runoff bf16", _of(Runoff, precision="bf16"), _OURS),
    "runoff-fp32": Spec("Runoff fp32", _of(Runoff, precision="fp32"), _OURS),
    "runoff-auto": Spec("Runoff auto", _of(Runoff, precision="auto"), _OURS),
    "runoff-reference": Spec("Runoff's numpy reference", _of(Runoff, precision="reference"), _OURS),
    "st-fp32": Spec("sentence-transformers (default)", _of(SentenceTransformers), _ST),
    "st-bf16": Spec(
        "sentence-transformers bf16", _of(SentenceTransformers, dtype="bfloat16"), _ST, flags=_BF16
    ),
    "st-onnx": Spec(
        "sentence-transformers, ONNX", _of(SentenceTransformers, backend="onnx"), _ST_ONNX, ("st-onnx",)
    ),
    "st-onnx-int8": Spec(
        "sentence-transformers, ONNX int8",
        _of(SentenceTransformers, backend="onnx", file="model_*int8_*.onnx"),
        _ST_ONNX,
        ("st-onnx",),
    ),
    "st-openvino": Spec(
        "sentence-transformers, OpenVINO",
        _of(SentenceTransformers, backend="openvino"),
        _ST_OPENVINO,
        ("backbone", "st-openvino"),
    ),
    "st-openvino-int8": Spec(
        "sentence-transformers, OpenVINO int8",
        _of(SentenceTransformers, backend="openvino", file="int8"),
        _ST_OPENVINO,
        ("backbone", "st-openvino", "st-openvino-int8"),
    ),
    "ort-fp32": Spec("ONNX Runtime fp32", _of(OnnxRuntime, file="model.onnx"), _ORT, ("onnx",)),
    "ort-int8": Spec(
        "ONNX Runtime int8", _of(OnnxRuntime, file="model-int8.onnx"), _ORT, ("onnx", "onnx-int8")
    ),
    "flashrank-way": Spec(
        "ONNX Runtime int8, 100 pairs a batch",
        _of(OnnxRuntime, file="model-int8.onnx", group=100),
        _ORT,
        ("onnx", "onnx-int8"),
    ),
    "openvino-fp32": Spec("OpenVINO fp32", _of(OpenVINO, file="model.onnx"), _OV, ("onnx",)),
    "openvino-bf16": Spec(
        "OpenVINO bf16", _of(OpenVINO, file="model.onnx", precision="bf16"), _OV, ("onnx",), flags=_BF16
    ),
    "openvino-int8": Spec(
        "OpenVINO int8", _of(OpenVINO, file="model-int8.xml"), _OV, ("onnx", "openvino-int8")
    ),
}
BASELINE = "st-fp32"


def is_ours(engine: str) -> bool:
    return engine.startswith("runoff")


def environment(engine: str, settings: Settings, isa: str | None) -> dict[str, str]:
    """Variables that must be set before the engine's process starts."""
    variables = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
    variables["RAYON_NUM_THREADS"] = str(settings.threads)
    if is_ours(engine):
        variables["OPENBLAS_NUM_THREADS"] = str(settings.threads)
        if isa:
            variables["RUNOFF_ISA"] = isa
    else:
        variables["OMP_NUM_THREADS"] = str(settings.threads)
    return variables
