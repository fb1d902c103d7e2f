"""The `runoff` command: parse, call, print. A module per command; what it calls is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from runoff import __version__
from runoff.cli import (
    calibrate,
    collect,
    demo,
    distil,
    index,
    info,
    judge,
    judge_mteb,
    judge_nanobeir,
    label,
    mix,
    pick,
    publish,
    quantize,
    race,
    rank,
    sample,
    score,
    search,
    serve,
    teach,
    train,
)
from runoff.cli.options import CommandParser

DESCRIPTION = """\
Rerankers that are fast on a CPU: score pairs, rank documents, search a collection of your own.

A reranker reads a query and a document together and says how well the one answers the other: slower than
a search index, and better. So an index finds a hundred candidates, and the reranker puts them in order.
"""
EXAMPLES = """\
start here:
  runoff demo                                                  a search, before and after reranking
  runoff rank "who wrote Emma" "Jane Austen" "Emma Stone"      which text answers best
  runoff index notes.index --from ~/notes                      index a folder of your own ...
  runoff search "when is the boiler due" --index notes.index   ... and search it

Every command explains itself: runoff COMMAND --help.
exit codes: 0 done, 2 the command or its input must be mended, 1 anything else, 130 interrupted.
"""

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
# What a shell shows for a process that SIGPIPE ended, as it does `cat` in `cat | head`.
EXIT_PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line; `arguments` None means the process's own."""
    _open_closed_streams()
    options = build_parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    if not hasattr(options, "run"):
        build_parser().print_help(sys.stderr)
        return EXIT_BAD_INPUT
    try:
        with _warnings_on_stderr():
            options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_PIPE_CLOSED
    except Exception as error:
        if options.debug:
            raise
        return _explained(error)
    return EXIT_DONE


def _joined(words: Sequence[str]) -> list[str]:
    """The words with `judge mteb` as the one word of that command, and `judge nanobeir` likewise. Only these very
    words: ./mteb is a judged set's folder."""
    if list(words[:2]) in (["judge", "mteb"], ["judge", "nanobeir"]):
        return ["-".join(words[:2]), *words[2:]]
    return list(words)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = CommandParser(prog="runoff", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"runoff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    for command in (
        rank,
        score,
        index,
        search,
        serve,
        demo,
        distil,
        collect,
        teach,
        label,
        sample,
        mix,
        train,
        judge,
        judge_mteb,
        judge_nanobeir,
        pick,
        race,
        calibrate,
        publish,
        quantize,
        info,
    ):
        command.add_to(commands)
    return parser


def _explained(error: Exception) -> int:
    """The exit code of an error, once it is told in one line."""
    # Here, since it imports numpy, which `runoff --help` need not wait for.
    from runoff.contracts import HubError, IndexStoreError, RunoffError, ScoreError

    if isinstance(error, RunoffError):
        _say(f"error: {error}")
        is_disk = isinstance(error, IndexStoreError) and error.__cause__ is not None
        return EXIT_FAILED if is_disk or isinstance(error, (ScoreError, HubError)) else EXIT_BAD_INPUT
    if isinstance(error, OSError):
        from runoff.data.disk import disk_remedy

        remedy = disk_remedy(str(error)) or "Mend that, then run the same command again."
        _say(f"error: {error.filename or 'the system'}: {error.strerror or error}. {remedy}")
    elif isinstance(error, MemoryError):
        _say("error: out of memory. Score fewer or shorter texts at a time, or choose a smaller model")
    else:
        _say(
            f"error: {type(error).__name__}: {error}. This is a mistake in Runoff: run the command again with "
            "--debug and report what it shows"
        )
    return EXIT_FAILED


def _say(message: str) -> None:
    sys.stderr.write(f"runoff: {' '.join(message.split())}\n")


def _open_closed_streams() -> None:
    """A stream that the shell closed (>&-) takes what is written and drops it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it is open as long as the process


def _drop_stdout() -> None:
    """Whoever read stdout has gone; without this Python complains once more when it exits."""
    with suppress(OSError, ValueError):  # no real file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Our warnings go to stderr in plain words while a command runs."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("runoff: warning: %(message)s"))
    logger = logging.getLogger("runoff")
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)
