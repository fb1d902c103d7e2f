"""`runoff rank`: documents in the order in which they answer a query."""

from __future__ import annotations

import argparse
import time
from typing import Any

from runoff.cli.options import (
    Commands,
    add_model_options,
    add_text_options,
    add_threshold_option,
    load_reranker,
    new_command,
    positive,
    query_text,
)
from runoff.cli.terminal import Column, Piece, open_terminal, print_json

EXAMPLES = """\
  runoff rank "which planet is known as the Red Planet?" "Venus is hot." "Mars is red." "Jupiter is big."
  runoff rank "how do I undo a commit" --documents answers.txt --top-k 5
  grep -h wine *.txt | runoff rank "what goes with fish" --documents -
  runoff rank "heat pumps" --documents hits.txt --model calibrated --threshold 0.5
  runoff rank "heat pumps" --documents hits.jsonl --json | jq '.results[0]'
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "rank",
        run,
        summary="put documents in the order in which they answer a query",
        description="Prints the documents from best to worst with their scores. Higher is better; what a score means\n"
        "in itself depends on the model: compare scores of one model and one query.",
        examples=EXAMPLES,
    )
    parser.add_argument("query", metavar="QUERY", type=query_text)
    parser.add_argument("texts", metavar="DOCUMENT", nargs="*", help="a text to rank")
    parser.add_argument(
        "--documents",
        metavar="FILE",
        help='documents from a file (- for stdin): one a line, or JSON lines with "text", "id" and "title"',
    )
    parser.add_argument("--top-k", metavar="K", type=positive, help="print the best K (default: all)")
    add_threshold_option(parser)
    add_model_options(parser)
    add_text_options(parser)


def run(options: argparse.Namespace) -> None:
    from runoff.cli.inputs import Candidate, read_candidates
    from runoff.contracts import InputError

    candidates = [Candidate(text) for text in options.texts]
    if options.documents:
        candidates += read_candidates(options.documents)
    if not candidates:
        raise InputError(
            "no documents to rank: give them after the query, or in a file: --documents FILE (- for stdin)"
        )
    began = time.perf_counter()
    reranker = load_reranker(options)
    loaded = time.perf_counter()
    ranking = reranker.rank(
        options.query,
        [each.text for each in candidates],
        top_k=options.top_k,
        return_documents=True,
        threshold=options.threshold,
    )
    ended = time.perf_counter()
    timings = {"load": (loaded - began) * 1e3, "rank": (ended - loaded) * 1e3}
    for result in ranking:
        if (id := candidates[result["corpus_id"]].id) is not None:
            result["id"] = id
    if options.json:
        _print_json(options, reranker, ranking, timings)
    else:
        _print_table(options, ranking, len(candidates), timings)


def _print_json(options: argparse.Namespace, reranker: Any, ranking: Any, timings: dict[str, float]) -> None:
    print_json(
        {
            "query": options.query,
            "model": reranker.name,
            "results": list(ranking),
            "cut_pairs": ranking.cut.cut_pairs,
            "timings_ms": {stage: round(value, 1) for stage, value in timings.items()},
        }
    )


def _print_table(options: argparse.Namespace, ranking: Any, count: int, timings: dict[str, float]) -> None:
    terminal = open_terminal()
    if not ranking:
        terminal.line(f"none of the {count} documents has a probability of {options.threshold:g} or more")
    has_ids = any("id" in result for result in ranking)
    columns = [Column("#", is_number=True, style="dim"), Column("score", is_number=True)]
    has_probabilities = any("probability" in result for result in ranking)
    columns += [Column("probability", is_number=True)] if has_probabilities else []
    columns += [Column("id", style="cyan")] if has_ids else []
    rows: list[list[str | Piece]] = []
    for rank, result in enumerate(ranking, start=1):
        row: list[str | Piece] = [str(rank), f"{result['score']:.4f}"]
        row += [f"{result['probability']:.3f}"] if has_probabilities else []
        row += [str(result.get("id", ""))] if has_ids else []
        rows.append([*row, Piece(" ".join(result["text"].split()), "bold" if rank == 1 else "")])
    if ranking:
        terminal.table([*columns, Column("document", share=1)], rows)
    shown = f"{len(ranking)} of {count}" if len(ranking) < count else str(count)
    terminal.line(
        Piece(
            f"{shown} documents by {options.model}: loaded in {timings['load'] / 1e3:.2f} s, "
            f"ranked in {timings['rank'] / 1e3:.2f} s",
            "dim",
        )
    )
