"""The options that commands share, each with its one help text, and what they load."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from runoff.contracts import Precision
    from runoff.crossencoder import CrossEncoder
    from runoff.embedder import Embedder
    from runoff.model import FoundModel, ModelOptions

DEFAULT_MODEL = "runoff-nano"

Commands = Any  # argparse's _SubParsersAction, which has no public name
Group = Any  # a parser or one of its argument groups, whose common base has no public name either


class CommandParser(argparse.ArgumentParser):
    """argparse with one form of error, which names the help that explains more."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self._waiting: list[Callable[[CommandParser], None]] = []

    def later(self, add: Callable[[CommandParser], None]) -> None:
        """Adds options once this command is the one that was typed: those whose names and defaults live in modules that
        `runoff --help` need not wait for (numpy is half of its time)."""
        self._waiting.append(add)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        while self._waiting:
            self._waiting.pop(0)(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"runoff: error: {_with_suggestion(message)}. See {self.prog} --help\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=105)

    def add_argument(self, action: argparse.Action) -> None:
        """As it was; commands stand two columns further in than argparse reckons: the longest's line broke."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            reach = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, reach)


def _with_suggestion(message: str) -> str:
    """argparse's message, with the nearest command where a command was misspelt."""
    _, found, rest = message.partition("invalid choice: ")
    if not found or "choose from" not in rest:
        return message
    given = rest.split(" ", 1)[0].strip("'")
    known = [word.strip("' )") for word in rest.split("choose from", 1)[1].split(",")]
    near = difflib.get_close_matches(given, known, n=1)
    return f"{message}; did you mean {near[0]}?" if near else message


def new_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    summary: str | None,
    description: str,
    examples: str,
) -> CommandParser:
    """The parser of one command, with the options that all have. Without a `summary` the overview does not name it."""
    named = {} if summary is None else {"help": summary}
    parser: CommandParser = commands.add_parser(
        name, description=description, epilog=f"examples:\n{examples}", **named
    )
    parser.set_defaults(run=run)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="answer with JSON on stdout, for programs")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_model_options(
    parser: argparse.ArgumentParser,
    model_help: str | None = None,
    *,
    takes_several: bool = False,
    also: str | None = None,
) -> None:
    """`--model` and how it is found and run. With `model_help`, a command's own default, stated there; with
    `takes_several`, the option may be repeated and gives a list; `also` is another spelling of it."""
    group = parser.add_argument_group("model")
    group.add_argument(
        *((also,) if also else ()),
        "--model",
        dest="model",
        metavar="NAME",
        action="append" if takes_several else "store",
        default=None if model_help else DEFAULT_MODEL,
        help="the reranker: a folder, a name on the Hugging Face hub such as cross-encoder/ettin-reranker-32m-v1, "
        f"or {DEFAULT_MODEL}, which comes with Runoff ({model_help or 'default: %(default)s'})",
    )
    add_run_options(group)


def add_run_options(group: Group) -> None:
    """How a model is found and run."""
    add_hub_options(group)
    group.add_argument(
        "--device",
        help="cpu; with the torch extra also cuda, cuda:1, several (cuda:0,cuda:1), all (cuda:*), mps "
        "(default: what is there)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "int8", "fp16", "fp8"),
        default="auto",
        help="of the arithmetic: int8 on a CPU alone, fp16 and fp8 on a GPU alone; `runoff info` says what auto means "
        "here (default: %(default)s)",
    )
    add_threads_option(group)
    group.add_argument(
        "--max-length",
        metavar="TOKENS",
        type=positive,
        help="most tokens of a query and a document together (default: the model's own limit)",
    )


def add_hub_options(group: Group) -> None:
    """How a model is found on the hub."""
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub (default: main)")
    group.add_argument(
        "--local-files-only", action="store_true", help="never ask the hub: only what was downloaded before"
    )


def add_threads_option(group: Group) -> None:
    group.add_argument(
        "--threads", metavar="COUNT", type=positive, help="of the CPU engine (default: physical cores)"
    )


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """What becomes of texts that are too long."""
    group = parser.add_argument_group("long texts")
    group.add_argument(
        "--truncation",
        choices=("longest_first", "document", "error"),
        default="longest_first",
        help="what gives way when a pair is too long: the longer text, always the document, or nothing "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--long-documents",
        choices=("truncate", "passages"),
        default="truncate",
        help="cut them, or score overlapping passages and keep the best score (default: %(default)s)",
    )


def load_reranker(options: argparse.Namespace, name: str | None = None) -> CrossEncoder:
    """The reranker that the options name; `name` where the command decides it."""
    from runoff.crossencoder import CrossEncoder

    return CrossEncoder(
        name or options.model,
        device=options.device,
        revision=options.revision,
        local_files_only=options.local_files_only,
        max_length=options.max_length,
        precision=options.precision,
        threads=options.threads,
        truncation=getattr(options, "truncation", "longest_first"),
        long_documents=getattr(options, "long_documents", "truncate"),
        token_budget=getattr(options, "batch_tokens", None),
    )


def load_embedder(options: argparse.Namespace, name: str, precision: Precision = "auto") -> Embedder:
    """The embedder `name`, on the device that the options name."""
    from runoff.embedder import Embedder

    return Embedder(
        name,
        device=options.device,
        precision=precision,
        threads=options.threads,
        local_files_only=options.local_files_only,
    )


def find_either(name: str, asked: ModelOptions) -> tuple[FoundModel, str]:
    """The model and its role, "reranker" or else "embedder"; loads no weights."""
    from runoff.contracts import CheckpointError, CheckpointNotFoundError
    from runoff.model import find

    try:
        return find(name, "reranker", asked), "reranker"
    except CheckpointNotFoundError:
        raise
    except CheckpointError as error:
        # It may be an embedder; if not, what was said of it as a reranker stands.
        try:
            return find(name, "embedder", asked), "embedder"
        except CheckpointError:
            raise error from None


def lasting_name(name: str) -> str:
    """A model's name as it can be written down: a local folder by its whole path."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def add_threshold_option(group: Group) -> None:
    group.add_argument(
        "--threshold",
        metavar="P",
        type=share,
        help="only documents whose probability of being relevant is P or more, from 0 to 1; the model needs a "
        "calibration (runoff calibrate)",
    )


# --- types of arguments: what argparse shows when they refuse --------------------------------------------


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return number


def number(text: str) -> float:
    """A number that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def query_text(text: str) -> str:
    """A query with something in it: an empty one is an unset shell variable."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a query, got an empty text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"expected a query in UTF-8, got {text!a}") from None
    return text


def is_terminal(stream: Any) -> bool:
    """Whether a person sits at `stream`."""
    return stream is not None and not stream.closed and stream.isatty()


def progress_bar(count: int | None, unit: str, options: argparse.Namespace) -> Any:
    """A bar with rate and time left, where a person sits at stderr and wants no JSON; else it counts in silence.
    `count` None: nobody knows how many there will be."""
    from tqdm import tqdm

    return tqdm(
        total=count, unit=f" {unit}", file=sys.stderr, disable=options.json or not is_terminal(sys.stderr)
    )


def stdin_is_terminal() -> bool:
    return is_terminal(sys.stdin)
