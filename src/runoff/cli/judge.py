"""`runoff judge`: what a reranker adds to a first stage on judged sets, with intervals."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.machine import circumstances
from runoff.cli.options import (
    DEFAULT_MODEL,
    Commands,
    add_model_options,
    load_reranker,
    new_command,
    positive,
    progress_bar,
)
from runoff.cli.terminal import Cell, Column, Piece, Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.crossencoder import CrossEncoder
    from runoff.evaluate.judged import Judged, Judgement

EXAMPLES = """\
  runoff judge scifact --model runoff-nano                    a BEIR folder: BM25, the model, both
  runoff judge scifact nfcorpus --model student --model teacher --out results.jsonl
  runoff judge scifact --run dense.trec --depth 50            over a first stage of your own
  runoff judge scifact --limit 100 --json | jq .ndcg_at_10    100 queries, always the same ones
"""

DISTRIBUTIONS = (
    *("numpy", "tokenizers", "bm25s", "pytrec_eval-terrier"),
    *("torch", "transformers", "sentence-transformers"),
)


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "judge",
        run,
        summary="judge rerankers on judged sets: NDCG@10, with intervals",
        description="Ranks the queries of judged sets by BM25, has each model order the best DEPTH, and adds the\n"
        "z-scores of both. Shows NDCG@10 and MRR@10, and the 95 % interval of the difference from the first stage\n"
        "(paired bootstrap over the queries). A set is a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv.",
        examples=EXAMPLES,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="a judged set")
    parser.add_argument(
        "--depth",
        metavar="N",
        type=positive,
        default=100,
        help="candidates of a query (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        help="at most N queries of a set, always the same ones (default: all)",
    )
    parser.add_argument(
        "--fuse",
        metavar="WEIGHT",
        type=weight,
        action="append",
        help="the model's share in z(first stage) + WEIGHT z(model); may be repeated (default: 1)",
    )
    parser.add_argument(
        "--run",
        dest="run_file",
        metavar="FILE",
        help="the first stage's lists, as a TREC run (default: BM25 by bm25s)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write the figures there, a JSON line for each system of a set",
    )
    add_model_options(parser, f"may be repeated; default: {DEFAULT_MODEL}", takes_several=True)


def run(options: argparse.Namespace) -> None:
    from runoff.data.atomic import replace_file
    from runoff.evaluate.judged import read_judged

    out = _checked(options)
    sets = [read_judged(folder.expanduser()).sampled(options.limit) for folder in options.folders]
    models = _load(options)
    about = {"command": _command(options, list(models)), **circumstances(DISTRIBUTIONS)}
    facts = {name: _facts(options, model) for name, model in models.items()}
    lines: list[dict[str, Any]] = []
    terminal = None if options.json else open_terminal()
    for judged in sets:
        judgement = _judged(options, judged, models)
        added = [{**line, **facts.get(line["model"], {}), **about} for line in judgement.lines()]
        lines += added
        if out is not None:  # after each set, so that what is known outlasts whatever ends the next
            replace_file(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if terminal is None:
            for line in added:
                print_json(line, indent=None)
        else:
            _print_set(terminal, added)
    if terminal is not None:
        if len(sets) > 1:
            _print_means(terminal, lines, len(sets))
        if out is not None:
            terminal.line(f"{out}: {len(lines)} lines")


def _checked(options: argparse.Namespace) -> Path | None:
    """Where the figures go. `InputError` for what does not go together, before anything is loaded."""
    from runoff.contracts import InputError

    if options.run_file and len(options.folders) > 1:
        raise InputError("--run is the first stage of one judged set: give one FOLDER with it")
    out: Path | None = options.out.expanduser() if options.out else None
    if out is not None and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise InputError(f"expected a file in a folder that is there as --out, got {out}")
    return out


def _load(options: argparse.Namespace) -> dict[str, CrossEncoder]:
    """The models by what they are called in the figures: of local folders as much of their path as tells them
    apart."""
    from runoff.contracts import InputError
    from runoff.data.folders import names_apart

    given = options.model or [DEFAULT_MODEL]
    if len(set(given)) < len(given):
        raise InputError(f"a model was given twice: {', '.join(given)}")
    local = [name for name in given if Path(name).expanduser().is_dir()]
    apart = dict(zip(local, names_apart([Path(name).expanduser() for name in local]), strict=True))
    return {_called(name, apart.get(name, name)): load_reranker(options, name) for name in given}


def _called(given: str, name: str) -> str:
    """The model of a training run by the run's name too: RUN/model."""
    return f"{Path(given).expanduser().resolve().parent.name}/model" if name == "model" else name


def _judged(options: argparse.Namespace, judged: Judged, models: Mapping[str, CrossEncoder]) -> Judgement:
    from runoff.evaluate.judged import FIRST, bm25_lists, judge, run_lists

    first = Path(options.run_file).stem if options.run_file else FIRST
    lists = (
        run_lists(Path(options.run_file).expanduser(), judged, options.depth)
        if options.run_file
        else bm25_lists(judged.documents, judged.queries, options.depth)
    )
    with progress_bar(sum(map(len, lists.values())) * len(models), "pairs", options) as bar:
        bar.set_description(judged.name)
        return judge(
            judged,
            lists,
            models,
            options.fuse or (1.0,),
            depth=options.depth,
            first=first,
            advance=bar.update,
        )


# --- what is written down --------------------------------------------------------------------------------


def _facts(options: argparse.Namespace, model: CrossEncoder) -> dict[str, Any]:
    """What is scored by: engine, precision, length, and the SHA-256 of the weights."""
    from runoff.checkpoint.hub import find_model
    from runoff.checkpoint.modular import weight_digests

    # It was loaded just now, so that the hub need not be asked again.
    folder = find_model(model.name, "reranker", revision=options.revision, local_files_only=True)
    return {
        "engine": model.choice.engine,
        "precision": model.choice.precision,
        "max_length": model.max_seq_length,
        "weights_sha256": weight_digests(folder),
    }


def _command(options: argparse.Namespace, models: Sequence[str]) -> str:
    """The command line, with names that mean something on another machine."""
    words = ["runoff", "judge", *(folder.expanduser().resolve().name for folder in options.folders)]
    for name in models:
        words += ["--model", name]
    words += ["--depth", str(options.depth)]
    if options.limit:
        words += ["--limit", str(options.limit)]
    for each in options.fuse or ():
        words += ["--fuse", f"{each:g}"]
    if options.run_file:
        words += ["--run", Path(options.run_file).name]
    if options.max_length:
        words += ["--max-length", str(options.max_length)]
    return shlex.join([*words, "--precision", options.precision])


# --- for a person ----------------------------------------------------------------------------------------


def _print_set(terminal: Terminal, lines: Sequence[dict[str, Any]]) -> None:
    line = lines[0]
    asked = f"{line['queries']:,}"
    if line["queries"] < line["queries_judged"]:
        asked += f" of {line['queries_judged']:,}"
    terminal.line()
    terminal.line(
        Piece(line["collection"], "bold"),
        f"  {asked} queries, {line['documents']:,} documents; the first {line['depth']} candidates of each query hold "
        f"{line['positives_in_lists']:.0%} of the positives",
    )
    titles = ("NDCG@10", "difference", "95 % interval", "MRR@10")
    columns = [Column("system"), *(Column(title, is_number=True) for title in titles)]
    terminal.table(columns, [_row(line) for line in lines])
    shown = set()
    for line in lines:
        for other, value in line["spearman"].items():
            if frozenset((line["system"], other)) not in shown and value is not None:
                shown.add(frozenset((line["system"], other)))
                terminal.line(f"Spearman of {line['system']} and {other} within a query: {value:.3f}")


def _row(line: dict[str, Any]) -> list[Cell]:
    figures: list[Cell] = [line["system"], f"{line['ndcg_at_10']:.4f}"]
    if line["model"] is None:
        return [*figures, "", "", f"{line['mrr_at_10']:.4f}"]
    low, high = line["minus_first_95"]
    style = "green" if low > 0 else "red" if high < 0 else ""
    difference = Piece(f"{line['minus_first']:+.4f}", style)
    return [*figures, difference, f"{low:+.4f} to {high:+.4f}", f"{line['mrr_at_10']:.4f}"]


def _print_means(terminal: Terminal, lines: Sequence[dict[str, Any]], sets: int) -> None:
    terminal.line()
    terminal.line(Piece(f"mean of {sets} sets", "bold"))
    rows: list[list[Cell]] = []
    for system in dict.fromkeys(line["system"] for line in lines):
        own = [line for line in lines if line["system"] == system]
        means = [
            sum(line[name] for line in own) / sets for name in ("ndcg_at_10", "minus_first", "mrr_at_10")
        ]
        rows.append([system, f"{means[0]:.4f}", f"{means[1]:+.4f}", f"{means[2]:.4f}"])
    titles = ("NDCG@10", "difference", "MRR@10")
    terminal.table([Column("system"), *(Column(title, is_number=True) for title in titles)], rows)


def weight(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number
