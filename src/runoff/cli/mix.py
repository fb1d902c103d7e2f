"""`runoff mix`: named subsets -> one folder of rows to train on."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import Commands, new_command, progress_bar
from runoff.cli.terminal import Column, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.data.mixture import Mixture
    from runoff.distill.mixed import MixReport

EXAMPLES = """\
  runoff mix ettin-v1 --list                                      the 39 subsets of the published mixture
  runoff mix ettin-v1 build/rows                                  fetch and mix them, about 143 million rows
  runoff mix ettin-v1 build/rows-few --only quora --only npr
  runoff mix ours.toml build/rows --copy org/name=/data/name      with a dataset that was copied before
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "mix",
        run,
        summary="distil, between the steps: mix named subsets, with caps and weights, into one folder of rows",
        description="Writes OUT, a folder of labels with the column `subset`: the rows of one subset after the other,\n"
        "from local folders and datasets of the hub. MIXTURE is a TOML or JSON file that names the subsets with their\n"
        "caps, weights and licences, or ettin-v1. Rows held out for an evaluation loss go to OUT/held-out. Which\n"
        "rows are drawn depends on the mixture and its seed alone. Stopped midway, the same command goes on.",
        examples=EXAMPLES,
    )
    parser.add_argument("mixture", metavar="MIXTURE", help="a .toml or .json file, or ettin-v1")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="the folder to write")
    parser.add_argument("--list", action="store_true", help="show the subsets and read nothing of them")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="this subset alone; may be given several times",
    )
    parser.add_argument("--seed", metavar="N", type=int, help="of the draws (default: the mixture's)")
    parser.add_argument(
        "--copy",
        metavar="DATASET=FOLDER",
        type=copied,
        action="append",
        default=[],
        help="read a dataset of the hub from a folder that holds all of it, as hf download makes it; may be given "
        "several times",
    )


def copied(text: str) -> tuple[str, Path]:
    """DATASET=FOLDER."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected DATASET=FOLDER, got {text!r}")
    return name, Path(folder).expanduser()


def run(options: argparse.Namespace) -> None:
    from runoff.checkpoint.hub import HubDatasets
    from runoff.contracts import InputError
    from runoff.data.mixture import find_mixture
    from runoff.distill.mix import mix

    mixture = find_mixture(options.mixture)
    if options.only:
        mixture = mixture.only(options.only)
    if options.seed is not None:
        mixture = replace(mixture, seed=options.seed)
    if options.list:
        _list(mixture, options.json)
        return
    if options.out is None:
        raise InputError("expected OUT, the folder to write (or --list, to see the subsets)")
    datasets = HubDatasets(dict(options.copy))
    with progress_bar(None, "rows", options) as bar:
        report = mix(mixture, options.out.expanduser(), datasets, advance=bar.update)
    _print(mixture, report, options)


def _list(mixture: Mixture, as_json: bool) -> None:
    if as_json:
        print_json(mixture.definition())
        return
    terminal = open_terminal()
    terminal.line(f"{mixture.name}: {len(mixture.subsets)} subsets, seed {mixture.seed}")
    columns = [
        Column("subset"),
        Column("from", share=2),
        Column("cap", is_number=True),
        Column("weight", is_number=True),
        Column("held out", is_number=True),
        Column("licence"),
    ]
    rows = [
        (
            subset.name,
            subset.source,
            f"{subset.cap:,}" if subset.cap else "",
            f"{subset.weight:g}",
            f"{subset.held_out:,}" if subset.held_out else subset.held_out_split or "",
            subset.licence or "not stated",
        )
        for subset in mixture.subsets
    ]
    terminal.table(columns, rows)


def _print(mixture: Mixture, report: MixReport, options: argparse.Namespace) -> None:
    facts: dict[str, Any] = {
        "out": str(options.out),
        "mixture": mixture.name,
        "seed": mixture.seed,
        "pairs": report.pairs,
        "held_out": report.held_out,
        "mean": report.mean,
        "deviation": report.deviation,
        "subsets": [asdict(subset) for subset in report.subsets],
    }
    if options.json:
        print_json(facts)
        return
    terminal = open_terminal()
    columns = [Column("subset"), *(Column(name, is_number=True) for name in ("seen", "taken", "held out"))]
    terminal.table(
        [*columns, Column("licence")],
        [
            (
                each.name,
                f"{each.seen:,}",
                f"{each.taken:,}",
                f"{each.held_out:,}" if each.held_out else "",
                each.licence or "not stated",
            )
            for each in report.subsets
        ],
    )
    shown = {
        "rows": f"{report.pairs:,} of {len(report.subsets)} subsets",
        "held out": f"{report.held_out:,}, in {options.out / 'held-out'}" if report.held_out else None,
        "label": f"mean {report.mean:.3f}, standard deviation {report.deviation:.3f}",
    }
    print_facts(terminal, f"rows in {options.out}", shown)
