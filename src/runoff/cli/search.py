"""`runoff search`: find in an index, rerank, and show what the reranker changed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.hits import print_passages, print_ranking, print_timings, result_record
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    Group,
    add_model_options,
    add_threshold_option,
    lasting_name,
    load_embedder,
    load_reranker,
    new_command,
    positive,
    query_text,
    share,
    stdin_is_terminal,
)
from runoff.cli.terminal import Piece, Terminal, note, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import Query
    from runoff.embedder import Embedder
    from runoff.search.pipeline import Search, SearchResult
    from runoff.search.settings import Settings

TOP_K, RUN_TOP_K = 10, 100

EXAMPLES = """\
  runoff search "when is the boiler due" --index notes.index
  runoff search --index notes.index                                      asks for queries, one after the other
  runoff search "red wine" --index shop.index --where "price < 20" --top-k 5
  runoff search "heat pumps" --index notes.index --retrieve hybrid --rerank-weight 0.7
  runoff search --queries queries.tsv --run out.trec --index wiki.index  a run to judge with trec_eval
  runoff search "heat pumps" --index notes.index --json | jq -r '.hits[].id'
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "search",
        run,
        summary="search an index and rerank what is found",
        description="Finds candidates in an index by their words (or vectors, or both), has the reranker read the\n"
        "best of them, and shows both orders side by side. Without a query it asks for one after the other.",
        examples=EXAMPLES,
    )
    parser.add_argument("query", metavar="QUERY", nargs="?", type=query_text)
    parser.add_argument("--index", metavar="PATH", required=True, help="made by `runoff index`")
    parser.add_argument(
        "--queries",
        metavar="FILE",
        help="a query a line, or jsonl, csv or tsv with ids, or a BEIR folder",
    )
    parser.add_argument(
        "--run",
        dest="run_file",
        metavar="FILE",
        help="write the results of --queries as a TREC run, whole or not at all; stopped midway, the same command "
        "goes on where it was",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=positive, help=f"hits per query (default: {TOP_K}; {RUN_TOP_K} in a run)"
    )
    parser.add_argument(
        "--passages",
        metavar="N",
        type=positive,
        default=3,
        help="texts shown (default: the best %(default)s)",
    )
    _add_search_options(parser)
    add_model_options(parser, f"default: whose tokens the index stores, else {DEFAULT_MODEL}")


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to search")
    add_retrieval_options(group)
    group.add_argument(
        "--depth",
        metavar="N",
        type=positive,
        default=100,
        help="candidates that are reranked (default: %(default)s)",
    )
    group.add_argument(
        "--rerank-weight",
        metavar="SHARE",
        type=share,
        default=1.0,
        help="from 0 to 1: the rest is the first stage's; 0.5 suits runoff-nano (default: %(default)s, reranker alone)",
    )
    add_threshold_option(group)
    group.add_argument("--no-rerank", action="store_true", help="leave the first stage's order as it is")
    group.add_argument(
        "--tokens",
        choices=("auto", "stored", "text"),
        default="auto",
        help="what the reranker reads: the stored token ids where there are any, always those, or the texts "
        "(default: %(default)s)",
    )


def add_retrieval_options(group: Group) -> None:
    """How candidates are found."""
    group.add_argument("--where", metavar="FILTER", help="only documents that match, in SQL: \"lang = 'en'\"")
    group.add_argument(
        "--retrieve",
        choices=("bm25", "dense", "hybrid"),
        default="bm25",
        help="candidates by words, by vectors, or both (default: %(default)s)",
    )
    group.add_argument(
        "--fusion",
        choices=("rrf", "zscore"),
        default="rrf",
        help="how hybrid fuses them (default: %(default)s)",
    )
    group.add_argument("--embedder", metavar="NAME", help="of the query's vector (default: the index's own)")


def run(options: argparse.Namespace) -> None:
    from runoff.search.settings import load_settings

    began = time.perf_counter()
    _check(options)
    path = Path(options.index).expanduser()
    settings = load_settings(path)
    queries = _queries(options)
    search = open_search(options, path, settings)
    load = (time.perf_counter() - began) * 1e3
    if options.run_file:
        from runoff.cli.trec_run import write_run

        write_run(options, search, queries or [], options.top_k or RUN_TOP_K)
        return
    for result in _results(options, search, queries):
        timings = {"load": load, **result.timings}
        timings["total"] += load
        _print(options, search, result, timings)
        load = 0.0


def _check(options: argparse.Namespace) -> None:
    """Refuses what does not go together, before anything is loaded."""
    from runoff.contracts import InputError

    if options.query is not None and options.queries:
        raise InputError("expected a query or --queries FILE, got both. Leave one out")
    if options.run_file and not options.queries:
        raise InputError("--run writes the results of many queries: give them with --queries FILE")
    if options.threshold is not None and (options.no_rerank or options.run_file):
        raise InputError(
            "--threshold needs the reranker's scores and shows fewer hits: it goes with neither --no-rerank nor --run"
        )
    if options.query is None and not options.queries and not stdin_is_terminal():
        raise InputError(
            'no query: give one (runoff search "a query" --index PATH), or a file of them with --queries FILE; '
            "on a terminal, it would be asked for"
        )


def _queries(options: argparse.Namespace) -> list[Query] | None:
    """The queries of the command line or of its file; None where they are asked for."""
    from runoff.contracts import Query

    if options.queries:
        from runoff.data.formats import read_queries

        return read_queries(Path(options.queries).expanduser())
    return None if options.query is None else [Query(options.query)]


def open_search(options: argparse.Namespace, path: Path, settings: Settings) -> Search:
    """The search that the options describe, over the index at `path` whose settings were read."""
    from runoff.calibration.stored import required
    from runoff.search.table import preload

    preload()  # lance is imported while the model loads
    reranker = None
    if not options.no_rerank:
        stored = settings.tokenizer.name if settings.tokenizer else DEFAULT_MODEL
        reranker = load_reranker(options, options.model or stored)
        if options.threshold is not None:
            required(reranker.calibration, reranker.name)
    embedder = query_embedder(options, settings)
    from runoff.search.index import Index
    from runoff.search.pipeline import Search, SearchOptions

    index = Index.open(path, embedder=embedder)
    if settings.state == "incomplete":
        note(f"the index at {path} is incomplete: its last `runoff index` was cut short; run it again")
    return Search(
        index,
        reranker,
        embedder,
        SearchOptions(
            retrieve=options.retrieve,
            fusion=options.fusion,
            depth=options.depth,
            rerank_weight=options.rerank_weight,
            tokens=options.tokens,
        ),
    )


def query_embedder(options: argparse.Namespace, settings: Settings) -> Embedder | None:
    from runoff.contracts import InputError

    if options.retrieve == "bm25":
        return None
    if settings.embedder is None:
        raise InputError(
            f"--retrieve {options.retrieve} needs vectors, and the index at {options.index} has none. Make it anew "
            "with runoff index PATH --from DOCUMENTS --embedder NAME, or search by bm25"
        )
    return load_embedder(options, lasting_name(options.embedder or settings.embedder.name))


# --- queries and answers ---------------------------------------------------------------------------------


def _results(
    options: argparse.Namespace, search: Search, queries: list[Query] | None
) -> Iterator[SearchResult]:
    top_k = options.top_k or TOP_K
    # Fused hits are not in the order of their probabilities: one behind the first K may take a place that is free.
    wanted = top_k if options.threshold is None else max(top_k, options.depth)
    for query in _asked(options) if queries is None else queries:
        result = search.search(query, wanted, options.where)
        yield result if options.threshold is None else _probable(result, search, options.threshold, top_k)


def _probable(result: SearchResult, search: Search, threshold: float, top_k: int) -> SearchResult:
    """The best `top_k` hits that the reranker saw and finds at least so probable, with their probabilities."""
    from runoff.calibration.stored import required
    from runoff.crossencoder import CrossEncoder

    assert isinstance(search.reranker, CrossEncoder)
    calibration = required(search.reranker.calibration, search.reranker.name)
    seen = [hit for hit in result.hits if "rerank" in hit.scores]
    found = calibration.probabilities([hit.scores["rerank"] for hit in seen])
    kept = [
        (hit, float(probability))
        for hit, probability in zip(seen, found, strict=True)
        if probability >= threshold
    ]
    hits = [
        replace(hit, rank=rank, scores={**hit.scores, "probability": probability})
        for rank, (hit, probability) in enumerate(kept[:top_k], start=1)
    ]
    return replace(result, hits=hits)


def _asked(options: argparse.Namespace) -> Iterator[str]:
    """Queries from the person at the terminal, until an empty line or the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401 - its import gives input() a history and line editing
    # A prompt on stdout would be no JSON.
    prompt = "" if options.json else "query> "
    note("type a query; an empty line ends")
    while True:
        try:
            query = input(prompt).strip()
        except EOFError:
            return
        if not query:
            return
        yield query


def _print(
    options: argparse.Namespace, search: Search, result: SearchResult, timings: dict[str, float]
) -> None:
    model = search.reranker.name if search.reranker else None
    if options.json:
        record: dict[str, Any] = {"index": options.index, "model": model, "retrieve": options.retrieve}
        record |= result_record(result, options.top_k or TOP_K, timings)
        # One object for one query; of many, one a line.
        print_json(record, indent=2 if options.query is not None else None)
        return
    terminal = open_terminal()
    if options.queries:
        _print_query(terminal, result.query)
    if result.before and not result.hits:
        terminal.line(
            f"none of the {len(result.before)} candidates has a probability of {options.threshold:g} or more"
        )
    else:
        print_ranking(terminal, result, model)
    print_passages(terminal, result.hits[: options.passages])
    if result.hits:
        terminal.line()
    print_timings(terminal, timings)


def _print_query(terminal: Terminal, query: Query) -> None:
    terminal.line()
    terminal.line(Piece(f"{query.id}  " if query.id else "", "dim"), Piece(query.text, "bold"))
