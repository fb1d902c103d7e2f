"""`runoff demo`: a whole search on real documents, each question before and after reranking."""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.hits import duration, print_passages, print_ranking, print_timings, result_record
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_model_options,
    lasting_name,
    load_reranker,
    new_command,
    positive,
    query_text,
)
from runoff.cli.terminal import Piece, Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import BadRow, Document
    from runoff.crossencoder import CrossEncoder
    from runoff.search.index import Index, IngestReport
    from runoff.search.pipeline import SearchResult

EXAMPLES = """\
  runoff demo                                                the documentation of Python's library
  runoff demo "how do I stop a thread"                       a question of your own
  runoff demo --model cross-encoder/ettin-reranker-32m-v1    a stronger reranker, from the Hugging Face hub
  runoff demo --documents ~/notes "when is the boiler due"   your own documents
"""

# Each asks for a document that has few of its words, while others have more.
LIBRARY_QUESTIONS = (
    "how do I run a program and read what it prints",
    "remove a folder with everything in it",
    "find the middle value of a list of numbers",
    "how to keep the last few items and forget older ones",
    "is it a leap year",
)
# Beside an index that a demo made and kept: what it is made of.
DEMO_MARK = "runoff-demo.txt"

ENCYCLOPEDIA_QUESTIONS = (
    "which animal is the fastest runner on land",
    "how do bees make honey",
    "why do leaves change colour in autumn",
)


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "demo",
        run,
        summary="see a search before and after reranking, on documents that are at hand",
        description="Indexes documents, finds candidates for each question by their words (BM25), has the reranker\n"
        "read them, and shows both orders side by side, with scores and timings. Without --documents it takes the\n"
        "docstrings of Python's standard library: nothing is downloaded.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "questions",
        metavar="QUESTION",
        nargs="*",
        type=query_text,
        help="what to ask (default: some built-in questions; with --documents, of general knowledge)",
    )
    parser.add_argument(
        "--documents", metavar="PATH", help="a file or folder to search in, as `runoff index --from` takes it"
    )
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="keep the index there, for the next demo too (default: it is deleted at the end)",
    )
    parser.add_argument(
        "--top-k",
        metavar="K",
        type=positive,
        default=5,
        help="places shown per question (default: %(default)s)",
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    from runoff.search.pipeline import Search
    from runoff.search.table import preload

    documents, called, collection = _documents(options)
    preload()
    model = _load_model(options)
    terminal = None if options.json else open_terminal()
    with _index_folder(options.index) as folder:
        index, report = _indexed(folder, model, documents, collection)
        if terminal:
            _print_collection(terminal, index, report, called, model)
        search = Search(index, model)
        results = []
        for question in _questions(options):
            results.append(search.search(question, options.top_k))
            if terminal:
                _print_answer(terminal, results[-1], model.name)
        if terminal:
            _print_end(terminal, options, results)
        else:
            _print_json(options, index, report, results, model)


def _documents(options: argparse.Namespace) -> tuple[Iterator[Document | BadRow], str, str]:
    """The collection, what a person would call it, and what it is known by."""
    if options.documents:
        from runoff.data.formats import read_documents

        path = Path(options.documents).expanduser()
        return read_documents(path), path.name, str(path.resolve())
    from runoff.cli.library import library_documents

    called = "docstrings of Python's standard library"
    return library_documents(), called, f"{called} {platform.python_version()}"


def _questions(options: argparse.Namespace) -> tuple[str, ...]:
    if options.questions:
        return tuple(options.questions)
    return ENCYCLOPEDIA_QUESTIONS if options.documents else LIBRARY_QUESTIONS


def _load_model(options: argparse.Namespace) -> CrossEncoder:
    from runoff.contracts import CheckpointNotFoundError

    try:
        return load_reranker(options, lasting_name(options.model))
    except CheckpointNotFoundError as error:
        if options.model == DEFAULT_MODEL:
            raise
        raise CheckpointNotFoundError(
            f"{error}. Or leave --model out: {DEFAULT_MODEL} comes with Runoff and needs no network"
        ) from error


@contextmanager
def _index_folder(kept: str | None) -> Iterator[Path]:
    if kept:
        yield Path(kept).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="runoff-demo-") as folder:
        yield Path(folder) / "demo.index"


def _indexed(
    folder: Path, model: CrossEncoder, documents: Iterator[Document | BadRow], collection: str
) -> tuple[Index, IngestReport]:
    """The index with all the documents; one that an earlier demo kept of the same collection gets this model's
    tokens. Raises `InputError` for any other index that holds documents."""
    from runoff.contracts import InputError
    from runoff.search.index import Index
    from runoff.search.settings import SETTINGS_FILE

    tokenizer = model if model.tokenizer_fingerprint is not None else None
    mark = folder / DEMO_MARK
    if (folder / SETTINGS_FILE).is_file():
        kept = Index.open(folder)
        made_of = mark.read_text(encoding="utf-8") if mark.is_file() else "other documents"
        if len(kept) and made_of != collection:
            raise InputError(
                f"the index at {folder} holds {made_of}, to which the demo would add {collection}. Choose another "
                f"folder for --index, or search what is there: runoff search --index {folder}"
            )
        named = kept.tokenizer.fingerprint if kept.tokenizer else None
        if named != model.tokenizer_fingerprint:
            kept.retokenize(tokenizer)
    index = Index.create(folder, tokenizer, exist_ok=True)
    mark.write_text(collection, encoding="utf-8")
    return index, index.upsert(documents)


# --- what is shown ---------------------------------------------------------------------------------------


def _print_collection(
    terminal: Terminal, index: Index, report: IngestReport, called: str, model: CrossEncoder
) -> None:
    written = report.added + report.updated
    done = f"indexed in {duration(report.seconds * 1e3)}" if written else "indexed before"
    speed = f" ({written / report.seconds:,.0f} a second)" if written else ""
    terminal.line(Piece(f"{len(index):,} documents", "bold"), f" ({called}): {done}{speed}")
    choice = model.choice
    terminal.line(
        Piece(model.name, "bold"), f" reranks, on {choice.device} in {choice.precision}: {choice.reason}"
    )


def _print_answer(terminal: Terminal, result: SearchResult, model: str) -> None:
    terminal.line()
    terminal.line(Piece(f"? {result.query.text}", "bold cyan"))
    print_ranking(terminal, result, model)
    print_passages(terminal, result.hits[:1])
    print_timings(terminal, dict(result.timings))


def _print_end(terminal: Terminal, options: argparse.Namespace, results: list[SearchResult]) -> None:
    count = len(results)
    mean = {stage: _mean(results, stage) for stage in ("retrieve", "rerank", "total")}
    changed = sum(_first_id(result.before) != _first_id(result.hits) for result in results)
    terminal.line()
    terminal.line(
        Piece(f"{count} questions", "bold"),
        f": another document in first place for {changed}. On average {duration(mean['retrieve'])} to retrieve, "
        f"{duration(mean['rerank'])} to rerank, {duration(mean['total'])} in all",
    )
    terminal.line()
    terminal.line("next, type:")
    where = options.index or "notes.index"
    if not options.index:
        terminal.line(
            Piece(f"  runoff index {where} --from ~/notes", "cyan"), "    a folder or file of your own"
        )
    terminal.line(Piece(f"  runoff search --index {where}", "cyan"), "    and ask it")
    terminal.line(Piece("  runoff --help", "cyan"))


def _first_id(hits: Any) -> str | None:
    return hits[0].id if hits else None


def _mean(results: list[SearchResult], stage: str) -> float:
    return sum(result.timings.get(stage, 0.0) for result in results) / len(results)


def _print_json(
    options: argparse.Namespace,
    index: Index,
    report: IngestReport,
    results: list[SearchResult],
    model: CrossEncoder,
) -> None:
    records = [result_record(result, options.top_k, dict(result.timings)) for result in results]
    print_json({"model": model.name, **asdict(report), "documents": len(index), "results": records})
