"""A server process for tests, its client, and an engine whose faults are words of the documents it is given.

The tokenizer is that of `standin_words`: one token a word, `w5` is id 5 + FIRST_WORD.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from runoff.contracts import Batch, CheckpointError, FloatArray, LengthRules
from standin_words import FIRST_WORD, words_tokenizer

SECONDS = 60
"""That anything may take on a busy machine before a test gives up waiting for it."""

MAX_LENGTH = 64
POISON, NAN, CRASH, GATE, HANG, GATE_2 = "w390", "w391", "w392", "w393", "w394", "w389"
"""Words in a document that have the engine raise, give NaN, kill its process, wait for the folder's file `w393` to be
gone, never come back, and wait for the file `w389`."""
FORTY, FIFTY = "w395", "w396"
"""Documents whose logits are 40 and 50: both sigmoids are 1.0."""


class WordEngine:
    """Scores a document by its words: the mean of their numbers / 100 - 1, unless one of them is a fault.

    What it scored is written to the folder's file `scored`, a line for each sequence. Once it has seen a file `sour`
    it fails on everything.
    """

    name, precision, token_budget = "words", "fp32", 512

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_sour = False

    def forward(self, batch: Batch) -> FloatArray:
        """Scores [B, 1]."""
        if self._is_sour or (self._folder / "sour").exists():
            self._is_sour = True
            (self._folder / "sour").unlink(missing_ok=True)
            raise RuntimeError("fails from now on, whatever it is given")
        scores = [self._score(batch, row) for row in range(len(batch))]
        with open(self._folder / "scored", "a") as file:
            for row in range(len(batch)):
                file.write(" ".join(map(str, self._document(batch, row))) + "\n")
        return np.array(scores, np.float32).reshape(-1, 1)

    def _document(self, batch: Batch, row: int) -> list[int]:
        span = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        is_document = (batch.type_ids[span] == 1) & (batch.ids[span] >= FIRST_WORD)
        return (batch.ids[span][is_document] - FIRST_WORD).tolist()

    def _score(self, batch: Batch, row: int) -> float:
        document = self._document(batch, row)
        names = {f"w{number}" for number in document}
        for gate in names & {GATE, GATE_2}:
            while (self._folder / gate).exists():
                time.sleep(0.002)
        if HANG in names:
            time.sleep(3600)
        if CRASH in names:
            os.kill(os.getpid(), signal.SIGKILL)
        if POISON in names:
            raise ValueError("a word that no engine bears")
        known = {NAN: float("nan"), FORTY: 40.0, FIFTY: 50.0}
        return next((known[name] for name in names if name in known), logit(document))


def logit(numbers: Sequence[int]) -> float:
    """What the stand-in gives a document of these words."""
    return float(np.float32(np.mean(numbers) / 100 - 1)) if numbers else -9.0


def build_word_engine(folder: Path) -> tuple[WordEngine, dict[str, Any]]:
    """As a worker builds its engine; a file `broken` in the folder stands for damaged weights."""
    if (folder / "broken").exists():
        raise CheckpointError("the weights are damaged: get them again")
    while (folder / "slow start").exists():
        time.sleep(0.002)
    return WordEngine(folder), {"engine": "words", "device": "cpu", "precision": "fp32"}


def word_model(folder: Path) -> Any:
    """The stand-in as the server holds it."""
    from runoff.activation import Activation
    from runoff.serve.model import TokenModel

    activation = Activation.of("sigmoid")
    return TokenModel(
        name="words",
        tokenizer=words_tokenizer(max_length=MAX_LENGTH),
        prompt="",
        rules=LengthRules(),
        shown=activation,
        build=partial(build_word_engine, folder),
    )


def main(folder: str, *words: str) -> int:
    """`runoff serve` with the stand-in in its model's place."""
    from unittest import mock

    from runoff.cli import main as runoff

    with mock.patch("runoff.cli.serve.load_model", return_value=word_model(Path(folder))):
        return runoff(["serve", *words])


# --- the process and its client ------------------------------------------------------------------------------


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {SECONDS} s for {what}")
        time.sleep(0.005)
    return found


@dataclass
class Served:
    """A running server: where it listens, its process, and the lines of its log so far."""

    process: subprocess.Popen[str]
    folder: Path
    lines: list[str]
    port: int = 0

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        folder: Path,
        *,
        waits: bool = True,
        more_path: str = "",
        **environment: str,
    ) -> Served:
        """Starts the process; with `waits`, until it is ready. `more_path` is searched for modules first."""
        places = [
            *([more_path] if more_path else []),
            str(Path(__file__).parent),
            str(Path(__file__).parents[1] / "src"),
        ]
        # A test's `refuse_network` holds for the tests' process alone; here no proxy and no hub is named.
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(places),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        process = subprocess.Popen(
            [sys.executable, *command],
            env=variables,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        served = cls(process, folder, [])
        threading.Thread(target=served._read_log, daemon=True).start()
        if waits:
            served.wait_ready()
        return served

    @classmethod
    def words(cls, folder: Path, *flags: object, **more: Any) -> Served:
        """A server of the stand-in model; `more` is what `start` takes."""
        # Not as a script: what a worker is to call must be found by its module's name.
        code = "import sys, standin_served; sys.exit(standin_served.main(*sys.argv[1:]))"
        command = ["-c", code, str(folder), "--port", "0", *map(str, flags)]
        return cls.start(command, folder, **more)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def event(self, name: str) -> dict[str, Any] | None:
        """The first event of this name in the log."""
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("event") == name:
                    return record
        return None

    def wait_event(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.event(name)
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"ended before {name!r}: {self.lines}")
            return found

        return wait_for(look, f"the event {name!r} in {self.lines}")

    def wait_listening(self) -> Served:
        self.port = int(self.wait_event("listening")["url"].rpartition(":")[2])
        return self

    def wait_ready(self) -> Served:
        self.wait_listening().wait_event("ready")
        return self

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        sent = {"content-type": "application/json"} if body is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def post(self, body: Any, path: str = "/rerank", **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def open(self) -> socket.socket:
        """A bare connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        connection.settimeout(SECONDS)
        return connection

    def post_open(self, body: Any, path: str = "/rerank") -> socket.socket:
        """A connection on which a request was sent and whose answer nobody reads yet."""
        connection = self.open()
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection

    def metric(self, name: str) -> float:
        """A figure of /metrics by its name, labels included as they are written; 0 where it is not there yet."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def wait_metric(self, name: str, value: float) -> None:
        wait_for(lambda: self.metric(name) == value, f"{name} to be {value}, is {self.metric(name)}")

    @property
    def scored(self) -> list[str]:
        """The documents that the engine scored, as their words' numbers; without the warm-up's, which have none."""
        file = self.folder / "scored"
        return list(filter(None, file.read_text().splitlines())) if file.exists() else []

    def close_gate(self, gate: str = GATE) -> None:
        """Has documents with that word wait in the engine."""
        (self.folder / gate).touch()

    def open_gate(self, gate: str = GATE) -> None:
        (self.folder / gate).unlink(missing_ok=True)

    def worker_pids(self) -> list[int]:
        """The worker processes: children of the server that are no resource tracker. Skips where nothing tells them."""
        if not Path("/proc/self/task").exists():
            pytest.skip("needs Linux's /proc to find the workers")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout=SECONDS)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[Any]:
    """A future of `call`, which runs in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)
