"""What every test runs under: no model hub, an empty hub cache, no network."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before anything imports huggingface_hub, which reads these once.
_HUB_HOME = tempfile.mkdtemp(prefix="runoff-test-hub-")
os.environ["HF_HOME"] = _HUB_HOME
os.environ["HF_HUB_OFFLINE"] = "1"
# mteb makes its cache when it is imported, in the home folder if not told where.
os.environ["MTEB_CACHE"] = os.path.join(_HUB_HOME, "mteb")
# Triton's kernels run on a CPU when they are interpreted; read where Triton and its kernels are first imported.
os.environ["TRITON_INTERPRET"] = "1"
# Tests compare with sentence-transformers in fp32; those of "auto" take this away.
os.environ["RUNOFF_PRECISION"] = "fp32"
for _name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN"):
    os.environ.pop(_name, None)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HUB_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def hub_home() -> Path:
    """The empty folder that stands for the user's hub cache (HF_HOME)."""
    return Path(_HUB_HOME)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The judged collections that lie beside a developer's checkout; skips where there are none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the judged collections in ../shared/data, which are not part of the repository")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves this machine fails the test that opens it."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address}: tests use no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny stand-in by its name in standin_tiny.TINY; never to be edited (see `tiny_copy`)."""

    @cache
    def build(name: str) -> Path:
        from transformers.utils import logging as transformers_logging

        from standin_tiny import TINY

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        return TINY[name](tmp_path_factory.mktemp("tiny") / name)

    return build


@pytest.fixture
def tiny_copy(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny stand-in that the test may edit."""
    return lambda name: Path(shutil.copytree(tiny(name), tmp_path / name))
