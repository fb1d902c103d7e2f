"""`runoff collect`: queries x a retriever -> the pairs that a teacher is asked about."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import Commands, add_threads_option, new_command, positive, progress_bar
from runoff.cli.search import add_retrieval_options, query_embedder
from runoff.cli.terminal import open_terminal, print_json

if TYPE_CHECKING:
    from runoff.distill.queries import Asked
    from runoff.search.index import Index

DRAWN_QUERIES = 10_000

EXAMPLES = """\
  runoff collect build/cand --index wiki.index --queries queries.tsv
  runoff collect build/cand --index wiki.index --queries beir/nq --qrels beir/nq --depth 256
  runoff collect build/cand --index notes.index --draw headings --count 5000
  runoff collect build/cand --index wiki.index --queries q.jsonl --retrieve hybrid
  runoff collect build/cand --index wiki.index --queries q.tsv --run made-elsewhere.trec
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "collect",
        run,
        summary="distil, step 1: collect the documents that a teacher is asked about",
        description="Writes OUT, a folder of parquet shards with one row a pair: query, document, what the retriever\n"
        "said of it, and its grade where there are judgements. Judged documents that the retriever missed are added.\n"
        "Stopped midway, the same command goes on where it was.",
        examples=EXAMPLES,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--index", metavar="PATH", required=True, help="the corpus, made by `runoff index`")
    asked = parser.add_argument_group("queries")
    asked.add_argument(
        "--queries", metavar="FILE", help="a query a line, or jsonl, csv or tsv with ids, or a BEIR folder"
    )
    asked.add_argument(
        "--qrels",
        metavar="FILE",
        help="their judgements: a TREC or BEIR file, or a BEIR folder (its train split)",
    )
    asked.add_argument(
        "--draw",
        choices=("titles", "headings", "sentences"),
        help="draw the queries from the documents instead, each with its document as the answer",
    )
    asked.add_argument(
        "--count",
        metavar="N",
        type=positive,
        default=DRAWN_QUERIES,
        help="queries to draw (default: %(default)s)",
    )
    group = parser.add_argument_group("how to find candidates")
    add_retrieval_options(group)
    group.add_argument(
        "--run", dest="run_file", metavar="FILE", help="take them from a TREC run made elsewhere instead"
    )
    group.add_argument(
        "--depth", metavar="N", type=positive, default=100, help="candidates a query (default: %(default)s)"
    )
    group.add_argument("--device", help="of the embedder (default: what is there)")
    group.add_argument("--local-files-only", action="store_true", help="never ask the hub")
    add_threads_option(group)


def run(options: argparse.Namespace) -> None:
    from runoff.contracts import InputError
    from runoff.distill.candidates import CandidateOptions, collect
    from runoff.search.index import Index
    from runoff.search.settings import load_settings

    if bool(options.queries) == bool(options.draw):
        raise InputError(
            "expected either --queries FILE or --draw, " + ("got both" if options.draw else "got neither")
        )
    if options.qrels and not options.queries:
        raise InputError("--qrels judges the queries of --queries FILE; drawn ones have their own documents")
    limits = CandidateOptions(depth=options.depth)
    path = Path(options.index).expanduser()
    settings = load_settings(path)
    embedder = None if options.run_file else query_embedder(options, settings)
    index = Index.open(path, embedder=embedder)
    asked = _asked(options, index)
    retriever, source = _retriever(options, index, embedder)
    with progress_bar(len(asked), "queries", options) as bar:
        report = collect(
            asked,
            retriever,
            index.candidates,
            options.out.expanduser(),
            limits,
            source=source,
            advance=bar.update,
        )
    facts: dict[str, Any] = {
        "out": str(options.out),
        "queries": report.queries,
        "pairs": report.pairs,
        "positives": report.positives,
        "positives_not_retrieved": report.missed,
        "queries_without_candidates": list(report.empty),
    }
    if options.json:
        print_json(facts)
        return
    empty = report.empty
    shown = {
        "pairs": f"{report.pairs:,} of {report.queries:,} queries",
        "positives": f"{report.positives:,}, of which {report.missed:,} were not retrieved and were added",
        "no candidates": f"{len(empty):,} queries: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"
        if empty
        else None,
        "kept": f"{report.kept_shards} shards from before" if report.kept_shards else None,
        "next": f"runoff teach {options.out} SCORES --model NAME",
    }
    print_facts(open_terminal(), f"candidates in {options.out}", shown)


def _asked(options: argparse.Namespace, index: Index) -> list[Asked]:
    from runoff.data.formats import read_qrels, read_queries
    from runoff.distill.queries import Asked, drawn_queries

    if options.draw:
        return drawn_queries(index.documents(options.where), options.draw, options.count)
    queries = read_queries(Path(options.queries).expanduser())
    grades = read_qrels(Path(options.qrels).expanduser(), split="train") if options.qrels else {}
    return [Asked(query, grades.get(str(query.id), {})) for query in queries]


def _retriever(options: argparse.Namespace, index: Index, embedder: Any) -> tuple[Any, dict[str, Any]]:
    """The retriever, and what identifies its candidates."""
    from runoff.search.pipeline import Search, SearchOptions
    from runoff.search.retrieve import TrecRun

    source: dict[str, Any] = {
        "index": str(index.path.resolve()),
        "index_version": index.version,
        "where": options.where,
    }
    if options.run_file:
        file = Path(options.run_file).expanduser()
        return TrecRun(file, index), {**source, "run": str(file.resolve())}
    search = Search(
        index,
        None,
        embedder,
        SearchOptions(retrieve=options.retrieve, fusion=options.fusion, depth=options.depth),
    )
    source |= {
        "retrieve": options.retrieve,
        "fusion": options.fusion if options.retrieve == "hybrid" else None,
    }
    return search.retriever(options.where), {**source, "embedder": embedder.name if embedder else None}
