"""`runoff index`: make an index of documents, add to it, take from it, look after it."""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_model_options,
    lasting_name,
    load_embedder,
    load_reranker,
    new_command,
    positive,
)
from runoff.cli.terminal import Piece, Terminal, note, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import BadRow, Document
    from runoff.crossencoder import CrossEncoder
    from runoff.embedder import Embedder
    from runoff.search.index import Index, IngestOptions, IngestReport
    from runoff.search.settings import Settings

EXAMPLES = """\
  runoff index notes.index --from ~/notes                    text, Markdown, HTML and PDF files, cut to passages
  runoff index wiki.index --from leads.jsonl more.parquet    records; run it again to complete or to extend it
  runoff index shop.index --from items.csv --columns id=sku,text=about,title=name --types price=float
  runoff index notes.index --from ~/notes --upsert           replace what has changed
  runoff index notes.index --delete 'old.md#1' 'old.md#2'
  runoff index shop.index --delete-where "price > 100 AND title IS NULL"
"""

# Bad rows that a person is shown; --bad-rows keeps them all.
SHOWN_BAD_ROWS = 10
# A fifth of a passage is repeated from the one before it, as in the readers' own default.
PASSAGE_WORDS, OVERLAP_SHARE = 200, 5


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "index",
        run,
        summary="index documents to search in; add, replace, delete",
        description="Makes the index at PATH, or goes on with the one that is there. Whole batches are stored as it\n"
        "goes: stopped at any moment, the index opens, and the same command again completes it. Beside the\n"
        "texts it stores the reranker's token ids, so that a search never tokenises a document.",
        examples=EXAMPLES,
    )
    parser.add_argument("path", metavar="PATH", help="the folder of the index")
    _add_actions(parser)
    _add_document_options(parser)
    stored = parser.add_argument_group("what is stored, decided when the index is made")
    stored.add_argument(
        "--embedder", metavar="NAME", help="store its vectors too, for dense and hybrid search"
    )
    stored.add_argument("--no-tokens", action="store_true", help="store no token ids of a reranker")
    stored.add_argument(
        "--language",
        metavar="NAME",
        help="of the texts, for stemming and stop words; none: words as they stand (default: english)",
    )
    add_model_options(parser, f"default: the index's own; for a new one {DEFAULT_MODEL}, if it is installed")


def _add_actions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do, one of")
    action = group.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--from",
        dest="sources",
        metavar="DOCUMENTS",
        nargs="+",
        help="add the documents of these files and folders: jsonl, csv, tsv, parquet, a BEIR folder, or files of "
        "text, Markdown, HTML and PDF",
    )
    action.add_argument("--delete", metavar="ID", nargs="+", help="delete the documents of these ids")
    action.add_argument("--delete-where", metavar="FILTER", help="delete the documents that match, in SQL")
    action.add_argument(
        "--retokenize", action="store_true", help="replace the stored token ids by those of --model"
    )
    action.add_argument(
        "--optimize", action="store_true", help="tidy up after a run that was cut short, or many deletes"
    )


def _add_document_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--upsert",
        action="store_true",
        help="replace stored documents that differ (default: report them), and remove what files have no more",
    )
    group.add_argument(
        "--columns",
        metavar="id=A,text=B,title=C",
        type=named_columns,
        default={},
        help="which field of a record is what (default: the usual names; other fields become metadata)",
    )
    group.add_argument(
        "--types",
        metavar="FIELD=TYPE,...",
        type=field_types,
        default={},
        help="int, float or bool for fields that a csv holds as text, for filters",
    )
    group.add_argument(
        "--passages",
        metavar="WORDS",
        nargs="?",
        type=positive,
        const=PASSAGE_WORDS,
        help=f"cut records too into passages (default for files: {PASSAGE_WORDS} words; records stay whole)",
    )
    group.add_argument(
        "--bad-rows", metavar="FILE", help="write every record that was left out, as JSON lines"
    )
    group.add_argument("--stop-on-bad-row", action="store_true", help="stop at the first one instead")


def run(options: argparse.Namespace) -> None:
    path = Path(options.path).expanduser()
    if options.sources:
        _add(options, path)
    elif options.retokenize:
        _retokenize(options, path)
    else:
        _tend(options, path)


# --- adding ----------------------------------------------------------------------------------------------


def _add(options: argparse.Namespace, path: Path) -> None:
    from runoff.contracts import InputError
    from runoff.search.index import Index, preload

    stored = _stored_settings(path)
    records = _records(options)
    ingest = _ingest_options(options)
    preload()
    tokenizer, embedder = _token_model(options, stored), _vector_model(options, stored)
    is_new_folder = not path.exists()
    index = Index.create(path, tokenizer, embedder, _language(options, stored), exist_ok=True)
    try:
        report = (index.upsert if options.upsert else index.add)(records, ingest)
    except InputError:
        if stored is None:
            # Nothing usable came: what was made here must not bind the next try to its settings.
            _remove_if_empty(index, is_new_folder)
        raise
    if options.json:
        print_json({**asdict(report), "index": asdict(index.info())})
    else:
        _print_report(open_terminal(), report, index, options)


def _remove_if_empty(index: Index, with_folder: bool) -> None:
    """Takes away the files of an index that holds no document, and nothing else that lies beside them."""
    from runoff.search.settings import SETTINGS_FILE
    from runoff.search.table import LOCK_FILE, TABLE_FOLDER, writer_lock

    with writer_lock(index.path):
        index.refresh()  # another process may have filled it
        if len(index):
            return
        (index.path / SETTINGS_FILE).unlink()
        shutil.rmtree(index.path / TABLE_FOLDER)
        (index.path / LOCK_FILE).unlink()
    if with_folder:
        with suppress(OSError):  # not empty: somebody put something there meanwhile
            index.path.rmdir()


def _stored_settings(path: Path) -> Settings | None:
    """The settings of the index that is at `path`; None where one is to be made."""
    from runoff.search.settings import SETTINGS_FILE, load_settings

    return load_settings(path) if (path / SETTINGS_FILE).exists() else None


def _records(options: argparse.Namespace) -> Iterator[Document | BadRow]:
    """The records of every source; the first is read at once, so that a wrong path or an empty file shows."""
    from runoff.data.formats import Columns, PassageRule, read_sources

    columns = Columns(**options.columns, types=options.types)
    words = options.passages
    rule = None if words is None else PassageRule(words, words // OVERLAP_SHARE)
    records = read_sources([Path(each).expanduser() for each in options.sources], columns, rule)
    first = next(records)
    return itertools.chain([first], records)


def _ingest_options(options: argparse.Namespace) -> IngestOptions:
    from runoff.contracts import InputError
    from runoff.search.index import IngestOptions

    bad_rows = Path(options.bad_rows).expanduser() if options.bad_rows else None
    if bad_rows is not None:
        if bad_rows.is_dir() or not bad_rows.parent.is_dir():
            raise InputError(
                f"cannot write bad rows to {bad_rows}: expected a file in a folder that is there"
            )
        _check_outside(bad_rows, options.sources)
    return IngestOptions("stop" if options.stop_on_bad_row else "report", bad_rows)


def _check_outside(bad_rows: Path, sources: list[str]) -> None:
    """Refuses to write where documents are read: that would empty them, or never end."""
    from runoff.contracts import InputError

    place = bad_rows.resolve()
    for source in sources:
        if place.is_relative_to(Path(source).expanduser().resolve()):
            raise InputError(
                f"--bad-rows {bad_rows} is among the documents of {source}, which it would overwrite; "
                "write it somewhere else"
            )


def _token_model(options: argparse.Namespace, stored: Settings | None) -> CrossEncoder | None:
    """The reranker whose token ids the index stores; None where it stores none."""
    from runoff.contracts import InputError

    if options.no_tokens:
        if stored is not None and stored.tokenizer is not None:
            raise InputError(
                f"the index stores token ids of {stored.tokenizer.name}; to take them away: "
                f"runoff index {options.path} --retokenize --no-tokens"
            )
        return None
    if stored is not None and stored.tokenizer is None:
        if options.model is not None:
            raise InputError(
                f"the index at {options.path} stores no token ids. Leave --model out, or have them stored: "
                f"runoff index {options.path} --retokenize --model {options.model}"
            )
        return None
    name = options.model or (stored.tokenizer.name if stored and stored.tokenizer else _default_model())
    if name is None:
        note(
            f"{DEFAULT_MODEL} is not installed (pip install 'runoff[nano]'), so no token ids are stored; "
            "searches tokenise texts. Name another reranker with --model"
        )
        return None
    model = load_reranker(options, lasting_name(name))
    if model.tokenizer_fingerprint is None:
        note(f"{name} is run by sentence-transformers, which takes texts only: no token ids are stored")
        return None
    return model


def _default_model() -> str | None:
    import importlib.util

    from runoff.checkpoint.hub import BUNDLED

    return DEFAULT_MODEL if importlib.util.find_spec(BUNDLED[DEFAULT_MODEL]) else None


def _vector_model(options: argparse.Namespace, stored: Settings | None) -> Embedder | None:
    name = options.embedder or (stored.embedder.name if stored and stored.embedder else None)
    return load_embedder(options, lasting_name(name), options.precision) if name else None


def _language(options: argparse.Namespace, stored: Settings | None) -> str | None:
    if options.language is None:
        return stored.language if stored else "english"
    name: str = options.language.lower()
    return None if name == "none" else name


def _print_report(
    terminal: Terminal, report: IngestReport, index: Index, options: argparse.Namespace
) -> None:
    removed = f"{report.removed:,} removed, " if report.removed else ""
    terminal.line(
        Piece(f"{report.added:,} documents added", "bold"),
        f", {report.updated:,} updated, {report.unchanged:,} unchanged, {removed}"
        f"{report.bad:,} bad rows, in {report.seconds:.1f} s",
    )
    for row in report.bad_rows[:SHOWN_BAD_ROWS]:
        terminal.line(Piece("  left out  ", "yellow"), str(row))
    if report.bad > SHOWN_BAD_ROWS:
        kept = f"all are in {options.bad_rows}" if options.bad_rows else "--bad-rows FILE writes them all"
        terminal.line(f"  ... and {report.bad - SHOWN_BAD_ROWS:,} more; {kept}")
    _print_state(terminal, index)
    terminal.line("search it: ", Piece(f'runoff search "..." --index {options.path}', "cyan"))


def _print_state(terminal: Terminal, index: Index) -> None:
    info = index.info()
    holds = [f"{info.path} holds {info.documents:,} documents in {info.bytes_on_disk / 1e6:,.1f} MB"]
    holds += [f"token ids of {info.tokenizer}"] if info.tokenizer else ["no token ids"]
    holds += [f"vectors of {info.embedder}"] if info.embedder else []
    terminal.line(", ".join(holds))


# --- the rest --------------------------------------------------------------------------------------------


def _retokenize(options: argparse.Namespace, path: Path) -> None:
    from runoff.search.index import Index

    index = Index.open(path)
    name = None if options.no_tokens else options.model or DEFAULT_MODEL
    index.retokenize(load_reranker(options, lasting_name(name)) if name else None)
    _finish(options, index, {"retokenized": len(index) if name else 0})


def _tend(options: argparse.Namespace, path: Path) -> None:
    from runoff.search.index import Index

    index = Index.open(path)
    if options.optimize:
        index.optimize()
        _finish(options, index, {"optimized": True})
    else:
        deleted = index.delete(ids=options.delete, where=options.delete_where)
        _finish(options, index, {"deleted": deleted})


def _finish(options: argparse.Namespace, index: Index, done: dict[str, Any]) -> None:
    if options.json:
        print_json({**done, "index": asdict(index.info())})
        return
    terminal = open_terminal()
    if "deleted" in done:
        asked = f" of {len(set(options.delete)):,} ids" if options.delete else ""
        terminal.line(Piece(f"{done['deleted']:,} documents deleted", "bold"), asked)
    _print_state(terminal, index)


# --- types of arguments ----------------------------------------------------------------------------------


def named_columns(text: str) -> dict[str, str]:
    """ "id=A,text=B" as {"id": "A", "text": "B"}."""
    columns = _assignments(text)
    if unknown := sorted(set(columns) - {"id", "text", "title"}):
        raise argparse.ArgumentTypeError(f"expected columns for id, text and title, got {', '.join(unknown)}")
    return columns


def field_types(text: str) -> dict[str, type]:
    """ "year=int" as {"year": int}."""
    kinds: dict[str, type] = {"int": int, "float": float, "bool": bool}
    types = _assignments(text)
    if unknown := sorted(set(types.values()) - set(kinds)):
        raise argparse.ArgumentTypeError(f"expected the types int, float and bool, got {', '.join(unknown)}")
    return {field: kinds[name] for field, name in types.items()}


def _assignments(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE with commas between, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}
