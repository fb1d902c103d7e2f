"""`runoff score`: the score of each pair, in the order given."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from runoff.cli.options import (
    Commands,
    add_model_options,
    add_text_options,
    is_terminal,
    load_reranker,
    new_command,
)
from runoff.cli.terminal import Terminal, open_terminal, print_json

# Pairs scored and printed at a time: enough to fill batches with texts of like length.
CHUNK_PAIRS = 1024

EXAMPLES = """\
  runoff score "how tall is K2" "K2 is 8,611 m high." "K2 is a mountain."
  runoff score --pairs pairs.tsv > scores.tsv           a query, a tab and a document on each line
  runoff score --pairs pairs.jsonl --json               {"query": ..., "document": ...} on each line
  paste queries.txt documents.txt | runoff score --pairs - --raw
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "score",
        run,
        summary="score pairs of a query and a document, in the order given",
        description="Prints the score of every pair, a thousand pairs at a time: a line each, with the score, the\n"
        "query and the document between tabs, or with --json an object each. To order documents use `runoff rank`.",
        examples=EXAMPLES,
    )
    parser.add_argument("query", metavar="QUERY", nargs="?")
    parser.add_argument("texts", metavar="DOCUMENT", nargs="*", help="a text to score against the query")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="pairs from a file (- for stdin): a query, a tab and a document a line, or JSON lines",
    )
    parser.add_argument(
        "--raw", action="store_true", help="the model's own outputs (logits), before its activation function"
    )
    add_model_options(parser)
    add_text_options(parser)


def run(options: argparse.Namespace) -> None:
    pairs = _pairs(options)
    # The first pair is read before the model is loaded: a wrong path shows at once.
    first = next(pairs, None)
    reranker = load_reranker(options)
    stream = pairs if first is None else itertools.chain([first], pairs)
    terminal = None if options.json or not is_terminal(sys.stdout) else open_terminal()
    activation = "identity" if options.raw else None
    while chunk := list(itertools.islice(stream, CHUNK_PAIRS)):
        shows_progress = len(chunk) == CHUNK_PAIRS and is_terminal(sys.stderr)
        scores: Any = reranker.predict(chunk, activation_fn=activation, show_progress_bar=shows_progress)
        for (query, document), score in zip(chunk, scores, strict=True):
            numbers = [float(number) for number in score.reshape(-1)]
            if options.json:
                value = numbers[0] if len(numbers) == 1 else numbers
                print_json({"score": value, "query": query, "document": document}, indent=None)
            else:
                _print_line(terminal, numbers, query, document)


def _pairs(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    from runoff.cli.inputs import read_pairs
    from runoff.contracts import InputError

    if options.pairs and options.query is not None:
        raise InputError("expected a query with documents, or --pairs FILE, got both. Leave one out")
    if options.pairs:
        yield from read_pairs(options.pairs)
    elif options.query is None or not options.texts:
        raise InputError(
            'nothing to score: give a query and documents (runoff score "a query" "a document"), or pairs '
            "in a file: --pairs FILE (- for stdin)"
        )
    else:
        yield from ((options.query, text) for text in options.texts)


def _print_line(terminal: Terminal | None, numbers: list[float], query: str, document: str) -> None:
    """For a person, cut to the width; for a file, whole, with tabs between the fields."""
    query, document = " ".join(query.split()), " ".join(document.split())
    if terminal is None:
        shown = " ".join(f"{number:.6f}" for number in numbers)
        sys.stdout.write(f"{shown}\t{query}\t{document}\n")
        return
    shown = " ".join(f"{number:9.4f}" for number in numbers)
    room = max(terminal.width - len(shown) - 6, 20)
    terminal.line(f"{shown}  {_cut(query, room // 3)}  {_cut(document, room - room // 3)}")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
