"""`runoff distil`: the whole journey, from a corpus and a teacher to a published reranker."""

from __future__ import annotations

import argparse
import io
import json
import shlex
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from runoff.cli.options import CommandParser, Commands, new_command, positive
from runoff.cli.terminal import note, print_json
from runoff.cli.train import add_recipe_options, add_watching_options

EXAMPLES = """\
  runoff distil notes.index build/mine --draw sentences --teacher runoff-nano --backbone ~/models/all-MiniLM-L6-v2
  runoff distil wiki.index build/mine --queries q.tsv --qrels q.qrels --teacher mixedbread-ai/mxbai-rerank-large-v2
  runoff distil notes.index build/mine --draw headings --teacher runoff-nano --similarity BAAI/bge-small-en-v1.5=0.5 \\
      --bm25 0.3 --positive-bonus 1
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "distil",
        run,
        summary="a reranker of your own: all steps from a corpus and a teacher to a model",
        description="Runs collect, teach, label, sample, train and publish after one another in OUT, and shows each\n"
        "as the command it is, so that you can go on by hand from any of them. Stopped at any point, the same command\n"
        "goes on there.",
        examples=EXAMPLES,
    )
    parser.add_argument("index", metavar="INDEX", type=Path, help="the corpus, made by `runoff index`")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="the folder for all that is made; OUT/model is the reranker"
    )
    group = parser.add_argument_group("queries and candidates")
    group.add_argument(
        "--queries", metavar="FILE", help="a query a line, or jsonl, csv or tsv with ids, or a BEIR folder"
    )
    group.add_argument("--qrels", metavar="FILE", help="their judgements")
    group.add_argument(
        "--draw", choices=("titles", "headings", "sentences"), help="draw the queries from the corpus"
    )
    group.add_argument("--count", metavar="N", type=positive, help="queries to draw")
    group.add_argument("--retrieve", choices=("bm25", "dense", "hybrid"), help="default: bm25")
    group.add_argument("--depth", metavar="N", type=positive, help="candidates a query (default: 100)")
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--teacher",
        metavar="NAME[=WEIGHT]",
        action="append",
        default=[],
        help="a reranker; several are summed",
    )
    group.add_argument(
        "--similarity",
        metavar="NAME[=WEIGHT]",
        action="append",
        default=[],
        help="an embedder whose cosine counts too",
    )
    group.add_argument("--bm25", metavar="WEIGHT", type=float, help="what BM25 said counts too")
    group.add_argument("--positive-bonus", metavar="NUMBER", type=float, help="added for judged answers")
    group.add_argument(
        "--head", metavar="N", type=positive, default=32, help="rows of a query: the best (default: 32)"
    )
    group.add_argument(
        "--medium", metavar="N", type=positive, default=32, help="and from the middle (default: 32)"
    )
    group.add_argument("--guard", metavar="SHARE", type=float, help="see runoff sample")
    parser.later(_add_options)


def _add_options(parser: CommandParser) -> None:
    add_recipe_options(parser)
    add_watching_options(parser)
    group = parser.add_argument_group("the model")
    group.add_argument("--int8", action="store_true", help="also write OUT/model-int8")
    group.add_argument("--licence", metavar="ID", help="of the weights, such as apache-2.0, for the card")
    group.add_argument("--base-model", metavar="ORG/NAME", help="the backbone on the hub, for the card")
    group.add_argument(
        "--dry-run", action="store_true", help="stop before training, and say what it will take"
    )


def run(options: argparse.Namespace) -> None:
    from runoff.cli import build_parser
    from runoff.contracts import InputError

    if not options.teacher and not options.similarity:
        raise InputError("expected at least one --teacher or --similarity, whose scores are to be learned")
    commands = list(_commands(options))
    steps = []
    for number, command in enumerate(commands, start=1):
        note(f"{number} of {len(commands)}: runoff {shlex.join(command)}")
        asked = [*command, *(["--debug"] if options.debug else []), *(["--json"] if options.json else [])]
        each = build_parser().parse_args(asked)
        said = io.StringIO()
        with redirect_stdout(said) if options.json else nullcontext():
            each.run(each)
        if options.json:
            steps.append({"command": "runoff " + shlex.join(command), "facts": json.loads(said.getvalue())})
    if options.json:
        print_json({"steps": steps, "model": None if options.dry_run else str(options.out / "model")})


def _commands(options: argparse.Namespace) -> Iterator[list[str]]:
    """The command lines of all steps."""
    out = options.out
    candidates, rows, sample = str(out / "candidates"), str(out / "rows"), str(out / "sample")
    yield [
        *("collect", candidates, "--index", str(options.index)),
        *_given(options, "queries", "qrels", "draw", "count", "retrieve", "depth"),
    ]
    label = []
    for role, names in (("reranker", options.teacher), ("similarity", options.similarity)):
        for name in names:
            model, weight = _weighted(name)
            scores = str(out / f"scores-{_slug(model)}")
            yield [
                "teach",
                candidates,
                scores,
                "--model",
                model,
                *([] if role == "reranker" else ["--as", role]),
            ]
            label += ["--scores", f"{scores}={weight}"]
    if options.bm25 is not None:
        label += ["--column", f"bm25={options.bm25}"]
    yield ["label", candidates, rows, *label, *_given(options, "positive_bonus")]
    yield ["sample", rows, sample, *_given(options, "head", "medium", "guard")]
    train = [*_given(options, *RECIPE), *[part for loss in options.loss or () for part in ("--loss", loss)]]
    train += [part for what in options.evaluate or () for part in ("--evaluate", what)]
    train += ["--train-embeddings"] if options.train_embeddings else []
    run_folder = str(out / "run")
    if options.dry_run:
        yield ["train", sample, run_folder, *train, "--dry-run"]
        return
    yield ["train", sample, run_folder, *train]
    if not (out.expanduser() / "model").exists():  # it appears whole, and last
        yield [
            *("publish", run_folder, str(out / "model"), "--rows", sample),
            *(["--int8"] if options.int8 else []),
            *_given(options, "licence", "base_model"),
        ]


RECIPE = (
    *(
        "recipe",
        "backbone",
        "layers",
        "group",
        "learning_rate",
        "head_rate",
        "batch",
        "epochs",
        "pooling",
        "max_length",
    ),
    *("warmup", "dropout", "precision", "every", "keep", "subset", "seed", "held_out", "compare"),
)
_DESTINATIONS = {"batch": "global_batch"}


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """The options of these names, as far as they were given."""
    found = []
    for name in names:
        value = getattr(options, _DESTINATIONS.get(name, name))
        if value is not None:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def _weighted(name: str) -> tuple[str, float]:
    from runoff.cli.label import weighted
    from runoff.contracts import InputError

    try:
        return weighted(name)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from error


def _slug(model: str) -> str:
    """A folder's name for a model's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(model).name or model)
