"""`runoff publish`: a training run -> a model folder that others load, with its card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff import __version__
from runoff.cli.info import print_facts
from runoff.cli.options import Commands, add_threads_option, new_command
from runoff.cli.terminal import note, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import FloatArray, Pair

EXAMPLES = """\
  runoff publish build/run my-reranker                              bf16 files and a card
  runoff publish build/run my-reranker --int8 --judged results.jsonl --licence apache-2.0
  runoff publish build/run my-reranker --push ORG/my-reranker --private
"""

# Words of a pair that is longer than most, so that more than a few positions are compared.
_LONG_WORDS = 400


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "publish",
        run,
        summary="distil, the last step: a run's model as others load it",
        description="Writes OUT from RUN, a finished run of `runoff train`: weights, tokenizer and a model card whose\n"
        "figures come from the run and from what `runoff judge` wrote. OUT appears once sentence-transformers and\n"
        "Runoff both loaded it and gave the run's scores on probe pairs; nothing is left of what fails.",
        examples=EXAMPLES,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="made by `runoff train`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of the weights on the disk; both are computed with in fp32 (default: %(default)s, half the size)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="also write OUT-int8 for Runoff on a CPU, its error measured"
    )
    parser.add_argument("--force", action="store_true", help="replace what was published to OUT before")
    card = parser.add_argument_group("the card")
    card.add_argument(
        "--judged",
        metavar="FILE",
        type=Path,
        action="append",
        help="figures that `runoff judge --out FILE` wrote of this model; may be repeated",
    )
    card.add_argument(
        "--rows",
        metavar="FOLDER",
        type=Path,
        help="the rows of the run: counts and licences of their subsets",
    )
    card.add_argument(
        "--licence",
        "--license",
        metavar="ID",
        help="of the weights, such as apache-2.0 (default: none is stated)",
    )
    card.add_argument("--language", metavar="CODE", help="such as en")
    card.add_argument(
        "--base-model",
        metavar="ORG/NAME",
        help="the backbone on the hub, where the run took it from a folder",
    )
    hub = parser.add_argument_group("hub")
    hub.add_argument("--push", metavar="ORG/NAME", help="then upload it (OUT-int8 as ORG/NAME-int8)")
    hub.add_argument("--private", action="store_true", help="make a new repository private")
    add_threads_option(parser)


def run(options: argparse.Namespace) -> None:
    from runoff.checkpoint.hub import check_push, push_folder
    from runoff.contracts import InputError
    from runoff.publish.release import Order, Tools, publish
    from runoff.selfcheck import check_pairs

    if options.private and not options.push:
        raise InputError("--private is of a repository on the hub: give it with --push ORG/NAME")
    if options.push:
        check_push(options.push)  # before minutes of work
    order = Order(
        run=options.run_folder.expanduser(),
        out=options.out.expanduser(),
        version=__version__,
        precision=options.precision,
        repository=options.push,
        licence=options.licence,
        language=options.language,
        base_model=options.base_model,
        judged=[path.expanduser() for path in options.judged or ()],
        rows=options.rows.expanduser() if options.rows else None,
        replaces=options.force,
    )
    query, answer = check_pairs()[0]
    long_pair = (query, " ".join((f"{answer} " * _LONG_WORDS).split()[:_LONG_WORDS]))
    facts = publish(
        order,
        Tools(
            pairs=[*check_pairs(), long_pair],
            score=lambda folder, pairs: _scores(folder, pairs, options.threads),
            quantize=_quantizer(order.name, options.threads) if options.int8 else None,
        ),
    )
    facts["pushed"] = []
    if options.push:
        facts["pushed"].append(push_folder(order.out, options.push, private=options.private))
        if options.int8:
            named = f"{options.push}-int8"
            facts["pushed"].append(push_folder(order.int8_out, named, private=options.private))
    if options.json:
        print_json(facts)
    else:
        _print(facts)


def _scores(folder: Path, pairs: Sequence[Pair], threads: int | None) -> FloatArray:
    """Runoff's raw scores in fp32."""
    import numpy as np

    from runoff.crossencoder import CrossEncoder

    model = CrossEncoder(folder, device="cpu", precision="fp32", threads=threads)
    return np.asarray(model.predict(list(pairs), activation_fn="identity"), np.float32).reshape(-1)


def _quantizer(name: str, threads: int | None) -> Any:
    """The function that writes a model's int8 form; `name` is what the model is called."""

    def quantized(source: Path, out: Path) -> Mapping[str, Any]:
        from runoff.model import ModelOptions, find
        from runoff.quantize import Order, quantize

        found = find(source, "reranker", ModelOptions(device="cpu", threads=threads))
        title = f"{name.rpartition('/')[2]}-int8"
        return quantize(
            found, Order(source=name, out=out, precision="int8", target=0.02, version=__version__, name=title)
        )

    return quantized


def _print(facts: dict[str, Any]) -> None:
    verified, int8 = facts["verified"], facts["int8"]
    shown = {
        "weights": f"{facts['bytes'] / 1e6:.1f} MB in {facts['precision']}",
        "checked": f"{verified['pairs']} pairs in sentence-transformers and Runoff, which differ by "
        f"{verified['between_programs']:.2g} at most",
        "from the run": f"largest difference {verified['from_run']:.3g}, noise {verified['noise']:.2g}",
        "judged on": ", ".join(facts["judged_sets"]) or "nothing: the card has no figures (see --judged)",
        "licence": facts["licence"] or "not stated (see --licence)",
    }
    if int8:
        shown["int8"] = (
            f"{int8['out']}: {int8['bytes_after'] / 1e6:.1f} MB, noise {int8['measured']['noise']:.4f}, Spearman "
            f"{int8['measured']['spearman']:.5f}"
        )
    if facts["pushed"]:
        shown["pushed"] = ", ".join(facts["pushed"])
    if facts["stale_int8"]:
        note(
            f"{facts['stale_int8']} is of other weights than {facts['out']}: publish with --int8, or delete it"
        )
    print_facts(open_terminal(), f"published in {facts['out']}", shown)
