"""ONNX Runtime and OpenVINO used directly: padded batches of pairs of similar length, on exports of our own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.bench.specs import Settings, UnavailableError
from runoff.contracts import Pair

Feeds = dict[str, npt.NDArray[np.int64]]
Rows = npt.NDArray[np.int64]

DEFAULT_TOKENS = 1024
"""Of a batch, padding included, where no size was asked for."""
TUNING_SECONDS = 0.3


class Batches:
    """Ids by the checkpoint's tokenizer on all its threads; padded batches of pairs of similar length.

    `group` instead puts so many pairs into a batch as they come.
    """

    def __init__(self, folder: Path, max_length: int, group: int = 0) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.no_padding()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self._pad = int(config.get("pad_token_id") or 0)
        self._group = group

    def tokenize(self, pairs: Sequence[Pair]) -> list[Any]:
        encoded: list[Any] = self._tokenizer.encode_batch(list(pairs))
        return encoded

    def of(self, pairs: Sequence[Pair], names: Sequence[str], tokens: int) -> Iterator[tuple[Rows, Feeds]]:
        """(rows, inputs of these names) of each batch of at most `tokens`, the longest first."""
        encoded = self.tokenize(pairs)
        lengths = np.array([len(each.ids) for each in encoded])
        for rows in self._rows(lengths, tokens):
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

    def _rows(self, lengths: npt.NDArray[Any], tokens: int) -> Iterator[Rows]:
        if self._group:
            whole = np.arange(len(lengths))
            yield from (whole[at : at + self._group] for at in range(0, len(lengths), self._group))
            return
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, tokens // int(lengths[order[start]]))
            yield order[start : start + count]
            start += count


class OnnxRuntime:
    """ONNX Runtime with all graph optimisations: one session of all threads, or one thread a batch."""

    def __init__(self, folder: Path, exports: Path, settings: Settings, options: dict[str, Any]) -> None:
        self._file, self._threads = str(exports / options["file"]), settings.threads
        self._group = int(options.get("group", 0))
        self._batches = Batches(folder, settings.max_length, self._group)
        self._use("threads")

    def _use(self, way: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self._threads if way == "threads" else 1
        self._session = onnxruntime.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]
        self._pool = ThreadPoolExecutor(self._threads) if way == "streams" else None
        self.about: dict[str, Any] = {"way": way}
        if self._group:
            self.about["pairs_a_batch"] = self._group

    def score(self, pairs: Sequence[Pair], size: int | None) -> npt.NDArray[np.float32]:
        scores = np.empty(len(pairs), np.float32)

        def run(batch: tuple[Rows, Feeds]) -> None:
            rows, feeds = batch
            scores[rows] = self._session.run(None, feeds)[0][:, 0]

        batches = self._batches.of(pairs, self._names, size or DEFAULT_TOKENS)
        list((self._pool.map if self._pool else map)(run, batches))
        return scores

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        self._batches.tokenize(pairs)

    def tune(self, pairs: Sequence[Pair]) -> None:
        if not self._group:
            use_fastest(self, self._use, ("threads", "streams"), pairs)


class OpenVINO:
    """OpenVINO on the exported graph; one request of all threads (latency), or a stream a thread (throughput)."""

    def __init__(self, folder: Path, exports: Path, settings: Settings, options: dict[str, Any]) -> None:
        import openvino

        precision = options.get("hint", "f32")
        self._core = openvino.Core()
        known = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in known:
            raise UnavailableError(f"OpenVINO finds no bf16 on this processor, only {', '.join(known)}")
        self._file, self._threads, self._precision = (
            str(exports / options["file"]),
            settings.threads,
            precision,
        )
        self._batches = Batches(folder, settings.max_length)
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
        self.about: dict[str, Any] = {"way": way, "precision": self._precision}

    def score(self, pairs: Sequence[Pair], size: int | None) -> npt.NDArray[np.float32]:
        scores = np.empty(len(pairs), np.float32)

        def keep(request: Any, rows: Rows) -> None:
            scores[rows] = request.get_output_tensor().data[:, 0]

        self._queue.set_callback(keep)
        for rows, feeds in self._batches.of(pairs, self._names, size or DEFAULT_TOKENS):
            self._queue.start_async(feeds, rows)
        self._queue.wait_all()
        return scores

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        self._batches.tokenize(pairs)

    def tune(self, pairs: Sequence[Pair]) -> None:
        use_fastest(self, self._use, ("latency", "throughput"), pairs)


def use_fastest(
    engine: OnnxRuntime | OpenVINO, use: Callable[[str], None], ways: Sequence[str], pairs: Sequence[Pair]
) -> None:
    """Leaves the engine in the fastest of its ways for these pairs."""

    def seconds() -> float:
        engine.score(pairs, None)
        found: list[float] = []
        while len(found) < 2 or (sum(found) < TUNING_SECONDS and len(found) < 20):
            began = time.perf_counter()
            engine.score(pairs, None)
            found.append(time.perf_counter() - began)
        return min(found)

    by_way = {}
    for way in ways:
        use(way)
        by_way[way] = seconds()
    best = min(by_way, key=lambda way: by_way[way])
    if engine.about["way"] != best:
        use(best)
