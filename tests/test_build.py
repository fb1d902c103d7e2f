"""Installing without a C++ compiler: Runoff comes out whole, without its native engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import runoff

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("CMakeLists.txt", "LICENSE", "README.md", "native", "pyproject.toml", "src")

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a wheel is built from."""
    pytest.importorskip("scikit_build_core", reason="needs the dependency group 'build'")
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def build_wheel(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Has pip build a wheel into `tree`/out, with the build tools of this environment and no network."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--verbose", "--no-index"]
    return subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", tree / "out", tree],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def check_pure_wheel(tree: Path) -> None:
    """The wheel in `tree`/out has every Python file and runs, without the native engine."""
    [wheel] = (tree / "out").glob("*.whl")
    assert wheel.name == f"runoff-{runoff.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("runoff/")}
        archive.extractall(tree / "site")
    package = tree / "src" / "runoff"
    kept = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".so"}
    assert packed == {path.relative_to(package.parent).as_posix() for path in kept}
    # -S: without this environment's own Runoff, which an import hook of the editable install would find first.
    code = (
        "import importlib.util, runoff, runoff.ranking; "
        "print(runoff.__file__, importlib.util.find_spec('runoff._native'))"
    )
    path = os.pathsep.join([str(tree / "site"), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tree / "site" / "runoff" / "__init__.py"), "None"]


def test_without_a_compiler_the_wheel_is_pure_python(tree: Path) -> None:
    done = build_wheel(tree, CXX="/nonexistent/c++")
    assert done.returncode == 0, done.stdout + done.stderr
    check_pure_wheel(tree)


def test_where_compiling_fails_the_wheel_is_pure_python(tree: Path) -> None:
    with (tree / "native" / "cpu.cc").open("a") as file:
        file.write("#error planted\n")
    done = build_wheel(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    check_pure_wheel(tree)


def test_who_requires_the_native_engine_gets_the_error(tree: Path) -> None:
    done = build_wheel(tree, CXX="/nonexistent/c++", RUNOFF_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "CMAKE_CXX_COMPILER" in done.stdout + done.stderr
