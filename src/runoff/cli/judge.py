"""`runoff judge`: retrievers and rerankers on judged sets, with intervals."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.bench import Bench, shown
from runoff.cli.contestants import facts_of, load_models
from runoff.cli.judgements import print_examples, print_gaps, print_means, print_set
from runoff.cli.machine import circumstances
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_model_options,
    new_command,
    positive,
)
from runoff.cli.terminal import Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import Scorer
    from runoff.evaluate.judged import Judged
    from runoff.evaluate.matrix import Judgement

EXAMPLES = """\
  runoff judge scifact                                                   BM25, runoff-nano over it, both
  runoff judge scifact --retriever bm25 --retriever BAAI/bge-small-en-v1.5 --retriever bm25+BAAI/bge-small-en-v1.5 \\
      --reranker runoff-nano --reranker cross-encoder/ettin-reranker-32m-v1 --out judged    a matrix, with a report
  runoff judge scifact nfcorpus --reranker student --reranker teacher --figures results.jsonl
  runoff judge scifact --retriever dense.trec --depth 50                 over a first stage of your own
  runoff judge qrels.txt --retriever bm25.run --retriever dense.run      runs alone: no texts, no rerankers
  runoff judge scifact --limit 100 --json | jq .ndcg_at_10               100 queries, always the same ones
  runoff judge nanobeir --help, runoff judge mteb --help                 the published benchmarks
"""

DISTRIBUTIONS = (
    *("numpy", "tokenizers", "bm25s", "pytrec_eval-terrier"),
    *("torch", "transformers", "sentence-transformers"),
)
NOTHING = "none"


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "judge",
        run,
        summary="judge retrievers and rerankers on judged sets, with intervals",
        description="Ranks the queries of judged sets by each retriever, has each reranker order its best DEPTH, and\n"
        "adds the z-scores of both. Shows NDCG@10 and MRR@10, the 95 % interval of the difference from the retriever\n"
        "alone (paired bootstrap over the queries; * where it is on one side of 0), and what the best order of the\n"
        "same candidates would reach. A set is a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv), or a file\n"
        "of judgements. With --out, lists and scores are kept: a crash or a second question scores no pair twice.",
        examples=EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", nargs="+", type=Path, help="a judged set")
    parser.add_argument(
        "--retriever",
        metavar="NAME",
        action="append",
        help="bm25, an embedder's folder or hub name, bm25+EMBEDDER (both, fused), or a TREC run's file; may be "
        "repeated (default: bm25)",
    )
    parser.add_argument(
        "--fusion",
        choices=("rrf", "zscore"),
        default="rrf",
        help="how bm25+EMBEDDER becomes one list (default: %(default)s)",
    )
    parser.add_argument(
        "--depth",
        metavar="N",
        type=positive,
        default=100,
        help="candidates of a query (default: %(default)s)",
    )
    parser.add_argument(
        "--curve",
        metavar="N",
        type=positive,
        help="score down to N for the depth curve (default: --depth)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        help="at most N queries of a set, always the same ones (default: all)",
    )
    _add_figure_options(parser)
    add_model_options(
        parser,
        f"cosine:EMBEDDER for an embedder's cosine; may be repeated; `{NOTHING}` for retrievers alone; default: "
        f"{DEFAULT_MODEL}",
        takes_several=True,
        also="--reranker",
    )


def _add_figure_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fuse",
        metavar="WEIGHT",
        type=weight,
        action="append",
        help="the reranker's share in z(retriever) + WEIGHT z(reranker); may be repeated (default: 1)",
    )
    parser.add_argument(
        "--examples",
        metavar="N",
        type=positive,
        help="show the N queries that gained most and the N that lost most, with their texts (a report has 3)",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="keep lists, scores and figures there, and write report.html, report.md, report.json",
    )
    parser.add_argument(
        "--figures",
        metavar="FILE",
        type=Path,
        help="write the figures there, a JSON line for each system of a set",
    )


def run(options: argparse.Namespace) -> None:
    from runoff.evaluate.judged import read_judged

    _check(options)
    sets = [read_judged(path.expanduser()).sampled(options.limit) for path in options.data]
    models = _load(options, sets)
    about = {"command": _command(options, list(models)), **circumstances(DISTRIBUTIONS)}
    facts = {name: facts_of(options, model) for name, model in models.items()}
    bench = Bench(options, models, facts)
    judgements: list[Judgement] = []
    lines: list[dict[str, Any]] = []
    terminal = None if options.json else open_terminal()
    for judged in sets:
        for number, judgement in enumerate(bench.judged(judged)):
            judgements.append(judgement)
            added = [{**line, **facts.get(line["model"], {}), **about} for line in judgement.lines()]
            lines += added
            _write_lines(options, lines)  # after each, so that what is known outlasts whatever ends the next
            if terminal is None:
                for line in added:
                    print_json(line, indent=None)
            else:
                if number == 0:
                    print_gaps(terminal, judged)
                print_set(terminal, judgement, added)
                print_examples(terminal, judgement, options.examples)
    if terminal is not None:
        print_means(terminal, lines)
    _report(options, terminal, judgements, lines, bench)


def _check(options: argparse.Namespace) -> None:
    """`InputError` for what does not go together, before anything is loaded."""
    from runoff.contracts import InputError

    given = options.retriever or []
    if len(set(given)) < len(given):
        raise InputError(f"a retriever was given twice: {', '.join(given)}")
    runs = [name for name in given if Path(name).expanduser().is_file()]
    if runs and len(options.data) > 1:
        raise InputError(f"{runs[0]} is the run of one judged set: give one DATA with it")
    figures: Path | None = options.figures.expanduser() if options.figures else None
    if figures is not None and (figures.is_dir() or not figures.resolve().parent.is_dir()):
        raise InputError(f"expected a file in a folder that is there as --figures, got {figures}")
    if options.out is not None and options.out.expanduser().is_file():
        raise InputError(f"expected a folder as --out, {options.out} is a file: --figures takes one")


def _load(options: argparse.Namespace, sets: Sequence[Judged]) -> dict[str, Scorer]:
    """The models that the options name; none for sets without texts."""
    from runoff.contracts import InputError

    without_texts = [judged.name for judged in sets if not judged.has_texts]
    given = options.model or ([NOTHING] if without_texts else [DEFAULT_MODEL])
    if given == [NOTHING]:
        return {}
    if without_texts:
        raise InputError(
            f"{without_texts[0]} has judgements and no texts, so nothing can be reranked: give its BEIR folder, or no "
            "--reranker"
        )
    return load_models(options, given)


def _write_lines(options: argparse.Namespace, lines: Sequence[dict[str, Any]]) -> None:
    from runoff.data.atomic import replace_file

    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if options.figures is not None:
        replace_file(options.figures.expanduser(), text)
    if options.out is not None:
        options.out.expanduser().mkdir(parents=True, exist_ok=True)
        replace_file(options.out.expanduser() / "results.jsonl", text)


def _report(
    options: argparse.Namespace,
    terminal: Terminal | None,
    judgements: Sequence[Judgement],
    lines: Sequence[dict[str, Any]],
    bench: Bench,
) -> None:
    """Writes the report, and says where everything is."""
    said = []
    if options.figures is not None:
        said.append(f"{options.figures}: {len(lines)} lines")
    if options.out is not None:
        from runoff.evaluate.report import write_report

        write_report(options.out.expanduser(), judgements, lines, options.examples or 3)
        said.append(
            f"{options.out}/report.html, report.md, report.json, results.jsonl; lists and scores beside them"
        )
        said.append(f"{bench.scored:,} pairs scored now, {bench.kept:,} were known")
    if terminal is not None:
        for each in said:
            terminal.line(each)


# --- what is written down --------------------------------------------------------------------------------


def _command(options: argparse.Namespace, models: Sequence[str]) -> str:
    """The command line, with names that mean something on another machine."""
    words = ["runoff", "judge", *(path.expanduser().resolve().name for path in options.data)]
    for name in options.retriever or ():
        words += ["--retriever", shown(name)]
    for name in models:
        words += ["--reranker", name]
    words += ["--depth", str(options.depth)]
    if options.limit:
        words += ["--limit", str(options.limit)]
    for each in options.fuse or ():
        words += ["--fuse", f"{each:g}"]
    if options.curve:
        words += ["--curve", str(options.curve)]
    if options.max_length:
        words += ["--max-length", str(options.max_length)]
    return shlex.join([*words, "--precision", options.precision])


def weight(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number
