"""`runoff pick`: which reranker, precision and depth to use, on your own judged set and within your own budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runoff.cli.bench import BM25, Bench, shown
from runoff.cli.contestants import facts_of, load_models
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_hub_options,
    add_threads_option,
    new_command,
    positive,
    progress_bar,
)
from runoff.cli.terminal import Cell, Column, Piece, Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import Scorer
    from runoff.evaluate.pick import Choice

EXAMPLES = """\
  runoff pick mydata --budget-ms 150                                  runoff-nano in three precisions, four depths
  runoff pick mydata --budget-ms 50 --model runoff-nano --model cross-encoder/ettin-reranker-32m-v1
  runoff pick mydata --budget-ms 300 --retriever BAAI/bge-small-en-v1.5 --depths 20 50 --out tried
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "pick",
        run,
        summary="which reranker, precision and depth to use, on your judged set and within a budget",
        description="Tries each model in each precision at each depth on a judged set, alone and fused with the\n"
        "retriever, times the reranking of single queries on this machine, and recommends the best that 95 of 100\n"
        "queries get within the budget, and the cheapest that is not surely worse. --out keeps scores: with another\n"
        "budget or one more model, only what is new is scored.",
        examples=EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="a judged set: a BEIR folder")
    parser.add_argument(
        "--budget-ms",
        metavar="MS",
        type=float,
        required=True,
        help="of reranking a query; retrieval is not counted",
    )
    parser.add_argument(
        "--retriever",
        metavar="NAME",
        default=BM25,
        help="bm25, an embedder, bm25+EMBEDDER, or a TREC run's file (default: %(default)s)",
    )
    parser.add_argument(
        "--fusion", choices=("rrf", "zscore"), default="rrf", help="of bm25+EMBEDDER (default: %(default)s)"
    )
    parser.add_argument(
        "--precisions",
        metavar="NAME",
        nargs="+",
        choices=("fp32", "bf16", "int8"),
        default=["fp32", "bf16", "int8"],
        help="(default: all three)",
    )
    parser.add_argument(
        "--depths",
        metavar="N",
        nargs="+",
        type=positive,
        default=[10, 20, 50, 100],
        help="(default: 10 20 50 100)",
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="at most N queries, always the same ones")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="keep lists and scores there")
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        "--reranker",
        dest="model",
        metavar="NAME",
        action="append",
        help=f"a reranker to try; may be repeated (default: {DEFAULT_MODEL})",
    )
    add_hub_options(group)
    group.add_argument("--device", help="cpu, or cuda with the torch extra (default: what is there)")
    add_threads_option(group)
    group.add_argument("--max-length", metavar="TOKENS", type=positive, help="most tokens of a pair")


def run(options: argparse.Namespace) -> None:
    from runoff.contracts import InputError
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.pick import pick, tried

    if not 0.0 < options.budget_ms < float("inf"):
        raise InputError(f"expected milliseconds above 0 as --budget-ms, got {options.budget_ms:g}")
    judged = read_judged(options.data.expanduser()).sampled(options.limit)
    if not judged.has_texts:
        raise InputError(
            f"{judged.name} has judgements and no texts, so nothing can be reranked: give its BEIR folder"
        )
    options.depth, options.curve = max(options.depths), None
    models = _models(options)
    bench = Bench(options, models, {name: facts_of(options, model) for name, model in models.items()})
    scores = bench.scores(judged)
    lists, _ = bench.lists(judged, options.retriever)
    with progress_bar(bench.unknown(scores, lists), "pairs", options) as bar:
        bar.set_description(judged.name)
        ways = tried(judged, lists, models, scores, options.depths, bar.update)
    choice = pick(ways, options.budget_ms)
    if options.json:
        for line in choice.lines():
            print_json({**line, "collection": judged.name, "queries": len(judged.queries)}, indent=None)
    else:
        _print_choice(open_terminal(), choice, judged.name, len(judged.queries), shown(options.retriever))


def _models(options: argparse.Namespace) -> dict[str, Scorer]:
    """Each model in each precision, by both."""
    models = {}
    for precision in dict.fromkeys(options.precisions):
        options.precision = precision
        for name, model in load_models(options, options.model or [DEFAULT_MODEL]).items():
            models[f"{name} {precision}"] = model
    options.precision = "auto"  # the retriever's, if it is an embedder
    return models


def _print_choice(terminal: Terminal, choice: Choice, name: str, queries: int, retriever: str) -> None:
    terminal.line()
    terminal.line(Piece(name, "bold"), f"  {queries:,} queries, candidates by {retriever}")
    columns = [
        Column("way"),
        *(Column(title, is_number=True) for title in ("NDCG@10", "median ms", "95 % ms", "")),
    ]
    front = {way.name for way in choice.front()}
    rows: list[Sequence[Cell]] = []
    for way in choice.ways:
        said = (
            "over the budget" if way.p95 > choice.budget else "nothing beats it" if way.name in front else ""
        )
        style = "bold" if way is choice.best else ""
        rows.append(
            [Piece(way.name, style), f"{way.ndcg:.4f}", f"{way.median:,.1f}", f"{way.p95:,.1f}", said]
        )
    terminal.table(columns, rows)
    best, gain = choice.best, choice.gain
    if best.model is None:
        terminal.line("Take the retriever alone: nothing within the budget ranks better.")
        return
    terminal.line(
        Piece(f"Take {best.name}", "bold"), f": NDCG@10 {best.ndcg:.4f}, {gain} over the retriever alone."
    )
    if not gain.is_significant:
        terminal.line(
            f"{queries:,} queries cannot show that this is better than the retriever alone: judge more."
        )
    if choice.cheapest is not best:
        cheapest = choice.cheapest
        terminal.line(
            f"Cheapest that is not surely worse: {cheapest.name}, {cheapest.ndcg:.4f} in {cheapest.p95:,.1f} ms."
        )
    terminal.line(
        "The best of many is flattered by chance: judge it once more on queries that were not used here."
    )
