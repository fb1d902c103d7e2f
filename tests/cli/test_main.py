"""The command itself: its help, its exit codes, and what it does when it is cut off."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runoff
from runoff.cli import main
from runoff.contracts import IndexStoreError, InputError, MissingExtraError, ScoreError

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

COMMANDS = (
    "rank",
    "score",
    "index",
    "search",
    "serve",
    "demo",
    "distil",
    "collect",
    "teach",
    "label",
    "sample",
    "mix",
    "train",
    "judge",
    "pick",
    "race",
    "calibrate",
    "publish",
    "quantize",
    "info",
)
OF_JUDGE = ("judge mteb", "judge nanobeir")
"""Commands of two words, which the overview leaves to `judge`."""
SECONDS = 120  # that a process of its own may take on a busy machine
RANK = ("rank", "query", "text")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(runoff.__file__).parents[1]), "COLUMNS": "100"}


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m runoff ...` to its end."""
    command = [sys.executable, "-m", "runoff", *map(str, words)]
    return subprocess.run(command, text=True, env=environment(), timeout=SECONDS, **options)


# --- help ----------------------------------------------------------------------------------------------------


def test_the_overview_waits_for_nothing_heavy() -> None:
    code = "import sys; from runoff.cli import build_parser; build_parser(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("command", [*COMMANDS, *OF_JUDGE])
def test_every_command_explains_itself_with_examples(shell: Shell, command: str) -> None:
    answer = shell(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: runoff {command} ")
    examples = answer.out.partition("examples:\n")[2].splitlines()
    assert len(examples) >= 3
    # quantize and calibrate take their model as an argument; collect has an embedder, label and sample no model
    runs = {
        "quantize": ("--precision",),
        "calibrate": ("--precision", "--judged"),
        "publish": ("--precision",),
        "collect": ("--embedder",),
        "label": (),
        "sample": (),
        "mix": (),
        "train": ("--precision", "--backbone"),
        "distil": ("--teacher", "--backbone"),
        "judge": ("--precision", "--reranker"),
        "pick": ("--precisions", "--model"),
        "race": ("--models", "--engines"),
        "judge mteb": ("--precision", "--reranker"),
    }
    for option in ("--json", "--debug", *runs.get(command, ("--precision", "--model"))):
        assert re.search(rf"^  {option}\b", answer.out, re.MULTILINE)


@pytest.mark.parametrize("command", [*COMMANDS, *OF_JUDGE])
def test_examples_name_only_options_that_there_are(shell: Shell, command: str) -> None:
    text = shell(*command.split(), "--help").out
    explained = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE))
    shown = text.partition("examples:\n")[2]
    own = [line for line in shown.splitlines() if f"runoff {command}" in line]
    assert own
    for line in own:
        call = line.partition(f"runoff {command}")[2].partition("|")[0]
        assert set(re.findall(r"(?<!\S)--[a-z-]+", call)) <= explained, line


def test_the_overview_names_every_command_and_the_exit_codes(shell: Shell) -> None:
    answer = shell("--help")
    assert (answer.code, answer.err) == (0, "")
    assert tuple(re.findall(r"^    (\w+)  ", answer.out, re.MULTILINE)) == COMMANDS
    assert "exit codes: 0 done, 2 the command or its input must be mended, 1 anything else, 130" in answer.out


def test_without_a_command_the_overview_is_shown_as_an_error(shell: Shell) -> None:
    answer = shell()
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == shell("--help").out


def test_the_version_is_told(shell: Shell) -> None:
    assert shell("--version").out == f"runoff {runoff.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serach", "q"), ("'serach'", "did you mean search?", "runoff --help")),
        (("zzzzzz",), ("'zzzzzz'", "runoff --help")),
        (("rank",), ("QUERY", "runoff rank --help")),
        (("search", "q"), ("--index", "runoff search --help")),
        ((*RANK, "--js"), ("--js", "runoff")),
        ((*RANK, "--truncation", "middle"), ("'middle'", "longest_first", "runoff rank --help")),
    ],
)
def test_a_command_line_that_cannot_be_meant_says_what_can(
    shell: Shell, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    shell(*words).check_refused(2, *said)


# --- exit codes ------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
FORBIDDEN = PermissionError(errno.EACCES, "Permission denied", "/secret/file")
FAULTS: list[tuple[BaseException, int, tuple[str, ...]]] = [
    (InputError("give another"), 2, ("give another",)),
    (MissingExtraError("install it"), 2, ("install it",)),
    (IndexStoreError("no index"), 2, ("no index",)),
    (ScoreError("no number"), 1, ("no number",)),
    (FULL, 1, ("No space left on device", "free space, then run the same command again")),
    (FORBIDDEN, 1, ("/secret/file: Permission denied", "change the permissions")),
    (OSError(errno.EIO, "Input/output error"), 1, ("Input/output error", "run the same command again")),
    (MemoryError(), 1, ("out of memory", "fewer or shorter texts", "a smaller model")),
    (KeyError("x"), 1, ("KeyError: 'x'", "a mistake in Runoff", "--debug and report")),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has `runoff rank` fail with an error as it loads its model."""

    def fail_with(fault: BaseException) -> None:
        def load(*_: object) -> None:
            raise fault

        monkeypatch.setattr("runoff.cli.rank.load_reranker", load)

    return fail_with


@pytest.mark.parametrize(
    ("fault", "code", "said"), FAULTS, ids=[f"{type(fault).__name__}-{code}" for fault, code, _ in FAULTS]
)
def test_an_error_is_told_in_a_line_with_its_exit_code(
    shell: Shell,
    failing: Callable[[BaseException], None],
    fault: BaseException,
    code: int,
    said: tuple[str, ...],
) -> None:
    failing(fault)
    shell(*RANK).check_refused(code, *said)


def test_an_index_that_the_disk_refuses_is_no_mistake_of_the_command(
    shell: Shell, failing: Callable[[BaseException], None]
) -> None:
    fault = IndexStoreError("could not add a batch. The disk is full")
    fault.__cause__ = FULL
    failing(fault)
    shell(*RANK).check_refused(1, "The disk is full")


def test_debug_shows_where_an_error_came_from(failing: Callable[[BaseException], None]) -> None:
    failing(InputError("give another"))
    with pytest.raises(InputError, match="give another"):
        main([*RANK, "--debug"])


def test_an_interruption_is_told_and_has_its_own_code(
    shell: Shell, failing: Callable[[BaseException], None]
) -> None:
    failing(KeyboardInterrupt())
    answer = shell(*RANK)
    assert (answer.code, answer.out, answer.err) == (130, "", "runoff: interrupted\n")


def test_a_reader_that_has_gone_ends_it_without_a_word(
    shell: Shell, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runoff.cli._drop_stdout", lambda: None)  # here stdout is the tests' own
    failing(BrokenPipeError())
    answer = shell(*RANK)
    assert (answer.code, answer.out, answer.err) == (141, "", "")


def test_warnings_are_told_while_a_command_runs_and_logging_is_as_before_afterwards(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        logging.getLogger("runoff.model").warning("mind the %s", "gap")
        raise InputError("done")

    monkeypatch.setattr("runoff.cli.rank.load_reranker", load)
    logger = logging.getLogger("runoff")
    before = (list(logger.handlers), logger.propagate)
    assert shell(*RANK).err == "runoff: warning: mind the gap\nrunoff: error: done\n"
    assert (list(logger.handlers), logger.propagate) == before


# --- as a process ------------------------------------------------------------------------------------------------


def test_it_runs_as_a_module_without_rich(tiny: Tiny) -> None:
    code = "import sys; sys.modules['rich'] = None; from runoff.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *RANK, "--model", str(tiny("bert"))]
    options: dict[str, Any] = {"text": True, "env": environment(), "timeout": SECONDS, "check": True}
    plain = subprocess.run(command, capture_output=True, **options).stdout
    assert re.search(r"^#   *score  document\n-  -+  -+\n1  +-?\d+\.\d+  text\n", plain)
    rich = process(*RANK, "--model", tiny("bert"), capture_output=True).stdout
    assert "───" in rich
    assert re.search(r"^ *1 +-?\d+\.\d+ +text *$", rich, re.MULTILINE)
    assert "\x1b" not in plain + rich


def test_ctrl_c_in_mid_search_ends_it_with_130(notes_index: Path) -> None:
    code = (
        "import signal, sys; from runoff.cli import main; from runoff.search.pipeline import Search;"
        # Whoever starts the tests in the background has Ctrl-C ignored, which a process inherits.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "Search.search = lambda *_: signal.raise_signal(signal.SIGINT); sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "search", "storm", "--index", str(notes_index), "--no-rerank"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "runoff: interrupted\n")


def test_a_closed_pipe_ends_it_without_a_word(tiny: Tiny, tmp_path: Path) -> None:
    text = "many words " * 20
    (tmp_path / "pairs.tsv").write_text(f"query\t{text}\n" * 2000)  # seven times what a pipe holds
    command = [sys.executable, "-m", "runoff", "score", "--pairs", str(tmp_path / "pairs.tsv")]
    command += ["--model", str(tiny("bert"))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), **pipes) as scoring:
        assert scoring.stdout is not None
        assert scoring.stderr is not None
        assert scoring.stdout.readline().endswith(text.strip().encode() + b"\n")
        scoring.stdout.close()
        assert scoring.stderr.read() == b""
        assert scoring.wait(timeout=SECONDS) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_an_answer_that_cannot_be_written_is_an_error(tiny: Tiny) -> None:
    with open("/dev/full", "w") as full:
        done = process(*RANK, "--model", tiny("bert"), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("runoff: error: the system: No space left on device. The disk is full")
    assert "Traceback" not in done.stderr


def test_closed_streams_take_what_is_written(tiny: Tiny, notes: Path) -> None:
    words = ["-m", "runoff", "index", str(notes.with_name("new.index")), "--from", str(notes)]
    command = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, *words, "--model", str(tiny("bert"))]
    done = subprocess.run(command, env=environment(), timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert len(runoff.Index.open(notes.with_name("new.index"))) == 5
