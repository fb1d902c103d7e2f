"""One process per engine: the parent asks, the child loads a checkpoint or scores pairs and says how long it took.

A child is stopped (SIGSTOP) whenever it is not its turn, so that no thread pool of one engine spins while another
is timed. Environments of other engines are looked for in `PEERS` (see peer_setup.py); each child runs in the
first one that has what its engine needs, this one included.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"
LOGS = ROOT / "build" / "bench" / "logs"

from peer_engines import ENGINES, Settings, Spec, UnavailableError, environment, is_ours  # noqa: E402
from peer_export import NEEDS  # noqa: E402

REPORTED = (
    "runoff",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "nncf",
    "optimum-onnx",
    "optimum-intel",
)


# --- environments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A Python with the versions of what it has installed."""

    python: str
    versions: dict[str, str]

    def lacks(self, packages: Sequence[str]) -> list[str]:
        return [name for name in packages if name not in self.versions]


@cache
def environments(peers: Path = PEERS) -> tuple[Environment, ...]:
    """This Python, then those of the folders in `peers`."""
    pythons = [sys.executable, *(str(path) for path in sorted(peers.glob("*/bin/python")))]
    found = []
    for python in pythons:
        done = subprocess.run([python, __file__, "--versions"], capture_output=True, text=True, check=True)
        found.append(Environment(python, json.loads(done.stdout)))
    return tuple(found)


def environment_with(packages: Sequence[str], peers: Path = PEERS) -> Environment:
    """The first environment that has them all; `UnavailableError` says what the best one lacks."""
    lacking = {each.python: each.lacks(packages) for each in environments(peers)}
    for each in environments(peers):
        if not lacking[each.python]:
            return each
    missing = ", ".join(min(lacking.values(), key=len))
    raise UnavailableError(f"not installed here: {missing} (python benchmarks/peer_setup.py)")


def installed_versions() -> dict[str, str]:
    names = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in distributions()}
    if "runoff" not in names:
        text = (ROOT / "src" / "runoff" / "__init__.py").read_text("utf-8")
        names["runoff"] = re.search(r'__version__ = "(.+?)"', text)[1]
    return dict(sorted(names.items()))


# --- exports -----------------------------------------------------------------------------------------


def exports_of(checkpoint: Path) -> Path:
    folder = checkpoint.with_name(checkpoint.name + ".exports")
    folder.mkdir(exist_ok=True)
    return folder


def prepare(spec: Spec, checkpoint: Path, peers: Path = PEERS) -> None:
    """Makes the exports that an engine reads, where they are not there; `UnavailableError` where one fails."""
    folder = exports_of(checkpoint)
    for kind in spec.exports:
        done = folder / f"{kind}.done"
        if done.exists():
            continue
        python = environment_with(NEEDS[kind], peers).python
        command = [python, str(ROOT / "benchmarks" / "peer_export.py"), kind, str(checkpoint), str(folder)]
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"export-{kind}.log"
        with log.open("w") as errors:
            ended = subprocess.run(command, stdout=errors, stderr=errors, check=False)
        if ended.returncode:
            raise UnavailableError(f"its export {kind!r} failed: {last_line(log)} ({log.relative_to(ROOT)})")
        done.touch()


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


# --- the parent's side -------------------------------------------------------------------------------


class Peer:
    """An engine in a process of its own, stopped between questions."""

    def __init__(
        self,
        engine: str,
        checkpoint: Path,
        settings: Settings,
        *,
        isa: str | None = None,
        peers: Path = PEERS,
        is_named: bool = False,
    ) -> None:
        spec = ENGINES[engine]
        if spec.flags and not is_named and not set(spec.flags) & set(processor_flags()):
            raise UnavailableError(
                f"this processor has none of {', '.join(spec.flags)} (name it to run it anyway)"
            )
        prepare(spec, checkpoint, peers)
        self.engine, self.label = engine, spec.label
        self.about: dict[str, Any] = {}
        self.environment = environment_with(spec.packages, peers)
        self._question = {
            "engine": engine,
            "checkpoint": str(checkpoint),
            "exports": str(exports_of(checkpoint)),
            "settings": asdict(settings),
        }
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log = LOGS / f"{engine}.log"
        self.began = time.perf_counter()
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [self.environment.python, __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(engine, settings, isa) | {"RUNOFF_BENCH_PARENT": str(os.getpid())},
            )

    def load(self) -> dict[str, Any]:
        """Loads the checkpoint; {"import_seconds", "load_seconds", "about"}."""
        return self._ask({"do": "load", **self._question})

    def score(self, pairs: Sequence[Any]) -> dict[str, Any]:
        """{"seconds", "scores", "peak_mib"} of scoring these pairs once."""
        answer = self.score_each([pairs])
        return answer | {"seconds": answer["seconds"][0], "scores": answer["scores"][0]}

    def score_each(self, requests: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The same of one request after another: "seconds" and "scores" are lists."""
        return self._ask({"do": "score", "requests": [list(each) for each in requests]})

    def tune(self, pairs: Sequence[Any]) -> dict[str, Any]:
        """Lets an engine that can be tuned choose its way for requests like these; {"about"}."""
        return self._ask({"do": "tune", "pairs": list(pairs)})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise UnavailableError(f"its process ended with {code}: {last_line(self._log)}")
        self._process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UnavailableError(answer["error"])
        return answer

    def versions(self) -> dict[str, str]:
        """Those of what this engine runs on, as a result line has them."""
        spec = ENGINES[self.engine]
        wanted = {"runoff", *spec.packages} if is_ours(self.engine) else {*spec.packages, "transformers"}
        if any(name.startswith("optimum") for name in spec.packages):
            wanted |= {"onnxruntime" if "onnx" in self.engine else "openvino"}
        return {
            name: self.environment.versions[name]
            for name in REPORTED
            if name in wanted & set(self.environment.versions)
        }

    def close(self) -> None:
        with suppress(ProcessLookupError, OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def processor_flags() -> tuple[str, ...]:
    sys.path.insert(0, str(ROOT / "src"))
    from runoff.cli.machine import processor

    return processor().flags


# --- the child's side --------------------------------------------------------------------------------


def serve() -> None:
    """Answers the parent's questions, one JSON line each, until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    faulthandler.enable()
    die_with(int(os.environ["RUNOFF_BENCH_PARENT"]))
    engine: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question["do"] == "load":
                engine, answer = load(question)
            elif question["do"] == "tune":
                answer = tune(engine, as_tuples(question["pairs"]))
            else:
                answer = score_each(engine, [as_tuples(pairs) for pairs in question["requests"]])
        except Exception as error:
            import traceback

            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            kind = "" if isinstance(error, UnavailableError) else f"{type(error).__name__}: "
            answer = {"error": kind + text[0][:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def die_with(parent: int) -> None:
    """Ends this process when the parent ends, even while it is stopped (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("the parent has ended")


def load(question: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The engine, and {"import_seconds", "load_seconds", "about"}."""
    settings = Settings(**question["settings"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    if is_ours(question["engine"]):
        sys.path.insert(0, str(ROOT / "src"))
    began = time.perf_counter()
    for package in ENGINES[question["engine"]].packages:
        import_quietly(package)
    imported = time.perf_counter()
    spec = ENGINES[question["engine"]]
    engine = spec.make(Path(question["checkpoint"]), Path(question["exports"]), settings)
    loaded = time.perf_counter()
    return engine, {
        "import_seconds": round(imported - began, 4),
        "load_seconds": round(loaded - imported, 4),
        "about": engine.about,
    }


def import_quietly(package: str) -> None:
    """Imports what an engine's constructor would import first, so that importing and loading are told apart."""
    modules = {"sentence-transformers": "sentence_transformers", "numpy": "runoff"}
    name = modules.get(package, package)
    if name in ("runoff", "sentence_transformers", "onnxruntime", "openvino"):
        __import__(name)


def tune(engine: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Tunes, and forgets the peak of memory that this took."""
    if hasattr(engine, "tune"):
        engine.tune(pairs)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return {"about": engine.about}


def score_each(engine: Any, requests: list[list[tuple[str, str]]]) -> dict[str, Any]:
    seconds, scores = [], []
    for pairs in requests:
        began = time.perf_counter()
        found = engine.score(pairs)
        seconds.append(time.perf_counter() - began)
        scores.append([float(each) for each in found])
    return {"seconds": seconds, "scores": scores, "peak_mib": peak_mib()}


def as_tuples(pairs: list[list[str]]) -> list[tuple[str, str]]:
    return [(query, document) for query, document in pairs]


def peak_mib() -> float | None:
    """Peak of the resident set, MiB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else None


if __name__ == "__main__" and sys.argv[1:] == ["--serve"]:
    serve()
elif __name__ == "__main__" and sys.argv[1:] == ["--versions"]:
    print(json.dumps(installed_versions()))
