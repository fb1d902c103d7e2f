"""One process per engine, as the parent sees it: ask, wait, stop it until it is its turn again.

A child is stopped (SIGSTOP) whenever it is not its turn, so that no thread pool of one engine spins while another
is timed. Other engines' environments are looked for in a folder (see benchmarks/peer_setup.py); each child runs in
the first one that has what its engine needs, this one included.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from runoff.bench import child
from runoff.bench.exports import CALIBRATION, CALIBRATION_PAIRS, NEEDS
from runoff.bench.pairs import made_pairs
from runoff.bench.specs import (
    ENGINES,
    OutOfMemoryError,
    Settings,
    Spec,
    UnavailableError,
    environment,
    is_ours,
    kind_of_device,
)
from runoff.contracts import Pair
from runoff.data.atomic import replace_file

REPORTED = (
    "runoff",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "flash-attn",
    "kernels",
    "triton",
    "onnxruntime",
    "openvino",
    "nncf",
    "optimum-onnx",
    "optimum-intel",
)
_SIGKILL_CODES = (-9, 137)
_LAST_LINES = 80  # of a log, which a traceback of all threads fits into


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie: made checkpoints, exports and logs in `cache`, other engines' environments in `peers`."""

    cache: Path
    peers: Path | None = None

    @property
    def logs(self) -> Path:
        return self.cache / "logs"

    def exports_of(self, checkpoint: Path) -> Path:
        """The folder of a checkpoint's exports: its path and weights say which."""
        if checkpoint.parent == self.cache:
            return self.cache / f"{checkpoint.name}.exports"
        import hashlib

        stamps = [(path.name, path.stat().st_size) for path in sorted(checkpoint.glob("*.safetensors"))]
        digest = hashlib.sha256(repr((str(checkpoint.resolve()), stamps)).encode()).hexdigest()[:8]
        return self.cache / f"{checkpoint.name}-{digest}.exports"

    def without_paths(self, text: str) -> str:
        """The text with names in the place of this machine's folders: what is kept may be published."""
        known = {"CACHE": self.cache, "PEERS": self.peers, "PYTHON": Path(sys.prefix), "HOME": Path.home()}
        for name, folder in known.items():
            if folder is not None:
                for path in {str(folder), str(folder.resolve())} - {"/"}:
                    text = text.replace(path, name)
        return text


def default_cache() -> Path:
    """The user's cache folder for races, by the system's custom."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "runoff" / "race"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "runoff" / "race"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runoff" / "race"


# --- environments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A Python with the versions of what it has installed."""

    python: str
    versions: dict[str, str] = field(hash=False)

    def lacks(self, packages: Sequence[str]) -> list[str]:
        return [name for name in packages if name not in self.versions]


@cache
def environments(peers: Path | None) -> tuple[Environment, ...]:
    """This Python, then those of the folders in `peers`."""
    others = sorted(peers.glob("*/bin/python")) if peers else []
    found = []
    for python in (sys.executable, *map(str, others)):
        command = [python, str(Path(child.__file__)), "--versions"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:  # an environment whose Python is gone is no environment
            found.append(Environment(python, json.loads(done.stdout)))
    return tuple(found)


def environment_with(packages: Sequence[str], peers: Path | None) -> Environment:
    """The first environment that has them all; `UnavailableError` says what the best one lacks."""
    lacking = {each.python: each.lacks(packages) for each in environments(peers)}
    for each in environments(peers):
        if not lacking[each.python]:
            return each
    missing = min(lacking.values(), key=len)
    raise UnavailableError(f"not installed: {', '.join(missing)}")


def obstacle(
    engine: str, settings: Settings, places: Places, flags: Sequence[str], family: str
) -> str | None:
    """Why an engine cannot run a model of this family here, as far as can be known without trying; None: it may."""
    spec = ENGINES[engine]
    kind = kind_of_device(settings.device)
    if kind not in spec.devices:
        return f"runs on {' and '.join(spec.devices)} only"
    if spec.is_ours and family not in _OUR_FAMILIES:
        return f"Runoff's own engines run no {family}: it hands such models to sentence-transformers"
    if kind == "cpu" and spec.flags and not set(spec.flags) & set(flags):
        return f"this processor has none of {', '.join(spec.flags)} (name it to run it anyway)"
    try:
        environment_with(spec.packages, places.peers)
        for export in spec.exports:
            environment_with(NEEDS[export], places.peers)
    except UnavailableError as error:
        return str(error)
    return None


_OUR_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")


# --- exports -----------------------------------------------------------------------------------------


def prepare(spec: Spec, checkpoint: Path, places: Places) -> Path:
    """The folder with the exports that an engine reads, made where they are not there; `UnavailableError` where one
    fails."""
    folder = places.exports_of(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in spec.exports:
        done = folder / f"{kind}.done"
        if done.exists():
            continue
        if not (folder / CALIBRATION).is_file():
            pairs = made_pairs(checkpoint, CALIBRATION_PAIRS, seed=99)
            replace_file(folder / CALIBRATION, json.dumps(pairs))
        export(kind, checkpoint, folder, places)
        done.touch()
    return folder


def export(kind: str, checkpoint: Path, folder: Path, places: Places) -> None:
    """Runs one export to its end in an environment that can; `UnavailableError` says how it failed."""
    python = environment_with(NEEDS[kind], places.peers).python
    command = [python, str(Path(child.__file__)), "--export", kind, str(checkpoint), str(folder)]
    places.logs.mkdir(parents=True, exist_ok=True)
    log = places.logs / f"export-{kind}.log"
    with log.open("w") as errors:
        ended = subprocess.run(command, stdout=errors, stderr=errors, check=False)
    if ended.returncode:
        raise UnavailableError(f"its export {kind!r} failed: {last_line(log)} (see logs/{log.name})")


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


# --- a process -------------------------------------------------------------------------------------------


class Peer:
    """An engine in a process of its own, stopped between questions. A question raises `UnavailableError` where the
    engine fails and `OutOfMemoryError` where memory is what it lacks; a process that died answers nothing more."""

    def __init__(
        self,
        engine: str,
        checkpoint: Path,
        settings: Settings,
        places: Places,
        *,
        isa: str | None = None,
    ) -> None:
        spec = ENGINES[engine]
        exports = prepare(spec, checkpoint, places)
        self.engine, self.label = engine, spec.label
        self.about: dict[str, Any] = {}
        self.environment = environment_with(spec.packages, places.peers)
        self._question = {
            "engine": engine,
            "checkpoint": str(checkpoint),
            "exports": str(exports),
            "settings": asdict(settings),
        }
        places.logs.mkdir(parents=True, exist_ok=True)
        self._log = places.logs / f"{engine}.log"
        self.began = time.perf_counter()
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [self.environment.python, str(Path(child.__file__)), "--serve", engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(engine, settings, isa) | {"RUNOFF_BENCH_PARENT": str(os.getpid())},
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def load(self) -> dict[str, Any]:
        """Loads the checkpoint; {"import_seconds", "load_seconds", "about"}."""
        answer = self._ask("load", **self._question)
        self.about = answer["about"]
        return answer

    def keep(self, name: str, pairs: Sequence[Pair]) -> None:
        """The process knows these pairs by a name from now on."""
        self._ask("keep", name=name, pairs=list(pairs))

    def keep_ids(self, name: str, of: str) -> bool:
        """Whether the engine takes token ids; if so it knows the pairs `of` with them by a name."""
        return bool(self._ask("keep_ids", name=name, of=of)["is_able"])

    def tokenize(self, name: str) -> float:
        """Seconds of tokenising the pairs of a name, alone."""
        return float(self._ask("tokenize", name=name)["seconds"])

    def score(self, name: str, size: int | None = None) -> dict[str, Any]:
        """{"seconds", "scores", "peak_mib"} of scoring the pairs of a name once, in batches of a size."""
        return self._ask("score", name=name, size=size)

    def score_each(self, requests: Sequence[Sequence[Pair]], size: int | None = None) -> dict[str, Any]:
        """The same of one request after another: "seconds" and "scores" are lists."""
        return self._ask("score_each", requests=[list(each) for each in requests], size=size)

    def tune(self, name: str) -> None:
        """Lets an engine that can be tuned choose its way for pairs like these."""
        self.about |= self._ask("tune", name=name)["about"]

    def _ask(self, do: str, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal("SIGCONT")
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **question}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        self._signal("SIGSTOP")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (OutOfMemoryError if answer["is_memory"] else UnavailableError)(answer["error"])
        return answer

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # not on Windows, where the others go on
            with suppress(ProcessLookupError):
                self._process.send_signal(getattr(signal, name))

    def _death(self) -> UnavailableError:
        code = self._process.wait()
        if code in _SIGKILL_CODES:
            return OutOfMemoryError("the system killed its process, as it does when memory runs out")
        lines = self._log.read_text("utf-8", "replace").splitlines()
        # A crash prints where it was behind what it was.
        if found := [line for line in lines[-_LAST_LINES:] if child.tells_of_memory(line)]:
            return OutOfMemoryError(f"its process ended with {code}: {found[-1].strip()[:200]}")
        return UnavailableError(
            f"its process ended with {code}: {last_line(self._log)} (see logs/{self._log.name})"
        )

    def versions(self) -> dict[str, str]:
        """Those of what this engine runs on, as a result line has them."""
        spec = ENGINES[self.engine]
        wanted = {"runoff", *spec.packages} if is_ours(self.engine) else {*spec.packages, "transformers"}
        if any(name.startswith("optimum") for name in spec.packages):
            wanted |= {"onnxruntime" if "onnx" in self.engine else "openvino"}
        if "cuda" in spec.devices:
            wanted |= {"flash-attn", "kernels", "triton"}
        known = self.environment.versions
        return {name: known[name] for name in REPORTED if name in wanted & set(known)}

    def close(self) -> None:
        with suppress(ProcessLookupError, OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
