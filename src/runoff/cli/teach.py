"""`runoff teach`: a teacher's scores of candidates."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.info import print_facts
from runoff.cli.options import (
    DEFAULT_MODEL,
    CommandParser,
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

if TYPE_CHECKING:
    from runoff.distill.teacher import Teacher, TeachReport
    from runoff.distill.worker import Workers

EXAMPLES = """\
  runoff teach build/cand build/scores-large --model mixedbread-ai/mxbai-rerank-large-v2 --device cuda
  runoff teach build/cand build/scores-nano --model runoff-nano
  runoff teach build/cand build/scores-cosine --model BAAI/bge-small-en-v1.5 --as similarity
  runoff teach build/cand build/scores-bm25 --as bm25
  runoff teach build/cand build/scores-large --model mixedbread-ai/mxbai-rerank-large-v2 --ray auto --worker-gpus 1
"""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "teach",
        run,
        summary="distil, step 2: score candidates with a teacher",
        description="Scores every pair of CANDIDATES once and writes OUT, a folder of parquet shards: key, query_id,\n"
        "document_id and the teacher's raw score (a reranker's logit, an embedder's cosine, or BM25).\n"
        "A pair is known by its texts. Stopped midway, by whatever, the same command goes on where it was; with more\n"
        "candidates, it scores the new ones.",
        examples=EXAMPLES,
    )
    parser.add_argument("candidates", metavar="CANDIDATES", type=Path, help="made by `runoff collect`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write, one for each teacher")
    parser.add_argument(
        "--as",
        dest="role",
        choices=("reranker", "similarity", "bm25"),
        default="reranker",
        help="what the model is: a reranker, or an embedder whose cosine is the score; bm25 needs no model and scores "
        "every pair by its words, also those that another stage retrieved (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-pairs",
        metavar="N",
        type=positive,
        help="pairs of a shard, which is what a kill costs at most (default: 8192)",
    )
    parser.later(_add_options)


def _add_options(parser: CommandParser) -> None:
    from runoff.distill.prompted import TEMPLATES

    parser.add_argument(
        "--template",
        choices=tuple(TEMPLATES),
        help="how a causal language model is asked (default: by its name, where its folder does not say)",
    )
    add_model_options(parser)
    _add_cluster_options(parser)


def _add_cluster_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cluster (pip install 'runoff[ray]')")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="local",
        help="spread the work over a Ray cluster: auto for the one that this machine is part of, or its HOST:PORT; "
        "without ADDRESS one of this machine alone, for the time of the command",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        help="each with a teacher (default: as many as there is room for)",
    )
    group.add_argument(
        "--worker-cpus",
        metavar="X",
        type=float,
        help="of each, and its threads (default: 1; --threads parts them)",
    )
    group.add_argument(
        "--worker-gpus",
        metavar="X",
        type=float,
        help="of each; 0.5 is half of one (default: 1 with --device cuda)",
    )


@dataclass(frozen=True)
class TeacherModel:
    """The model that the options name, to be loaded here or in a worker elsewhere."""

    role: str
    model: str
    device: str | None
    precision: str
    threads: int | None
    max_length: int | None
    revision: str | None
    local_files_only: bool
    template: str | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> TeacherModel:
        fields = {name: getattr(options, name) for name in cls.__dataclass_fields__}
        return cls(**{**fields, "model": lasting_name(options.model)})

    def __call__(self) -> tuple[Teacher, Mapping[str, Any]]:
        """The teacher, and how it is run: what its scores' manifest says."""
        from runoff.distill.teacher import RerankerTeacher, SimilarityTeacher

        options = argparse.Namespace(**vars(self))
        about: dict[str, Any] = {"as": self.role, "revision": self.revision}
        if self.role == "reranker" and (template := self._template()):
            return self._prompted(template, about)
        if self.role == "reranker":
            reranker = load_reranker(options)
            about |= {"precision": reranker.choice.precision, "max_length": reranker.max_seq_length}
            return RerankerTeacher(reranker), about
        embedder = load_embedder(options, self.model, options.precision)
        about |= {"precision": embedder.choice.precision, "max_length": embedder.max_seq_length}
        return SimilarityTeacher(embedder), about

    def _template(self) -> str | None:
        """How it must be asked, where it is a bare causal language model."""
        from runoff.distill.prompted import template_for

        return self.template or template_for(self.model, self._folder())

    def _folder(self) -> Path:
        from runoff.checkpoint.hub import find_model

        return find_model(
            self.model, "reranker", revision=self.revision, local_files_only=self.local_files_only
        )

    def _prompted(self, template: str, about: dict[str, Any]) -> tuple[Teacher, Mapping[str, Any]]:
        from runoff.contracts import InputError
        from runoff.distill.prompted import LONGEST, PromptedTeacher
        from runoff.distill.train import device as device_of

        if self.precision == "int8":
            raise InputError("a causal language model teaches in fp32 or bf16: leave --precision int8 out")
        device = device_of(self.device)
        is_bf16 = self.precision == "bf16" or (self.precision == "auto" and device != "cpu")
        about |= {
            "precision": "bf16" if is_bf16 else "fp32",
            "max_length": self.max_length or LONGEST,
            "template": template,
        }
        teacher = PromptedTeacher(
            self.model,
            self._folder(),
            template,
            device=device,
            dtype="bfloat16" if is_bf16 else "float32",
            max_length=self.max_length or LONGEST,
        )
        return teacher, about


def run(options: argparse.Namespace) -> None:
    from runoff.data.shards import Shards
    from runoff.distill import candidates as candidate_shards
    from runoff.distill.spread import teach_spread
    from runoff.distill.teacher import SHARD_PAIRS, teach

    folder, out = options.candidates.expanduser(), options.out.expanduser()
    count = Shards(folder, candidate_shards.KIND).checked()["counts"]["pairs"]
    shard_pairs = options.shard_pairs or SHARD_PAIRS
    workers = _workers(options)
    if workers is None:
        teacher, about = _lexical(options) if options.role == "bm25" else TeacherModel.of(options)()
        with progress_bar(count, "pairs", options) as bar:
            report = teach(folder, teacher, out, about=about, shard_pairs=shard_pairs, advance=bar.update)
    else:
        options.threads = options.threads or max(1, int(workers.cpus))
        model = TeacherModel.of(options)
        # Ray tells of every death at length, on stdout. Ours is the answer alone; a warning on stderr says the same.
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            progress_bar(count, "pairs", options) as bar,
        ):
            report = teach_spread(
                folder, model, out, workers=workers, shard_pairs=shard_pairs, advance=bar.update
            )
    _print_report(report, options)


def _lexical(options: argparse.Namespace) -> tuple[Teacher, Mapping[str, Any]]:
    """BM25 with the statistics of the candidates' documents, and what tells it from BM25 over others."""
    from runoff.distill.lexical import K1, B, LexicalTeacher

    teacher = LexicalTeacher.of_candidates(options.candidates.expanduser())
    return teacher, {"as": "bm25", "k1": K1, "b": B, "documents": teacher.documents, "words": teacher.words}


def _workers(options: argparse.Namespace) -> Workers | None:
    """How the work is spread, None for one machine; `InputError` for options of workers without `--ray`."""
    from runoff.contracts import InputError
    from runoff.distill.worker import Workers

    if options.role == "bm25" and options.model != DEFAULT_MODEL:
        raise InputError(f"--as bm25 scores by words and takes no model: leave --model {options.model} out")
    if options.role == "bm25" and options.ray is not None:
        raise InputError("--as bm25 scores 40,000 pairs a second on one machine: leave --ray out")
    given = [name for name in ("workers", "worker_cpus", "worker_gpus") if getattr(options, name) is not None]
    if options.ray is None:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is of a cluster: give --ray too")
        return None
    on_gpu = (options.device or "").startswith("cuda")
    return Workers(
        options.ray,
        options.workers,
        cpus=1.0 if options.worker_cpus is None else options.worker_cpus,
        gpus=float(on_gpu) if options.worker_gpus is None else options.worker_gpus,
    )


def _print_report(report: TeachReport, options: argparse.Namespace) -> None:
    facts: dict[str, Any] = {
        "out": str(options.out),
        "teacher": report.teacher,
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
        "teacher": report.teacher,
        "pairs": f"{report.pairs:,}",
        "scored": f"{report.scored:,} now; {report.known:,} were known or stand there twice",
        "scores": f"mean {report.mean:.4g}, standard deviation {report.deviation:.4g}",
    }
    print_facts(open_terminal(), f"scores in {options.out}", shown)
