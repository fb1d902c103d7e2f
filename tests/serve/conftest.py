"""Server processes for the tests of serving: one that all share, and ones with settings of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standin_served import Served

Start = Callable[..., Served]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the stand-in model with its own settings; tests leave it as they found it."""
    server = Served.words(tmp_path_factory.mktemp("served"))
    yield server
    server.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("--flag", value, ...) is a server of the test's own."""
    started: list[Served] = []
    numbers = itertools.count()

    def begin(*flags: object, **more: object) -> Served:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        for name in more.pop("files", ()):  # type: ignore[attr-defined]
            (folder / name).touch()
        started.append(Served.words(folder, *flags, **more))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for server in started:
        server.end()
