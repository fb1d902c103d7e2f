"""`runoff sample`: of each query's rows, those that a teacher or a student should see."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import Commands, new_command, progress_bar
from runoff.cli.terminal import open_terminal, print_json

if TYPE_CHECKING:
    from runoff.distill.sample import Rule

EXAMPLES = """\
  runoff sample build/cand build/cand-256 --scores build/scores-cosine          for the teacher
  runoff sample build/rows build/rows-64 --rule band --plot build/labels.svg    for the student
  runoff sample build/rows build/rows-16 --rule band --head 8 --medium 8 --guard 1
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "sample",
        run,
        summary="distil, between the steps: take the rows of each query that are worth it",
        description="Writes OUT, a folder of the same kind as IN with some rows of each query. Two rules of the\n"
        "published recipe: of up to 2,048 candidates with a cheap model's scores, 256 for the teacher (`anchors`: the\n"
        "positives, the hardest, and a stratified rest); of those with the teacher's labels, 64 for the student\n"
        "(`band`: a head, and a band below it).",
        examples=EXAMPLES,
    )
    parser.add_argument("source", metavar="IN", type=Path, help="made by `runoff collect` or `runoff label`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--scores", metavar="FOLDER", help="scores of candidates, by `runoff teach`; labels have their own"
    )
    parser.add_argument(
        "--rule", choices=("anchors", "band"), help="default: anchors for candidates, band for labels"
    )
    parser.add_argument(
        "--total", metavar="N", type=int, default=256, help="anchors: rows a query (default: 256)"
    )
    parser.add_argument(
        "--hardest",
        metavar="N",
        type=int,
        default=16,
        help="anchors: of them the highest negatives (default: 16)",
    )
    parser.add_argument("--head", metavar="N", type=int, default=32, help="band: the best rows (default: 32)")
    parser.add_argument(
        "--medium", metavar="N", type=int, default=32, help="band: rows of the band (default: 32)"
    )
    parser.add_argument(
        "--band",
        metavar=("FROM", "TO"),
        nargs=2,
        type=float,
        default=(0.25, 0.75),
        help="the band, as shares of a query's rows from the best (0) to the worst (1) (default: 0.25 0.75)",
    )
    parser.add_argument(
        "--guard",
        metavar="SHARE",
        type=float,
        help="leave out unjudged rows above this share of the way from the query's lowest score to its lowest "
        "positive's, as possible hidden answers (default: none is left out)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=12, help="of the draw (default: %(default)s)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the scores before and after (svg, png or pdf)")


def run(options: argparse.Namespace) -> None:
    from runoff.data.shards import Shards
    from runoff.distill import candidates as candidate_shards
    from runoff.distill import labels as label_shards
    from runoff.distill.sample import check_plot, plot, sample

    source = Shards.found(options.source.expanduser(), (candidate_shards.KIND, label_shards.KIND))
    rule = _rule(options, source.kind == candidate_shards.KIND)
    if options.plot:
        check_plot(Path(options.plot).expanduser())
    count = source.checked()["counts"]["pairs"]
    scores = Path(options.scores).expanduser() if options.scores else None
    with progress_bar(count, "rows", options) as bar:
        report = sample(source.folder, options.out.expanduser(), rule, scores, bar.update)
    if options.plot:
        plot(report, Path(options.plot).expanduser(), "score" if scores else "label")
    quantiles = report.quantiles()
    facts: dict[str, Any] = {
        "out": str(options.out),
        "queries": report.queries,
        "rows_before": len(report.before),
        "rows": len(report.after),
        "positives": report.positives,
        "quantiles": quantiles,
    }
    if options.json:
        print_json(facts)
        return
    shown = {
        "rows": f"{len(report.after):,} of {len(report.before):,}, of {report.queries:,} queries",
        "positives": f"{report.positives:,}",
        **{
            f"scores {name}": ", ".join(f"{value:.3g}" for value in values)
            + " (least, 5, 25, 50, 75, 95 %, most)"
            for name, values in quantiles.items()
            if values
        },
        "plot": options.plot,
    }
    print_facts(open_terminal(), f"a sample in {options.out}", shown)


def _rule(options: argparse.Namespace, is_of_candidates: bool) -> Rule:
    from runoff.data.sampling import AnchorRule, BandRule, Guard

    guard = Guard(options.guard)
    if (options.rule or ("anchors" if is_of_candidates else "band")) == "anchors":
        return AnchorRule(options.total, options.hardest, guard, options.seed)
    return BandRule(options.head, options.medium, tuple(options.band), guard, options.seed)
