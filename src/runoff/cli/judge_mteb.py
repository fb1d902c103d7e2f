"""`runoff judge mteb`: rerankers over the lists of several embedders on mteb's retrieval tasks, by mteb itself."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runoff.cli.contestants import folders_apart
from runoff.cli.machine import circumstances
from runoff.cli.mteb_tables import line_of, markdown, print_tables
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_model_options,
    load_embedder,
    load_reranker,
    new_command,
    positive,
    progress_bar,
)
from runoff.cli.terminal import Column, Piece, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.evaluate.mteb import Cell, Missing
    from runoff.evaluate.mteb_models import FirstStage, Identity, PairScorer, RerankerModel, TextEncoder

EXAMPLES = """\
  runoff judge mteb --out mteb --list                               what would run, and how many pairs that is
  runoff judge mteb --reranker runoff-nano --out mteb               six embedders, ten tasks
  runoff judge mteb --task SCIDOCS --embedder bm25 --out mteb       one task over BM25's lists
  runoff judge mteb --judged scifact nfcorpus --out mteb            folders of your own; no dataset is fetched
"""

EMBEDDERS = (
    "sentence-transformers/static-retrieval-mrl-en-v1",
    "sentence-transformers/all-MiniLM-L6-v2",
    "BAAI/bge-small-en-v1.5",
    "nomic-ai/nomic-embed-text-v1.5",
    "google/embeddinggemma-300m",
    "jinaai/jina-embeddings-v5-text-small-retrieval",
)
"""Those of the article on the Ettin rerankers."""

LINES, TABLES = "results.jsonl", "results.md"
DISTRIBUTIONS = (
    *("numpy", "tokenizers", "mteb", "bm25s", "pytrec_eval-terrier"),
    *("torch", "transformers", "sentence-transformers", "datasets"),
)


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "judge-mteb",
        run,
        summary=None,
        description="Retrieves by each embedder and has each reranker order its best DEPTH: mteb's evaluation\n"
        "in two stages, by mteb itself, with its result files. What the folder --out has whole is not\n"
        "computed again. (A folder that is called mteb is judged by `runoff judge ./mteb`.)",
        examples=EXAMPLES,
    )
    parser.prog = "runoff judge mteb"
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument("--benchmark", metavar="NAME", help="its retrieval tasks (default: MTEB(eng, v2))")
    tasks.add_argument("--task", metavar="NAME", nargs="+", help="some of the benchmark's tasks")
    tasks.add_argument(
        "--judged",
        metavar="FOLDER",
        nargs="+",
        type=Path,
        help="judged sets instead: BEIR folders, as tasks of mteb",
    )
    stages = parser.add_argument_group("first stage")
    stages.add_argument(
        "--embedder",
        metavar="NAME",
        nargs="+",
        help="folders, names on the hub, or bm25 (default: the six embedders of the article on the Ettin rerankers)",
    )
    stages.add_argument(
        "--depth", metavar="N", type=positive, default=100, help="documents reranked (default: %(default)s)"
    )
    add_model_options(
        parser, f"may be repeated; default: {DEFAULT_MODEL}", takes_several=True, also="--reranker"
    )
    batches = parser.add_argument_group("batches")
    batches.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=32,
        help="most pairs or texts of a batch (default: %(default)s, mteb's own)",
    )
    batches.add_argument(
        "--batch-tokens",
        metavar="N",
        type=positive,
        help="most tokens of a packed batch (default: the engine's own)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--out", metavar="FOLDER", type=Path, required=True, help="takes and keeps everything"
    )
    results.add_argument("--list", action="store_true", help="say what would run; load and write nothing")


def run(options: argparse.Namespace) -> None:
    from runoff.contracts import InputError

    for names in (options.embedder or (), options.model or (), options.task or ()):
        if len(set(names)) < len(names):
            raise InputError(f"a name was given twice: {', '.join(names)}")
    tasks = _tasks(options)
    if options.list:
        _list(options, tasks)
        return
    _judge(options, tasks)


def _tasks(options: argparse.Namespace) -> list[Any]:
    from runoff.contracts import InputError
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.mteb_tasks import BENCHMARK, benchmark_tasks, offline_task

    if options.judged is None:
        return benchmark_tasks(options.benchmark or BENCHMARK, options.task or ())
    if options.benchmark or options.task:
        raise InputError("--judged takes the place of a benchmark: leave out --benchmark and --task")
    sets = [read_judged(folder.expanduser()) for folder in options.judged]
    names = [judged.name for judged in sets]
    if len(set(names)) < len(names):
        raise InputError(f"expected judged sets of different names, got {', '.join(names)}")
    return [offline_task(judged) for judged in sets]


def _judge(options: argparse.Namespace, tasks: Sequence[Any]) -> None:
    from runoff.contracts import HubError
    from runoff.data.atomic import replace_file
    from runoff.evaluate.mteb import Order, judge_mteb
    from runoff.evaluate.mteb_tasks import size

    stages, missing = _first_stages(options)
    rerankers, unreached = _rerankers(options)
    missing += unreached
    out = options.out.expanduser()
    settings = {"precision": options.precision, "max_length": options.max_length}
    order = Order(out, tasks, stages, rerankers, options.depth, options.batch_size, settings)
    about = {"command": _command(options), **circumstances(DISTRIBUTIONS)}
    lines: list[dict[str, Any]] = []
    first: dict[tuple[str, Identity], Cell] = {}
    whole = sum(size(task).pairs(options.depth) or 0 for task in tasks) * len(stages) * len(rerankers)
    with progress_bar(whole, "pairs", options) as bar:
        for reranker in rerankers:
            reranker.advance = bar.update

        def tell(cell: Cell, is_new: bool) -> None:
            stage = first.setdefault((cell.task, cell.first_stage or cell.model), cell)
            lines.append(line_of(cell, stage))
            bar.update(0 if is_new else cell.pairs)
            # After each cell, so that what is known outlasts whatever ends the next.
            found = "".join(json.dumps(line | about, ensure_ascii=False) + "\n" for line in lines)
            replace_file(out / LINES, found)

        missing += judge_mteb(order, tell)
    replace_file(out / TABLES, markdown(lines, list(map(str, missing))))
    if options.json:
        for line in lines:
            print_json(line | about, indent=None)
    else:
        terminal = open_terminal()
        print_tables(terminal, lines)
        scored = sum(reranker.scored_pairs for reranker in rerankers)
        terminal.line(f"{options.out}: {len(lines)} figures, {scored:,} pairs scored now; {LINES}, {TABLES}")
    if missing:
        raise HubError(f"not judged: {'; '.join(map(str, missing))}. The rest is in {options.out}")


# --- the models ------------------------------------------------------------------------------------------


def _first_stages(options: argparse.Namespace) -> tuple[list[FirstStage], list[Missing]]:
    from runoff.contracts import CheckpointError
    from runoff.evaluate.mteb import Missing
    from runoff.evaluate.mteb_models import BM25, Bm25Model, EmbedderModel

    given = options.embedder or list(EMBEDDERS)
    named = _called(given, "embedder")
    found: list[FirstStage] = []
    missing = []
    for name in given:
        if name == BM25:
            found.append(Bm25Model())
            continue
        try:
            identity = _identity(name, named[name], "embedder", options)
        except CheckpointError as error:
            missing.append(Missing("embedder", name, str(error)))
            continue
        found.append(EmbedderModel(identity, partial(_embedder, name, options)))
    return found, missing


def _rerankers(options: argparse.Namespace) -> tuple[list[RerankerModel], list[Missing]]:
    from runoff.contracts import CheckpointError
    from runoff.evaluate.mteb import Missing
    from runoff.evaluate.mteb_models import RerankerModel

    given = options.model or [DEFAULT_MODEL]
    named = _called(given, "reranker")
    found, missing = [], []
    for name in given:
        try:
            identity = _identity(name, named[name], "reranker", options)
        except CheckpointError as error:
            missing.append(Missing("reranker", name, str(error)))
            continue
        found.append(RerankerModel(identity, partial(_reranker, name, options)))
    return found, missing


def _embedder(name: str, options: argparse.Namespace) -> TextEncoder:
    """Runoff's own engines where they know the architecture, else sentence-transformers; never with a model's code."""
    from runoff.evaluate.mteb_models import TextEncoder, registered_prompts

    model = load_embedder(options, name, options.precision)
    own = {kind: text for kind in ("query", "document") if (text := model.prompts.get(kind))}
    prompts = own or registered_prompts(name)
    model.prompts |= prompts

    def vectors_of(texts: Sequence[str], kind: Literal["query", "document"], batch_size: int) -> Any:
        encode = model.encode_query if kind == "query" else model.encode_document
        return encode(texts, batch_size=batch_size, show_progress_bar=False)

    facts = {"engine": model.choice.engine, "precision": model.choice.precision, "prompts": prompts}
    return TextEncoder(vectors_of, model.similarity, facts)


def _reranker(name: str, options: argparse.Namespace) -> PairScorer:
    from runoff.evaluate.mteb_models import PairScorer

    model = load_reranker(options, name)

    def scores_of(pairs: Sequence[tuple[str, str]], batch_size: int) -> Any:
        return model.predict(pairs, batch_size=batch_size, activation_fn="identity", show_progress_bar=False)

    choice = model.choice
    return PairScorer(
        scores_of,
        {"engine": choice.engine, "precision": choice.precision, "max_length": model.max_seq_length},
    )


def _called(given: Sequence[str], role: Literal["embedder", "reranker"]) -> dict[str, str]:
    """Name on the command line -> ORG/NAME in mteb's files: of folders as much of the path as tells them apart."""
    from runoff.checkpoint.hub import BUNDLED, hub_id

    apart, called = folders_apart(given), {}
    for name in given:
        if name in apart:
            called[name] = f"local/{apart[name]}"
        else:
            called[name] = f"runoff/{name}" if name in BUNDLED else hub_id(name, role)
    return called


def _identity(
    given: str, called: str, role: Literal["embedder", "reranker"], options: argparse.Namespace
) -> Identity:
    """Raises `CheckpointNotFoundError` where the model cannot be found."""
    from runoff.checkpoint.hub import find_model
    from runoff.evaluate.mteb_models import Identity

    revision = options.revision if role == "reranker" else None
    folder = find_model(given, role, revision=revision, local_files_only=options.local_files_only)
    return Identity(called, revision_of(folder))


def revision_of(folder: Path) -> str:
    """The commit of a model in the hub's cache; of any other folder the SHA-256 of its weights and its small files,
    since another prompt or tokenizer gives other scores too."""
    from runoff.checkpoint.modular import small_files, weight_digests

    if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    digest = hashlib.sha256(json.dumps(weight_digests(folder)).encode())
    for name in small_files(folder):
        digest.update(json.dumps([name, hashlib.sha256((folder / name).read_bytes()).hexdigest()]).encode())
    return digest.hexdigest()


# --- what is said ----------------------------------------------------------------------------------------


def _command(options: argparse.Namespace) -> str:
    """The command line, with names that mean something on another machine."""
    words = ["runoff", "judge", "mteb"]
    for option, given in (("--benchmark", [options.benchmark]), ("--task", options.task)):
        words += [option, *given] if given and given[0] else []
    if options.judged:
        words += ["--judged", *(folder.expanduser().resolve().name for folder in options.judged)]
    if options.embedder:
        words += ["--embedder", *map(_public, options.embedder)]
    for name in options.model or [DEFAULT_MODEL]:
        words += ["--reranker", _public(name)]
    words += ["--depth", str(options.depth), "--batch-size", str(options.batch_size)]
    for option in ("batch_tokens", "max_length"):
        if (value := getattr(options, option)) is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--precision", options.precision, "--out", options.out.name])


def _public(name: str) -> str:
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else name


def _list(options: argparse.Namespace, tasks: Sequence[Any]) -> None:
    from runoff.evaluate.mteb_tasks import size

    embedders, rerankers = options.embedder or list(EMBEDDERS), options.model or [DEFAULT_MODEL]
    rows = []
    for task in tasks:
        known = size(task)
        pairs = known.pairs(options.depth)
        rows.append(
            {
                "task": task.metadata.name,
                "queries": known.queries,
                "documents": known.documents,
                "pairs": None if pairs is None else pairs * len(embedders) * len(rerankers),
            }
        )
    whole = sum(row["pairs"] or 0 for row in rows)
    if options.json:
        print_json({"embedders": embedders, "rerankers": rerankers, "tasks": rows, "pairs": whole})
        return
    terminal = open_terminal()
    for kind, names in (("embedders", embedders), ("rerankers", rerankers)):
        terminal.line(Piece(f"{kind}  ", "bold"), ", ".join(names))
    titles = ("queries", "documents", "pairs")
    columns = [Column("task"), *(Column(title, is_number=True) for title in titles)]
    terminal.table(columns, [[row["task"], *(_number(row, title) for title in titles)] for row in rows])
    terminal.line(f"{whole:,} pairs to score at most, the best {options.depth} documents of each query")


def _number(row: Mapping[str, Any], name: str) -> str:
    return "?" if row[name] is None else f"{row[name]:,}"
