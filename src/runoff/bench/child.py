"""The process of one engine: loads a checkpoint, scores pairs, and says how long it took and what it needed.

`python child.py --serve ENGINE` answers questions, one JSON line each, until the pipe closes; `--versions` says what
its environment has; `--export KIND CHECKPOINT FOLDER` makes what another engine reads (exports.py). It runs by its path
in other environments too, where there is numpy and no Runoff.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

PACKAGE = Path(__file__).resolve().parents[1]

if TYPE_CHECKING:
    from runoff.contracts import Pair


def use_package(is_ours: bool) -> None:
    """Makes `runoff` importable: Runoff itself where it races, and elsewhere a bare name for its files, since the
    package's door imports what another environment may lack."""
    if sys.path and Path(sys.path[0]).resolve() == PACKAGE / "bench":
        del sys.path[0]  # else our files' names would hide others' modules
    if is_ours:
        sys.path.insert(0, str(PACKAGE.parent))
    elif "runoff" not in sys.modules:
        bare = ModuleType("runoff")
        bare.__path__ = [str(PACKAGE)]
        sys.modules["runoff"] = bare


def installed_versions() -> dict[str, str]:
    names = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in distributions()}
    if "runoff" not in names:
        found = re.search(r'__version__ = "(.+?)"', (PACKAGE / "__init__.py").read_text("utf-8"))
        names["runoff"] = found[1] if found else "unknown"
    return dict(sorted(names.items()))


# --- answering -----------------------------------------------------------------------------------------


class Server:
    """Holds the engine and the pairs between questions. Every method is a question; its answer is a dictionary."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._pairs: dict[str, list[Any]] = {}
        self._device = "cpu"

    def load(self, question: dict[str, Any]) -> dict[str, Any]:
        """The engine is ready; {"import_seconds", "load_seconds", "about"}."""
        began = time.perf_counter()
        from runoff.bench.specs import ENGINES, Settings

        settings, spec = Settings(**question["settings"]), ENGINES[question["engine"]]
        self._device = settings.device
        limit_threads(settings.threads if settings.device == "cpu" else None)
        limit_memory(settings.memory_mib)
        for package in spec.packages:
            import_quietly(package)
        imported = time.perf_counter()
        from runoff.bench.engines import made

        self._engine = made(spec, Path(question["checkpoint"]), Path(question["exports"]), settings)
        loaded = time.perf_counter()
        return {
            "import_seconds": round(imported - began, 4),
            "load_seconds": round(loaded - imported, 4),
            "about": self._engine.about | self._gpu(),
        }

    def _gpu(self) -> dict[str, Any]:
        if self._device == "cpu" or "torch" not in sys.modules:
            return {}
        import torch

        properties = torch.cuda.get_device_properties(self._device)
        return {
            "gpu": properties.name,
            "gpu_mib": properties.total_memory // 2**20,
            "cuda": torch.version.cuda,
        }

    def keep(self, question: dict[str, Any]) -> dict[str, Any]:
        """Pairs are known by a name from now on."""
        self._pairs[question["name"]] = as_tuples(question["pairs"])
        return {}

    def keep_ids(self, question: dict[str, Any]) -> dict[str, Any]:
        """{"is_able": whether the engine takes token ids}; the pairs of a name, with ids, are known by another."""
        if not hasattr(self._engine, "with_ids"):
            return {"is_able": False}
        self._pairs[question["name"]] = self._engine.with_ids(self._pairs[question["of"]])
        return {"is_able": True}

    def tune(self, question: dict[str, Any]) -> dict[str, Any]:
        """An engine that can be tuned chooses its way for pairs like these; {"about"}."""
        if hasattr(self._engine, "tune"):
            self._engine.tune(self._pairs[question["name"]])
            self._forget_peak()
        return {"about": self._engine.about}

    def tokenize(self, question: dict[str, Any]) -> dict[str, Any]:
        """{"seconds"} of tokenising the pairs of a name and nothing else."""
        pairs = self._pairs[question["name"]]
        began = time.perf_counter()
        self._engine.tokenize(pairs)
        return {"seconds": time.perf_counter() - began}

    def score(self, question: dict[str, Any]) -> dict[str, Any]:
        """{"seconds", "scores", "peak_mib"} of scoring the pairs of a name once, in batches of a size."""
        pairs = self._pairs[question["name"]]
        self._forget_peak()
        began = time.perf_counter()
        found = self._engine.score(pairs, question.get("size"))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "scores": [float(each) for each in found], **self._peak()}

    def score_each(self, question: dict[str, Any]) -> dict[str, Any]:
        """The same of one request after another: "seconds" and "scores" are lists."""
        seconds, scores = [], []
        for request in question["requests"]:
            pairs = as_tuples(request)
            began = time.perf_counter()
            found = self._engine.score(pairs, question.get("size"))
            seconds.append(time.perf_counter() - began)
            scores.append([float(each) for each in found])
        return {"seconds": seconds, "scores": scores, **self._peak()}

    def _forget_peak(self) -> None:
        if self._device != "cpu" and "torch" in sys.modules:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> dict[str, Any]:
        """{"peak_mib"}: the device's memory on a GPU, the resident set on a CPU; {"host_mib"}: the latter on a GPU."""
        resident = resident_peak_mib()
        if self._device == "cpu" or "torch" not in sys.modules:
            return {"peak_mib": resident}
        import torch

        return {
            "peak_mib": round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1),
            "host_mib": resident,
        }

    def recover(self) -> None:
        """Gives back what a failed batch left on the GPU."""
        if self._device != "cpu" and "torch" in sys.modules:
            import gc

            import torch

            gc.collect()
            torch.cuda.empty_cache()


def serve() -> None:
    """Answers the parent's questions until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    faulthandler.enable()
    die_with(int(os.environ["RUNOFF_BENCH_PARENT"]))
    server = Server()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(server, question["do"])(question)
        except (Exception, MemoryError) as error:
            answer = refused(error)
            if answer["is_memory"]:
                del error
                server.recover()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_?alloc|bad allocation"
    r"|failed to allocate|unable to allocate|memory allocation of \d+ bytes failed|MemoryError",
    re.IGNORECASE,
)


def tells_of_memory(text: str) -> bool:
    """Whether these words of a library or a runtime mean that memory ran out."""
    return bool(_OUT_OF_MEMORY.search(text))


def refused(error: BaseException) -> dict[str, Any]:
    """{"error", "is_memory"}: what an engine raised, its traceback in the log."""
    import traceback

    traceback.print_exc()
    name = type(error).__name__
    text = (str(error).strip().splitlines() or [""])[0][:300]
    is_memory = isinstance(error, MemoryError) or "OutOfMemory" in name or tells_of_memory(str(error))
    return {"error": text if name == "UnavailableError" else f"{name}: {text}", "is_memory": is_memory}


def die_with(parent: int) -> None:
    """Ends this process when the parent ends, even while it is stopped (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("the parent has ended")


def limit_threads(threads: int | None) -> None:
    """No thread of this process runs on more processors than it has threads."""
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def limit_memory(mib: int | None) -> None:
    """An address space of at most so many MiB: what goes beyond fails, as it would on a smaller machine."""
    if mib is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (mib * 2**20, mib * 2**20))


def import_quietly(package: str) -> None:
    """Imports what an engine's constructor would import first, so that importing and loading are told apart."""
    modules = {"sentence-transformers": "sentence_transformers", "numpy": "runoff"}
    name = modules.get(package, package)
    if name in ("runoff", "sentence_transformers", "onnxruntime", "openvino"):
        __import__(name)


def as_tuples(pairs: list[list[str]]) -> list[Pair]:
    return [(query, document) for query, document in pairs]


def resident_peak_mib() -> float | None:
    """Peak of the resident set, MiB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else None


if __name__ == "__main__" and sys.argv[1:2] == ["--serve"]:
    use_package(is_ours=sys.argv[2].startswith("runoff"))
    serve()
elif __name__ == "__main__" and sys.argv[1:2] == ["--export"]:
    use_package(is_ours=False)
    from runoff.bench.exports import EXPORTS

    EXPORTS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
elif __name__ == "__main__" and sys.argv[1:] == ["--versions"]:
    sys.stdout.write(json.dumps(installed_versions()) + "\n")
