"""docs/serve.md: its examples are answered as it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standin_served import Served

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text("utf-8")
EXAMPLES = re.findall(r"```bash\n(curl .*?)```\n\n```json\n(.*?)```", PAGE, re.DOTALL)
OF_ONE_ANSWER = ("id", "created")
"""What no two answers share."""


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that the page names."""
    flags = ["-m", "runoff", "serve", "--port", "0", "--precision", "fp32"]
    server = Served.start(flags, tmp_path_factory.mktemp("nano"))
    yield server
    server.end()


def differences(found: Any, shown: Any, place: str = "") -> list[str]:
    """Where an answer is not what the page shows; numbers may differ in what the page rounds."""
    if isinstance(shown, dict) and isinstance(found, dict):
        if set(found) != set(shown):
            return [f"{place}: {sorted(found)}"]
        kept = [name for name in shown if name not in OF_ONE_ANSWER]
        return [each for name in kept for each in differences(found[name], shown[name], f"{place}.{name}")]
    if isinstance(shown, list) and isinstance(found, list) and len(found) == len(shown):
        pairs = enumerate(zip(found, shown, strict=True))
        return [each for number, pair in pairs for each in differences(*pair, f"{place}[{number}]")]
    is_same = abs(found - shown) < 1e-3 if isinstance(shown, float) else found == shown
    return [] if is_same else [f"{place}: {found}"]


def test_every_example_of_the_page_has_its_answer() -> None:
    assert len(EXAMPLES) == PAGE.count("```bash") == PAGE.count("```json") == 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
def test_the_page_s_examples_are_answered_as_it_shows(nano: Served, command: str, answer: str) -> None:
    words = command.replace("localhost:8080", f"127.0.0.1:{nano.port}")
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True, timeout=60)
    assert differences(json.loads(done.stdout), json.loads(answer)) == []


def test_a_difference_is_found() -> None:
    shown = {"id": "a", "b": [{"c": 0.5}, "x"]}
    assert differences({"id": "z", "b": [{"c": 0.5004}, "x"]}, shown) == []
    assert differences({"id": "z", "b": [{"c": 0.6}, "y"]}, shown) == [".b[0].c: 0.6", ".b[1]: y"]
    assert differences({"b": []}, shown) == [": ['b']"]
    assert differences({"id": "a", "b": []}, shown) == [".b: []"]
