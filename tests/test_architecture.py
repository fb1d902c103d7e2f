"""The house keeps its shape: who imports whom, what stays out, how long things are, how fast the door opens.

Every rule is read from the syntax tree of the sources and shown to fail on a planted violation.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "runoff"
TREE_DOCUMENT = ROOT / "docs" / "architecture.md"

FILE_LINES = 400
FUNCTION_LINES = 60
IMPORT_SECONDS = 0.3

# A room is a file or a folder directly under src/runoff. A new one needs a line here: its place in the house.
MAY_IMPORT: dict[str, set[str]] = {
    "contracts": set(),
    "ranking": {"contracts"},
    "data": {"contracts"},
    "checkpoint": {"contracts"},
    "text": {"contracts"},
    "engine": {"contracts", "checkpoint"},
    "results": {"contracts"},
    "calibration": {"contracts"},
    "legacy": {"contracts"},
    "activation": {"contracts", "checkpoint", "engine"},
    "selfcheck": {"contracts", "checkpoint", "text", "engine"},
    "model": {"contracts", "checkpoint", "text", "engine", "selfcheck"},
    "scoring": {"contracts", "text", "engine", "model"},
    "quantize": {
        "contracts",
        "ranking",
        "data",
        "checkpoint",
        "text",
        "engine",
        "selfcheck",
        "model",
        "calibration",
    },
    "crossencoder": {
        "contracts",
        "checkpoint",
        "text",
        "engine",
        "ranking",
        "activation",
        "calibration",
        "legacy",
        "model",
        "results",
        "scoring",
    },
    "embedder": {"contracts", "checkpoint", "text", "engine", "ranking", "legacy", "model", "results"},
    "search": {"contracts", "ranking", "data"},
    "quiet": set(),
    "distill": {"contracts", "ranking", "data", "quiet", "text", "engine"},
    "evaluate": {"contracts", "ranking", "data", "text"},
    "publish": {"contracts", "data", "checkpoint", "distill", "quiet", "calibration"},
    "serve": {"__init__", "contracts", "ranking", "search", "text"},
    "bench": {"contracts", "data", "checkpoint", "engine", "crossencoder"},
    "__init__": {"contracts", "crossencoder", "embedder", "search"},
    "__main__": {"cli"},
}
NATIVE = "engine/native.py"  # the door to runoff._native, which is no source file
ANY_ROOM = "cli"  # imports all; only `python -m runoff` imports it


@dataclass(frozen=True)
class Guest:
    """Where modules from outside may be imported: in which files, and whether only inside a function."""

    modules: tuple[str, ...]
    files: tuple[str, ...] | None = None
    at_the_top: bool = False
    top_files: tuple[
        str, ...
    ] = ()  # where else it may be at the top: files that are themselves imported late


TRAINING = ("distill/attention.py", "distill/steps.py", "distill/student.py", "distill/trainer.py")
"""Made of torch through and through, and imported only inside functions (checked by what `import runoff` loads)."""

GPU = tuple(
    f"engine/{name}.py"
    for name in (
        "packed_attention",
        "torch_attention",
        "torch_blocks",
        "torch_engine",
        "torch_graphs",
        "torch_kernels",
        "torch_linear",
        "torch_model",
        "torch_replicas",
        "torch_sequences",
        "torch_staging",
    )
)
"""The packed forward in PyTorch, imported only when a model is loaded for it."""

SERVING = tuple(f"serve/{name}.py" for name in ("app", "protocol", "replicas", "run", "worker"))
"""The server's HTTP, and the sockets to its workers; imported only when `runoff serve` runs."""

GUESTS = (
    Guest(
        ("torch", "transformers", "sentence_transformers"),
        files=(
            *GPU,
            "engine/delegated.py",
            "quiet.py",
            "publish/export.py",
            "bench/child.py",
            "bench/engines.py",
            "bench/exports.py",
            "evaluate/nanobeir.py",
            "distill/losses.py",
            "distill/plan.py",
            "distill/prompted.py",
            "distill/train.py",
            *TRAINING,
        ),
        top_files=(*TRAINING, *GPU),
    ),
    Guest(
        ("triton", "flash_attn", "kernels"),
        top_files=("engine/triton_kernels.py", "engine/triton_products.py"),
    ),
    Guest(("huggingface_hub",), files=("checkpoint/hub.py",)),
    Guest(
        ("requests", "httpx", "httpx2", "urllib.request", "urllib3", "http", "aiohttp", "socket", "ftplib"),
        files=("checkpoint/hub.py", *SERVING),
        at_the_top=True,
    ),
    Guest(("starlette", "uvicorn", "h11", "prometheus_client"), top_files=SERVING),
    Guest(("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"), files=()),
    Guest(("lance", "pyarrow", "pypdf", "bs4", "rich", "tqdm", "pandas", "matplotlib", "runoff_nano")),
    Guest(("bm25s", "Stemmer", "pytrec_eval")),
    Guest(
        ("onnxruntime", "openvino", "nncf"),
        files=("bench/engines.py", "bench/runtimes.py", "bench/exports.py"),
    ),
    Guest(("mteb",), files=("evaluate/mteb.py", "evaluate/mteb_models.py", "evaluate/mteb_tasks.py")),
    Guest(("ray",), files=("distill/spread.py",)),
)

# What `import runoff` leaves alone.
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "lance",
    "pyarrow",
    "rich",
    "huggingface_hub",
    "tqdm",
    "mteb",
)


@dataclass(frozen=True)
class Import:
    """One import statement's target, as a full dotted name, and where it stands."""

    target: str
    line: int
    inside_function: bool


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import but those under `if TYPE_CHECKING:` of modules that are not ours."""

    def walk(node: ast.AST, inside: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in _targets(child):
                    if not typing_only or name.split(".")[0] == "runoff":
                        yield Import(name, child.lineno, inside)
                continue
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            guarded = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from walk(child, inside or function, typing_only or guarded)

    yield from walk(tree, inside=False, typing_only=False)


def _targets(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if statement.level:  # ruff refuses these; a name that no rule allows
        return [f"runoff.<relative>.{statement.module}"]
    return [f"{statement.module}.{alias.name}" for alias in statement.names]


def sources(folder: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """(path under `folder`, its room, its syntax tree) of every source file."""
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        yield place.as_posix(), place.parts[0].removesuffix(".py"), ast.parse(path.read_text("utf-8"))


def wrong_directions(folder: Path) -> list[str]:
    """Imports between our rooms that the house does not allow."""
    found = []
    for name, room, tree in sources(folder):
        if room not in MAY_IMPORT and room != ANY_ROOM:
            found.append(f"{name}: the room {room!r} has no line in MAY_IMPORT")
            continue
        for item in imports_of(tree):
            parts = item.target.split(".")
            if parts[0] != "runoff":
                continue
            if parts[1:] == ["_native"]:
                if name != NATIVE:
                    found.append(f"{name}:{item.line}: imports the kernels; only {NATIVE} may")
                continue
            target = parts[1] if len(parts) > 1 and parts[1] in _rooms(folder) else "__init__"
            if target not in {room} | (_rooms(folder) if room == ANY_ROOM else MAY_IMPORT[room]):
                found.append(f"{name}:{item.line}: {room} imports {target}")
    return found


def _rooms(folder: Path) -> set[str]:
    return {
        path.name.removesuffix(".py") for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()
    }


def misplaced_guests(folder: Path) -> list[str]:
    """Imports of modules from outside in a file, or at a place in it, that is not theirs."""
    found = []
    for name, _, tree in sources(folder):
        for item in imports_of(tree):
            for guest in GUESTS:
                if not any(f"{item.target}.".startswith(f"{module}.") for module in guest.modules):
                    continue
                if guest.files is not None and name not in guest.files:
                    found.append(f"{name}:{item.line}: imports {item.target}; only {guest.files} may")
                elif not (guest.at_the_top or name in guest.top_files or item.inside_function):
                    found.append(f"{name}:{item.line}: imports {item.target} outside a function")
    return found


def unsafe_loads(folder: Path) -> list[str]:
    """Calls that could run code from a model's files: torch.load, allow_pickle and trust_remote_code."""
    found = []
    for name, _, tree in sources(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                found.append(f"{name}:{node.lineno}: torch.load unpickles")
            if not isinstance(node, ast.keyword):
                continue
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if node.arg == "allow_pickle" and value is not False:
                found.append(f"{name}:{node.value.lineno}: allow_pickle must be False")
            if node.arg == "trust_remote_code" and value is True:
                found.append(f"{name}:{node.value.lineno}: trust_remote_code runs a checkpoint's code")
    return found


def too_long(folder: Path) -> list[str]:
    """Files and functions past their limit of lines."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text("utf-8")
        name = path.relative_to(folder).as_posix()
        if (length := text.count("\n")) > FILE_LINES:
            found.append(f"{name}: {length} lines, at most {FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found.append(
                        f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"
                    )
    return found


def drawn_files(markdown: str) -> set[str]:
    """The Python files that the tree in `markdown` shows: the fenced block whose first line is `runoff/`.

    `  name.py  what it does` is a file; `  folder/  one.py (...) · two.py (...)` and the deeper lines that
    follow are a folder's files.
    """
    block = re.search(r"^```\w*\nrunoff/\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
    assert block, "no fenced block that starts with a line `runoff/`"
    files, folder = set(), ""
    for line in block[1].splitlines():
        entry = line.strip()
        if len(line) - len(line.lstrip()) <= 2:
            head, _, entry = entry.partition(" ")
            folder = head if head.endswith("/") else ""
            entry = entry if folder else head
        for item in entry.split("·"):
            if match := re.match(r"\s*([\w/]+\.py)\b", item):
                files.add(folder + match[1])
    return files


def test_rooms_import_only_what_the_house_allows() -> None:
    assert wrong_directions(SOURCES) == []


def test_modules_from_outside_stay_where_they_belong() -> None:
    assert misplaced_guests(SOURCES) == []


def test_nothing_runs_code_from_a_model() -> None:
    assert unsafe_loads(SOURCES) == []


def test_files_and_functions_fit_their_limits() -> None:
    assert too_long(SOURCES) == []


def test_every_folder_of_sources_is_a_package() -> None:
    folders = {path.parent for path in SOURCES.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_drawn_tree_equals_the_files() -> None:
    present = {name for name, _, _ in sources(SOURCES) if not name.endswith("/__init__.py")}
    assert drawn_files(TREE_DOCUMENT.read_text("utf-8")) == present


def test_importing_runoff_loads_nothing_heavy() -> None:
    code = f"import sys, runoff; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert _fresh_python(code) == "[]"


def test_importing_runoff_takes_less_than_its_limit() -> None:
    # CPU seconds of this one import, and the best of a few tries: other work on the machine does not count.
    code = "import time; start = time.process_time(); import runoff; print(time.process_time() - start)"
    seconds = []
    for _ in range(8):
        seconds.append(float(_fresh_python(code)))
        if seconds[-1] < IMPORT_SECONDS:
            return
    pytest.fail(
        f"import runoff took {min(seconds):.2f} s of CPU at best, expected less than {IMPORT_SECONDS} s"
    )


def _fresh_python(code: str) -> str:
    place = os.environ | {"PYTHONPATH": str(SOURCES.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- each rule can fail ------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree that keeps every rule."""
    for name in ("contracts.py", "ranking.py", "cli.py", "checkpoint/__init__.py", "checkpoint/hub.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import numpy\n")
    (tmp_path / "ranking.py").write_text(
        "from runoff.contracts import Ranked\nfrom runoff import contracts\n"
    )
    (tmp_path / "checkpoint/hub.py").write_text(
        "def load():\n    from huggingface_hub import hf_hub_download\n"
    )
    return tmp_path


def test_a_house_in_order_passes(house: Path) -> None:
    assert wrong_directions(house) + misplaced_guests(house) + unsafe_loads(house) + too_long(house) == []


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        ("contracts.py", "from runoff.ranking import rank_scores"),
        ("contracts.py", "from runoff import ranking"),
        ("contracts.py", "import runoff"),
        ("ranking.py", "import runoff.cli"),
        ("ranking.py", "def late():\n    from runoff.checkpoint.hub import load"),
        (
            "checkpoint/hub.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import runoff.ranking",
        ),
        ("checkpoint/hub.py", "from ..ranking import rank_scores"),
        ("unheard_of.py", ""),
    ],
)
def test_an_import_against_the_direction_is_found(house: Path, place: str, planted: str) -> None:
    (house / place).write_text(planted + "\n")
    assert len(wrong_directions(house)) == 1


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        ("ranking.py", "def late():\n    import torch"),
        ("ranking.py", "def late():\n    from torch.nn import functional"),
        ("ranking.py", "def late():\n    import sentence_transformers as st"),
        ("ranking.py", "def late():\n    import huggingface_hub"),
        ("checkpoint/hub.py", "import huggingface_hub"),
        ("ranking.py", "from urllib import request"),
        ("ranking.py", "import http.client"),
        ("ranking.py", "import pickle"),
        ("ranking.py", "def late():\n    import ray.data"),
        ("cli.py", "import rich.table"),
        ("cli.py", "try:\n    from lance import dataset\nexcept ImportError:\n    pass"),
        ("cli.py", "class Late:\n    import pyarrow"),
    ],
)
def test_a_misplaced_module_from_outside_is_found(house: Path, place: str, planted: str) -> None:
    (house / place).write_text(planted + "\n")
    assert len(misplaced_guests(house)) == 1


@pytest.mark.parametrize(
    "call",
    [
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=x)",
        "g(trust_remote_code=True)",
    ],
)
def test_a_call_that_runs_foreign_code_is_found(house: Path, call: str) -> None:
    (house / "cli.py").write_text(call + "\n")
    assert len(unsafe_loads(house)) == 1


def test_a_long_file_and_a_long_function_are_found(house: Path) -> None:
    (house / "cli.py").write_text("x = 1\n" * (FILE_LINES + 1))
    (house / "ranking.py").write_text("def f():\n" + "    x = 1\n" * FUNCTION_LINES)
    assert [line.split(":")[0] for line in too_long(house)] == ["cli.py", "ranking.py"]


def test_the_tree_is_read_as_it_is_drawn() -> None:
    markdown = (
        "text\n\n```\nrunoff/\n"
        "  __init__.py  what\n"
        "  checkpoint/  layout.py (files as data, see x.py) · hub.py (net) ·\n"
        "               weights.py (...)\n"
        "  cli.py       parses; no y.py\n```\n"
    )
    expected = {"__init__.py", "checkpoint/layout.py", "checkpoint/hub.py", "checkpoint/weights.py", "cli.py"}
    assert drawn_files(markdown) == expected
