"""`runoff calibrate`: a model's scores as probabilities, fitted on judged pairs, with the error that is left."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import (
    Commands,
    Group,
    add_run_options,
    load_reranker,
    new_command,
    number,
    positive,
    progress_bar,
)
from runoff.cli.terminal import Cell, Column, Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.calibration.fit import Fitted
    from runoff.calibration.reliability import Threshold
    from runoff.evaluate.relevance import KnownPairs, ScoredPairs

PRECISIONS = (0.5, 0.8, 0.9)
"""Of these it is told which threshold reaches them."""

EXAMPLES = """\
  runoff calibrate my-reranker --judged scifact                          writes my-reranker/calibration.json
  runoff calibrate runoff-nano --judged scifact --judged nfcorpus --out calibrated --plot reliability.svg
  runoff calibrate my-reranker --labels build/rows --relevant-from 2.5   what a teacher scored 2.5 or more
  runoff rank "how is honey made" --documents texts.txt --model calibrated --threshold 0.5
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "calibrate",
        run,
        summary="fit probabilities to a model's scores, for thresholds",
        description="Fits a curve from raw scores to probabilities on pairs whose relevance is known, and writes it\n"
        "as calibration.json beside the model, where rank(..., threshold=) and `runoff rank --threshold` find it. Of\n"
        "a judged set (a BEIR folder) the pairs are BM25's best DEPTH of each query; a candidate that nobody judged\n"
        "counts as not relevant. So a probability is that of being judged relevant among BM25's candidates of such a\n"
        "collection: where judgements are sparse it is too low, and another collection has another. The errors shown\n"
        "are of queries held out.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a name on the Hugging Face hub, or runoff-nano"
    )
    _add_pair_options(parser.add_argument_group("pairs"))
    parser.add_argument(
        "--method",
        choices=("platt", "isotonic"),
        default="platt",
        help="a sigmoid of two parameters, or any curve that never falls, for a thousand relevant pairs and more "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the reliability diagram (svg, png or pdf)"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="write a copy of the model with the calibration there (default: into the model's own folder)",
    )
    add_run_options(parser.add_argument_group("model"))


def _add_pair_options(pairs: Group) -> None:
    pairs.add_argument(
        "--judged",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="a judged set: corpus.jsonl, queries.jsonl, qrels/test.tsv; may be repeated",
    )
    pairs.add_argument(
        "--labels",
        metavar="ROWS",
        type=Path,
        help="rows of `runoff label` instead; relevant is a grade above 0, or what --relevant-from says",
    )
    pairs.add_argument(
        "--relevant-from",
        metavar="NUMBER",
        type=number,
        help="with --labels: a label of NUMBER or more is relevant, such as a teacher's score",
    )
    pairs.add_argument(
        "--depth", metavar="N", type=positive, help="BM25's candidates of a query (default: 100)"
    )
    pairs.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        help="at most N queries of a set, always the same ones (default: all)",
    )


def run(options: argparse.Namespace) -> None:
    from runoff.calibration.fit import check_counts, fit
    from runoff.contracts import InputError
    from runoff.evaluate.relevance import scored

    _check(options)
    folder = _folder(options)
    known = _known(options)
    # Before minutes of scoring.
    check_counts(known.relevant, known.pairs - known.relevant, sum(bool(q.documents) for q in known.queries))
    model = load_reranker(options)
    if model.num_labels != 1:
        raise InputError(
            f"{options.model} gives {model.num_labels} scores a pair: a calibration is of one. Choose a reranker"
        )
    with progress_bar(known.pairs, "pairs", options) as bar:
        pairs = scored(known, model, bar.update)
    fitted = fit(
        pairs.scores,
        pairs.relevant,
        pairs.groups,
        options.method,
        names=known.names,
        relevance=known.relevance,
    )
    if options.plot:
        _draw(options, fitted, pairs)
    written = _write(options, folder, fitted)
    facts = _facts(options, fitted, pairs, written)
    if options.json:
        print_json(facts)
    else:
        _print(open_terminal(), facts)


def _check(options: argparse.Namespace) -> None:
    """Refuses what does not go together, before anything is read."""
    from runoff.contracts import InputError
    from runoff.distill.sample import check_plot

    if bool(options.judged) == bool(options.labels):
        raise InputError(
            "expected judged pairs: --judged FOLDER (may be repeated), or --labels ROWS, one of both"
        )
    if options.judged and options.relevant_from is not None:
        raise InputError(
            "--relevant-from is a label's: give it with --labels ROWS. Of a judged set grades decide"
        )
    if options.labels and options.depth:
        raise InputError(
            "--depth is how many candidates BM25 finds in a judged set; labelled rows have theirs"
        )
    if options.plot:
        check_plot(options.plot.expanduser())


def _folder(options: argparse.Namespace) -> Path:
    """The model's folder; `InputError` where the calibration cannot be written to the place it is meant for."""
    from runoff.checkpoint.hub import find_model
    from runoff.contracts import InputError

    folder = find_model(
        options.model, "reranker", revision=options.revision, local_files_only=options.local_files_only
    ).resolve()
    if options.out is None:
        if not Path(options.model).expanduser().is_dir():
            raise InputError(
                f"{options.model} is no folder of yours to write to: give --out FOLDER, for a copy with the calibration"
            )
        if not os.access(folder, os.W_OK):
            raise InputError(
                f"{options.model} may not be written to: give --out FOLDER, for a copy of the model"
            )
        return folder
    out = options.out.expanduser().resolve()
    if out == folder or out in folder.parents or folder in out.parents:
        raise InputError(
            f"{options.out} and the model's own folder lie in one another: expected a folder beside it. Leave --out "
            "away to write into the model's own"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(
            f"expected a new or empty folder as --out, {options.out} is in use. Choose another name"
        )
    return folder


def _known(options: argparse.Namespace) -> KnownPairs:
    from runoff.contracts import InputError
    from runoff.data.folders import names_apart
    from runoff.data.shards import Shards
    from runoff.distill import labels as label_shards
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.relevance import judged_pairs, labelled_pairs
    from runoff.evaluate.stages import DEPTH, bm25_lists

    if options.labels:
        rows = Shards(options.labels.expanduser(), label_shards.KIND)
        return labelled_pairs(rows, options.relevant_from, options.limit)
    folders = [folder.expanduser() for folder in options.judged]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--judged names a set twice: its pairs would count twice")
    sets = {
        name: read_judged(folder).sampled(options.limit)
        for name, folder in zip(names_apart(folders), folders, strict=True)
    }
    if without := [name for name, judged in sets.items() if not judged.documents]:
        raise InputError(f"{without[0]} has judgements and no texts to score: expected a BEIR folder")
    depth = options.depth or DEPTH
    return judged_pairs(
        sets,
        lambda each: bm25_lists(each.documents, each.queries, depth),
        f"BM25's best {depth} of each query",
    )


def _draw(options: argparse.Namespace, fitted: Fitted, pairs: ScoredPairs) -> None:
    from runoff.calibration.reliability import draw
    from runoff.data.atomic import new_file

    path = options.plot.expanduser()
    series = {
        "before: sigmoid of the raw score": fitted.before,
        f"after: {options.method}, queries held out": fitted.held_out,
    }
    with new_file(path) as draft:
        draw(series, pairs.relevant, draft, path.suffix[1:].lower())


def _write(options: argparse.Namespace, folder: Path, fitted: Fitted) -> Path:
    """Writes the calibration, into the model's folder or a copy of it, and says where it stands."""
    from runoff.calibration.stored import CALIBRATION
    from runoff.checkpoint.writing import copy_model
    from runoff.data.atomic import new_folder, replace_file

    text = fitted.calibration.as_json()
    if options.out is None:
        replace_file(folder / CALIBRATION, text)
        return Path(options.model) / CALIBRATION
    with new_folder(options.out.expanduser().resolve()) as draft:
        copy_model(folder, draft)
        replace_file(draft / CALIBRATION, text)
    return Path(options.out / CALIBRATION)


# --- what is said of it ----------------------------------------------------------------------------------


def _facts(options: argparse.Namespace, fitted: Fitted, pairs: ScoredPairs, written: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from runoff.calibration.fit import FOLDS
    from runoff.calibration.reliability import BINS, reliability_bins, threshold_for

    on = fitted.calibration.fitted_on
    thresholds = {each: threshold_for(fitted.held_out, pairs.relevant, each) for each in PRECISIONS}
    return {
        "model": options.model,
        "written": str(written),
        "method": fitted.calibration.method,
        "curve": asdict(fitted.calibration.curve),
        **asdict(on),
        "share_relevant": on.relevant / on.pairs,
        "folds": FOLDS,
        "bins": BINS,
        "reliability": {
            name: [asdict(each) for each in reliability_bins(values, pairs.relevant)]
            for name, values in (("before", fitted.before), ("after", fitted.held_out))
        },
        "thresholds": [_threshold(precision, found) for precision, found in thresholds.items()],
        "plot": None if options.plot is None else str(options.plot),
    }


def _threshold(precision: float, found: Threshold | None) -> dict[str, Any]:
    reached = found._asdict() if found else {"threshold": None, "precision": None, "pairs": 0, "recall": 0.0}
    return {"wanted": precision, **reached}


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.4g}"


def _print(terminal: Terminal, facts: dict[str, Any]) -> None:
    curve = facts["curve"]
    shown = {
        "written": facts["written"],
        "curve": f"1 / (1 + exp(-({curve['slope']:.4g} score {_signed(curve['intercept'])})))"
        if facts["method"] == "platt"
        else f"{len(curve['scores'])} points, from {curve['probabilities'][0]:.3g} to "
        f"{curve['probabilities'][-1]:.3g}",
        "fitted on": f"{', '.join(facts['names'])}: {facts['pairs']:,} pairs of {facts['queries']:,} queries, "
        f"{facts['relevant']:,} relevant ({facts['share_relevant']:.1%})",
        "relevant": facts["relevance"],
        "plot": facts["plot"],
    }
    print_facts(terminal, f"{facts['model']}, calibrated by {facts['method']}", shown)
    terminal.line()
    rows: list[list[Cell]] = [
        [title, f"{facts[f'{name}_before']:.4f}", f"{facts[f'{name}_after']:.4f}"]
        for title, name in (("expected calibration error", "ece"), ("Brier score", "brier"))
    ]
    columns = [Column("error"), Column("sigmoid", is_number=True), Column("calibrated", is_number=True)]
    terminal.table(columns, rows)
    kept: list[list[Cell]] = [
        [f"{each['wanted']:.0%}", "not reached", "", ""]
        if each["threshold"] is None
        else [
            f"{each['wanted']:.0%}",
            f"{each['threshold']:.3f}",
            f"{each['pairs'] / facts['queries']:.2f}",
            f"{each['recall']:.1%}",
        ]
        for each in facts["thresholds"]
    ]
    titles = ("relevant of what is kept", "threshold", "kept a query", "of all relevant")
    terminal.table([Column(title, is_number=True) for title in titles], kept)
    terminal.line(
        f"calibrated and thresholds: of queries held out, {facts['folds']} folds; error over {facts['bins']} bins of "
        "equal mass"
    )
