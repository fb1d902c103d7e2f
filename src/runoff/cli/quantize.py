"""`runoff quantize`: a model in a lower precision, as a checkpoint that loads by memory map."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from runoff import __version__
from runoff.cli.info import print_facts
from runoff.cli.options import (
    Commands,
    add_hub_options,
    add_threads_option,
    find_either,
    is_terminal,
    lasting_name,
    new_command,
    share,
)
from runoff.cli.terminal import open_terminal, print_json

EXAMPLES = """\
  runoff quantize runoff-nano nano-int8                         int8, with 2 % noise at most
  runoff quantize runoff-nano nano-int8 --calibration pairs.jsonl    measured on pairs of your own as well
  runoff quantize runoff-nano nano-bf16 --precision bf16        16 bits, nearly exact
  runoff search "when is the boiler due" --index notes.index --model nano-int8
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "quantize",
        run,
        summary="write a model's weights in int8 or bf16, with the error that was measured",
        description="Writes OUT: the model with its layers' matrices packed for Runoff's CPU engine, so that it loads\n"
        "by memory map and needs no self-check. The noise of int8 (the spread of the score differences, as a share\n"
        "of the scores' own spread) is measured, outliers are smoothed where that lowers it, and the most sensitive\n"
        "matrices keep 16 bits until it is within the target. OUT/README.md says what came of it. Only Runoff reads\n"
        "OUT, in that precision, on a CPU.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a name on the Hugging Face hub, or runoff-nano"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--precision", choices=("int8", "bf16"), default="int8", help="of the layers (default: %(default)s)"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="pairs to measure on, beside those that come with Runoff (- for stdin; at most 256 are taken): a query, "
        'a tab and a document a line, or {"query": ..., "document": ...}',
    )
    parser.add_argument(
        "--target",
        metavar="NOISE",
        type=share,
        default=0.02,
        help="most noise, as a share of the scores' spread (default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a checkpoint that quantize wrote to OUT"
    )
    add_hub_options(parser)
    add_threads_option(parser)


def run(options: argparse.Namespace) -> None:
    from runoff.cli.inputs import read_pairs
    from runoff.model import ModelOptions
    from runoff.quantize import Order, check_place, checked_model, quantize, sampled

    asked = ModelOptions(
        device="cpu",
        threads=options.threads,
        revision=options.revision,
        local_files_only=options.local_files_only,
    )
    found, _ = find_either(options.model, asked)
    # Before a long file of pairs is read: what cannot be done shows at once.
    checked_model(found)
    check_place(options.out.expanduser().resolve(), found.folder.resolve(), options.force)
    pairs = sampled(read_pairs(options.calibration)) if options.calibration else []
    order = Order(
        source=_public_name(options.model),
        out=options.out,
        precision=options.precision,
        target=options.target,
        version=__version__,
        pairs=pairs,
        pairs_name="stdin" if options.calibration == "-" else Path(options.calibration or "").name,
        replaces=options.force,
        shows_progress=not options.json and is_terminal(sys.stderr),
    )
    facts = quantize(found, order)
    if options.json:
        print_json(facts)
    else:
        _print(facts)


def _public_name(model: str) -> str:
    """The model's name as others may read it: of a local folder its own name, not where it lies."""
    path = Path(model).expanduser()
    return Path(lasting_name(model)).name if path.is_dir() else model


def _print(facts: dict[str, Any]) -> None:
    measured, kept, matrices = facts["measured"], facts["kept_in_16_bits"], facts["matrices"]
    shown: dict[str, Any] = {
        "written": facts["out"],
        "precision": f"{facts['precision']}: {matrices['int8']} matrices in int8, {matrices['16 bits']} in 16 bits",
        "16 bits": ", ".join(kept) if kept else None,
        "noise": f"{measured['noise']:.4f} (at most {measured['target']:g} was asked for)",
    }
    if facts["precision"] == "int8":
        trials = ", ".join(f"{part} {noise:.4f}" for part, noise in measured["smoothing_trials"].items())
        kept_parts = ", ".join(facts["smoothed"]) or "none, since none is lower"
        shown["int8 alone"] = f"{measured['plain_noise']:.4f}"
        shown["smoothed"] = f"{trials} (kept: {kept_parts})"
    shown |= {
        "spearman": f"{measured['spearman']:.5f} against fp32",
        "largest": f"difference {measured['largest_difference']:.4f}",
        "measured on": measured["on"],
        "weights": f"{facts['bytes_before'] / 1e6:.1f} MB before, {facts['bytes_after'] / 1e6:.1f} MB after",
    }
    print_facts(open_terminal(), f"{facts['model']}, quantized", shown)
