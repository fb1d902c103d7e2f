"""`runoff label`: candidates and teachers' scores -> rows to train on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runoff.cli.info import print_facts
from runoff.cli.options import Commands, new_command, progress_bar
from runoff.cli.terminal import open_terminal, print_json

EXAMPLES = """\
  runoff label build/cand build/rows --scores build/scores-large
  runoff label build/cand build/rows --scores build/scores-large --scores build/scores-cosine=0.5 --column bm25=0.3
  runoff label build/cand build/rows --scores build/scores-cosine --column bm25=0.5 --positive-bonus 1
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "label",
        run,
        summary="distil, step 3: make training rows of candidates and their scores",
        description="Writes OUT, a folder of parquet shards with query, document and label. Of one teacher the label\n"
        "is its raw score, as in the published recipe. Of several parts it is their weighted sum, each brought to\n"
        "mean 0 and deviation 1 over all candidates first. A part that puts judged answers behind the rest is\n"
        "refused.",
        examples=EXAMPLES,
    )
    parser.add_argument("candidates", metavar="CANDIDATES", type=Path, help="made by `runoff collect`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--scores",
        metavar="FOLDER[=WEIGHT]",
        type=weighted,
        action="append",
        default=[],
        help="a teacher's scores, made by `runoff teach` (weight 1); may be given several times",
    )
    parser.add_argument(
        "--column",
        metavar="NAME[=WEIGHT]",
        type=weighted,
        action="append",
        default=[],
        help="what the first stage said, as a share of the query's best: bm25, dense or fusion",
    )
    parser.add_argument(
        "--positive-bonus",
        metavar="NUMBER",
        type=float,
        default=0.0,
        help="added to the label of judged answers (default: %(default)s)",
    )


def weighted(text: str) -> tuple[str, float]:
    """NAME or NAME=WEIGHT; a name with an equals sign in it needs its weight."""
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=WEIGHT with a number, got {text!r}") from None


def run(options: argparse.Namespace) -> None:
    from runoff.contracts import InputError
    from runoff.data.shards import Shards
    from runoff.distill import candidates as candidate_shards
    from runoff.distill.labels import Parts, label

    scores = {str(Path(name).expanduser()): weight for name, weight in options.scores}
    if len(scores) < len(options.scores):
        raise InputError("--scores names a folder twice; give each once, with its weight")
    parts = Parts(scores, dict(options.column), options.positive_bonus)
    folder = options.candidates.expanduser()
    count = Shards(folder, candidate_shards.KIND).checked()["counts"]["pairs"]
    with progress_bar(count, "rows", options) as bar:
        report = label(folder, parts, options.out.expanduser(), bar.update)
    facts: dict[str, Any] = {
        "out": str(options.out),
        "pairs": report.pairs,
        "raw": parts.are_raw,
        "mean": report.mean,
        "deviation": report.deviation,
        "parts": {
            name: {"judged": _number(judged), "rest": _number(rest)}
            for name, (judged, rest) in report.parts.items()
        },
    }
    if options.json:
        print_json(facts)
        return
    shown = {
        "rows": f"{report.pairs:,}",
        "label": f"{'the raw score' if parts.are_raw else 'a sum of parts'}: mean {report.mean:.3f}, standard "
        f"deviation {report.deviation:.3f}",
    }
    shown |= {
        Path(name).name: f"judged answers {judged:.4g} on average, other candidates {rest:.4g}"
        for name, (judged, rest) in report.parts.items()
    }
    print_facts(open_terminal(), f"labels in {options.out}", shown)


def _number(value: float) -> float | None:
    """JSON has no word for what is not a number."""
    return value if value == value else None
