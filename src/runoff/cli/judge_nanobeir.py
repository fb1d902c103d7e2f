"""`runoff judge nanobeir`: rerankers over BM25's lists of the 13 NanoBEIR sets, by sentence-transformers' names."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from runoff.cli.terminal import Column, Piece, Terminal, open_terminal, print_json

EXAMPLES = """\
  runoff judge nanobeir --model runoff-nano                       13 sets from the hub
  runoff judge nanobeir --dataset NanoBEIR-en --out nano.jsonl    a local copy of the dataset
  runoff judge nanobeir --set msmarco nq --json | jq '."NanoBEIR_R100_mean_ndcg@10"'
"""

DISTRIBUTIONS = (
    *("numpy", "tokenizers", "pytrec_eval-terrier", "datasets"),
    *("torch", "transformers", "sentence-transformers"),
)


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "judge-nanobeir",
        run,
        summary=None,
        description="Has each model order BM25's best DEPTH documents of the NanoBEIR sets. Figures have the names\n"
        "that sentence-transformers' evaluator gives them; those with `honest` count what BM25 missed: the\n"
        "ideal order is over all judgements. (A folder called nanobeir is judged by `runoff judge ./nanobeir`.)",
        examples=EXAMPLES,
    )
    parser.prog = "runoff judge nanobeir"
    sets = parser.add_argument_group("sets")
    sets.add_argument(
        "--dataset",
        metavar="NAME",
        help="a dataset of that shape on the hub, or the folder of a copy (default: sentence-transformers/NanoBEIR-en)",
    )
    sets.add_argument(
        "--set", dest="sets", metavar="NAME", nargs="+", help="some of the sets (default: all 13)"
    )
    sets.add_argument(
        "--depth", metavar="N", type=positive, default=100, help="documents reranked (default: %(default)s)"
    )
    sets.add_argument(
        "--add-positives",
        action="store_true",
        help="rerank the positives that BM25 missed as well, which is that evaluator's own default",
    )
    add_model_options(parser, f"may be repeated; default: {DEFAULT_MODEL}", takes_several=True)
    batches = parser.add_argument_group("batches")
    batches.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=32,
        help="most pairs of a batch (default: %(default)s)",
    )
    batches.add_argument(
        "--batch-tokens",
        metavar="N",
        type=positive,
        help="most tokens of a packed batch (default: the engine's own)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--out", metavar="FILE", type=Path, help="write the figures there, a JSON line for each model"
    )
    results.add_argument(
        "--csv",
        metavar="FOLDER",
        type=Path,
        help="write that evaluator's CSV files there, one folder for each model",
    )


def run(options: argparse.Namespace) -> None:
    from runoff.contracts import InputError
    from runoff.data.atomic import replace_file
    from runoff.evaluate.nanobeir import DATASET, SETS, Reranked, nanobeir_evaluator

    names = options.model or [DEFAULT_MODEL]
    if len(set(names)) < len(names):
        raise InputError(f"a model was given twice: {', '.join(names)}")
    if unknown := [name for name in options.sets or () if name.lower() not in SETS]:
        raise InputError(f"NanoBEIR has no set {', '.join(unknown)}; it has {', '.join(SETS)}")
    out: Path | None = options.out.expanduser() if options.out else None
    if out is not None and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise InputError(f"expected a file in a folder that is there as --out, got {out}")
    reranked = Reranked(
        dataset=options.dataset or DATASET,
        sets=options.sets or SETS,
        depth=options.depth,
        adds_positives=options.add_positives,
        batch_size=options.batch_size,
        csv=options.csv is not None,
    )
    evaluator = nanobeir_evaluator(reranked)
    about = {"command": _command(options, names), **circumstances(DISTRIBUTIONS)}
    terminal = None if options.json else open_terminal()
    lines: list[dict[str, Any]] = []
    for name, shown in zip(names, _shown(names), strict=True):
        lines.append({"model": shown, **_figures(options, evaluator, name, shown), **about})
        if out is not None:
            replace_file(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if terminal is None:
            print_json(lines[-1], indent=None)
        else:
            _print(terminal, lines[-1], options)
    if terminal is not None and out is not None:
        terminal.line(f"{out}: {len(lines)} lines")


def _figures(options: argparse.Namespace, evaluator: Any, name: str, shown: str) -> dict[str, Any]:
    model = load_reranker(options, name)
    with progress_bar(None, "pairs", options) as bar:

        class Model:
            """The evaluator's model: raw scores, as the order is by them, and a bar."""

            def predict(self, pairs: Sequence[Any], **_options: Any) -> Any:
                scores = model.predict(
                    pairs, batch_size=options.batch_size, activation_fn="identity", show_progress_bar=False
                )
                bar.update(len(pairs))
                return scores

        folder = str(options.csv.expanduser() / shown.replace("/", "__")) if options.csv else None
        figures: dict[str, float] = evaluator(Model(), folder)
    return {
        **figures,
        "dataset": _public(options.dataset) if options.dataset else evaluator.dataset_id,
        "depth": options.depth,
        "adds_positives": options.add_positives,
        "engine": model.choice.engine,
        "precision": model.choice.precision,
        "max_length": model.max_seq_length,
    }


def _print(terminal: Terminal, line: Mapping[str, Any], options: argparse.Namespace) -> None:
    mark = f"_R{options.depth}_ndcg@10"
    sets = [key.removesuffix(mark) for key in line if key.endswith(mark) and not key.startswith("NanoBEIR_")]
    terminal.line()
    terminal.line(
        Piece(str(line["model"]), "bold"),
        f"  NDCG@10 over BM25's best {options.depth} documents"
        + (" and the positives it missed" if options.add_positives else ""),
    )
    rows = [[name, *_row(line, f"{name}_R{options.depth}")] for name in sets]
    if len(sets) > 1:
        rows.append([f"mean of {len(sets)}", *_row(line, f"NanoBEIR_R{options.depth}_mean")])
    titles = ("BM25", "model", "difference", "BM25, honest", "model, honest", "difference")
    terminal.table([Column("set"), *(Column(title, is_number=True) for title in titles)], rows)
    if len(sets) > 1:
        terminal.line(
            f"NanoBEIR_R{options.depth}_mean_ndcg@10  {line[f'NanoBEIR_R{options.depth}_mean_ndcg@10']:.4f}"
        )


def _row(line: Mapping[str, Any], start: str) -> list[str]:
    cells = []
    for kind in ("", "honest_"):
        base, own = line[f"{start}_base_{kind}ndcg@10"], line[f"{start}_{kind}ndcg@10"]
        cells += [f"{base:.4f}", f"{own:.4f}", f"{own - base:+.4f}"]
    return cells


def _shown(names: Sequence[str]) -> list[str]:
    """What the models are called in the figures: of local folders as much of their path as tells them apart."""
    from runoff.data.folders import names_apart

    local = [name for name in names if Path(name).expanduser().is_dir()]
    apart = dict(zip(local, names_apart([Path(name).expanduser() for name in local]), strict=True))
    return [apart.get(name, name) for name in names]


def _command(options: argparse.Namespace, names: Sequence[str]) -> str:
    """The command line, with names that mean something on another machine."""
    words = ["runoff", "judge", "nanobeir"]
    for name in names:
        words += ["--model", _public(name)]
    if options.dataset:
        words += ["--dataset", _public(options.dataset)]
    if options.sets:
        words += ["--set", *options.sets]
    words += ["--depth", str(options.depth)]
    if options.add_positives:
        words.append("--add-positives")
    if options.max_length:
        words += ["--max-length", str(options.max_length)]
    return shlex.join([*words, "--precision", options.precision])


def _public(name: str) -> str:
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else name
