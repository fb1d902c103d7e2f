"""`runoff teach`: a teacher's scores of candidates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runoff.cli.info import print_facts
from runoff.cli.options import (
    Commands,
    add_model_options,
    lasting_name,
    load_embedder,
    load_reranker,
    new_command,
    positive,
    progress_bar,
)
from runoff.cli.terminal import open_terminal, print_json

EXAMPLES = """\
  runoff teach build/cand build/scores-large --model mixedbread-ai/mxbai-rerank-large-v2 --device cuda
  runoff teach build/cand build/scores-nano --model runoff-nano
  runoff teach build/cand build/scores-cosine --model BAAI/bge-small-en-v1.5 --as similarity
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "teach",
        run,
        summary="distil, step 2: score candidates with a teacher",
        description="Scores every pair of CANDIDATES once and writes OUT, a folder of parquet shards: key, query_id,\n"
        "document_id and the teacher's raw score (a reranker's logit before any activation, an embedder's cosine).\n"
        "A pair is known by its texts. Stopped midway, by whatever, the same command goes on where it was; with more\n"
        "candidates, it scores the new ones.",
        examples=EXAMPLES,
    )
    parser.add_argument("candidates", metavar="CANDIDATES", type=Path, help="made by `runoff collect`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write, one for each teacher")
    parser.add_argument(
        "--as",
        dest="role",
        choices=("reranker", "similarity"),
        default="reranker",
        help="what the model is: a reranker, or an embedder whose cosine is the score (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-pairs",
        metavar="N",
        type=positive,
        help="pairs of a shard, which is what a kill costs at most (default: 8192)",
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    from runoff.data.shards import Shards
    from runoff.distill import candidates as candidate_shards
    from runoff.distill.teacher import SHARD_PAIRS, RerankerTeacher, SimilarityTeacher, Teacher, teach

    folder = options.candidates.expanduser()
    count = Shards(folder, candidate_shards.KIND).checked()["counts"]["pairs"]
    teacher: Teacher
    if options.role == "reranker":
        model = load_reranker(options)
        teacher = RerankerTeacher(model)
        about = {"precision": model.choice.precision, "max_length": model.max_seq_length}
    else:
        embedder = load_embedder(options, lasting_name(options.model))
        teacher = SimilarityTeacher(embedder)
        about = {"precision": embedder.choice.precision, "max_length": embedder.max_seq_length}
    with progress_bar(count, "pairs", options) as bar:
        report = teach(
            folder,
            teacher,
            options.out.expanduser(),
            about={"as": options.role, "revision": options.revision, **about},
            shard_pairs=options.shard_pairs or SHARD_PAIRS,
            advance=bar.update,
        )
    facts: dict[str, Any] = {
        "out": str(options.out),
        "teacher": teacher.name,
        "pairs": report.pairs,
        "scored": report.scored,
        "known": report.known,
        "mean": report.mean,
        "deviation": report.deviation,
    }
    if options.json:
        print_json(facts)
        return
    shown = {
        "teacher": teacher.name,
        "pairs": f"{report.pairs:,}",
        "scored": f"{report.scored:,} now; {report.known:,} were known or stand there twice",
        "scores": f"mean {report.mean:.4g}, standard deviation {report.deviation:.4g}",
    }
    print_facts(open_terminal(), f"scores in {options.out}", shown)
