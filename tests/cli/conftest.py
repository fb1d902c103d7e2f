"""A shell for the command line's tests: commands run in this process, in a folder of their own."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runoff.cli import main
from runoff.search.index import Index
from standin_disk import mounted_disk

RECORDS = [
    {"id": "boiler", "title": "Boiler", "text": "The boiler is serviced every October.", "year": 2025},
    {"id": "roof", "text": "The roof was mended after the storm.", "year": 2024},
    {"id": "water", "text": "A boiler heats water; a boiler may leak.", "year": 2023},
    {"id": "window", "text": "The storm broke a window.", "year": 2022},
    {"id": "garden", "text": "Roses want sun and a little rain.", "year": 2021},
]


@dataclass(frozen=True)
class Answer:
    """What a command answered: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]

    def check_refused(self, code: int, *said: str) -> None:
        """One line on stderr, with all of `said` in that order, no answer and no traceback."""
        assert (self.code, self.out) == (code, ""), self.err
        (line,) = self.err.splitlines()
        assert line.startswith("runoff: error: ")
        assert re.search(".*".join(map(re.escape, said)), line), line


class Keyboard(io.StringIO):
    """Stdin at which a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Answer]:
    """shell("rank", "query", ...) is that command's answer; `piped` or `typed` is its stdin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: object, piped: bytes = b"", typed: str | None = None) -> Answer:
        stdin = io.TextIOWrapper(io.BytesIO(piped)) if typed is None else Keyboard(typed)
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", stdin)
            try:
                code = main([str(word) for word in words])
            except SystemExit as left:  # argparse's way out
                code = int(left.code or 0)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Five short documents, two with "boiler", two with "storm", in notes.jsonl."""
    return write_notes(tmp_path)


def write_notes(folder: Path) -> Path:
    file = folder / "notes.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def built_index(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> Path:
    """Never to be edited; `notes_index` is a copy."""
    folder = tmp_path_factory.mktemp("built")
    path, file = str(folder / "notes.index"), str(write_notes(folder))
    models = ["--model", str(tiny("bert")), "--embedder", str(tiny("static"))]
    assert main(["index", path, "--from", file, *models]) == 0
    return Path(path)


@pytest.fixture
def notes_index(notes: Path, built_index: Path) -> Path:
    """notes.index beside the notes: token ids of the tiny bert, vectors of the tiny static."""
    return Path(shutil.copytree(built_index, notes.with_name("notes.index")))


@pytest.fixture
def stored() -> Callable[[Path], dict[str, str]]:
    """What an index holds: id -> text."""
    return lambda path: {each.id: each.text for each in Index.open(path).documents()}


@cache
def _reference(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu")


@pytest.fixture
def reference() -> Callable[..., list[Any]]:
    """Raw scores of (query, text) pairs by sentence-transformers: the second implementation."""

    def scores(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        from torch import nn

        raw = _reference(folder).predict(list(pairs), activation_fn=nn.Identity(), show_progress_bar=False)
        return list(raw.tolist())

    return scores


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 2 MiB; skips where this user may not mount one."""
    with mounted_disk(tmp_path / "disk", mebibytes=2) as folder:
        yield folder
