"""NDCG@10 on judged collections: BM25, the model, and both fused, with intervals."""

import hashlib
import json
import os
import platform
import random
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from files import write_atomically
from first_stage import bm25_index, bm25_search
from start import SEED
from teacher import Prepared


def evaluate(args) -> None:
    from sentence_transformers import CrossEncoder

    folders = sorted(folder for folder in args.judged.iterdir() if (folder / "corpus.jsonl").is_file())
    if not folders:
        raise SystemExit(f"--judged {args.judged}: expected BEIR folders (corpus.jsonl, ...), found none")
    model = CrossEncoder(str(args.model), device="cpu", max_length=512)
    about, bf16, weights, lines = circumstances(args), args.precision == "bf16", [1.0], []
    if args.prepared:
        weight, mrr = held_out_weight(model, args.prepared, bf16)
        weights += [weight] if weight != 1.0 else []
        lines.append({"held_out_mrr_by_weight": mrr, "chosen_weight": weight, **about})
        print(json.dumps(lines[-1]), flush=True)
    for folder in folders:
        for line in judge_collection(model, folder, weights, args.limit, bf16):
            lines.append({**line, **about})
            print(json.dumps(line), flush=True)
        write_atomically(args.out, "".join(json.dumps(line) + "\n" for line in lines).encode())


def judge_collection(model, folder: Path, weights: list[float], limit: int, bf16: bool) -> list[dict]:
    """One line of figures for BM25, one for nano alone and one for each fusion weight."""
    documents, queries, grades = read_judged(folder)
    ids = list(documents)
    asked = sorted(queries)
    if len(asked) > limit:
        asked = sorted(random.Random(SEED).sample(asked, limit))
    texts = [queries[q] for q in asked]
    found, bm25_scores = bm25_search(*bm25_index(list(documents.values())), texts, 100)
    begun = time.monotonic()
    nano = score_lists(model, texts, [[documents[ids[d]] for d in row] for row in found], bf16)
    seconds = time.monotonic() - begun
    systems = {"bm25": [row.astype(np.float64) for row in bm25_scores], "nano": nano}
    for weight in weights:
        systems[f"z(bm25)+{weight:g}*z(nano)"] = [
            z(bm25_scores[i].astype(np.float64)) + weight * z(nano[i]) for i in range(len(asked))
        ]
    figures = {}
    for name, scores in systems.items():
        run = {
            q: {ids[d]: float(s) for d, s in zip(found[i], scores[i], strict=True)}
            for i, q in enumerate(asked)
        }
        figures[name] = ndcg_at_10(grades, run)
    return [
        {
            "collection": folder.name,
            "system": name,
            "ndcg_at_10": round(float(values.mean()), 4),
            "minus_bm25_95": difference_interval(values, figures["bm25"]),
            "queries": len(asked),
            "queries_judged": len(queries),
            "documents": len(ids),
            "pairs": sum(map(len, nano)),
            "seconds": round(seconds, 1),
        }
        for name, values in figures.items()
    ]


def held_out_weight(model, folder: Path, bf16: bool, count: int = 150) -> tuple[float, dict[str, float]]:
    """(weight w of z(BM25) + w z(nano), MRR by weight) that ranks the positive best among BM25's top 100.

    Judged on held-out training queries whose positive BM25 finds, over all training passages.
    """
    prepared = Prepared(folder)
    rows = range(prepared.train_queries, prepared.train_queries + count)
    queries = [prepared.queries[q] for q in rows]
    found, bm25_scores = bm25_search(*bm25_index(prepared.passages), queries, 100)
    hit = [i for i, q in enumerate(rows) if prepared.chosen[q][0] in found[i]]
    scores = score_lists(
        model, [queries[i] for i in hit], [[prepared.passages[p] for p in found[i]] for i in hit], bf16
    )
    mrr = {}
    for weight in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 100):
        places = []
        for i, nano in zip(hit, scores, strict=True):
            fused = z(bm25_scores[i].astype(np.float64)) + weight * z(nano)
            places.append(1 + int((fused > fused[found[i] == prepared.chosen[rows[i]][0]][0]).sum()))
        mrr[str(weight)] = round(float(np.mean(1 / np.array(places))), 4)
    return float(max(mrr, key=mrr.get)), mrr


def read_judged(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """(documents by id with the title in front, queries by id, grades by query and document) of a BEIR folder."""
    documents, queries, grades = {}, {}, defaultdict(dict)
    for row in map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()):
        documents[row["_id"]] = f"{row.get('title', '')} {row['text']}".strip()
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades[query][document] = int(grade)
    for row in map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()):
        if any(grade > 0 for grade in grades[row["_id"]].values()):
            queries[row["_id"]] = row["text"]
    return documents, queries, grades


def score_lists(model, queries: list[str], lists: list[list[str]], bf16: bool) -> list[np.ndarray]:
    """The model's raw scores for each query's list of documents, pairs cut at 512 tokens."""
    pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        scores = model.predict(pairs, batch_size=32, show_progress_bar=False)
    return np.split(np.asarray(scores, np.float64), np.cumsum([len(texts) for texts in lists])[:-1])


def z(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def ndcg_at_10(grades: dict, run: dict[str, dict[str, float]]) -> np.ndarray:
    """NDCG@10 [queries of the run, in its order] by pytrec_eval."""
    import pytrec_eval

    judge = pytrec_eval.RelevanceEvaluator({q: grades[q] for q in run}, {"ndcg_cut_10"})
    found = judge.evaluate(run)
    return np.array([found[q]["ndcg_cut_10"] for q in run])


def difference_interval(figures: np.ndarray, base: np.ndarray, draws: int = 10000) -> list[float]:
    """The 95 % interval of mean(figures) - mean(base) by paired bootstrap over queries."""
    difference = figures - base
    sample = np.random.default_rng(SEED).integers(len(difference), size=(draws, len(difference)))
    return [round(float(x), 4) for x in np.percentile(difference[sample].mean(1), [2.5, 97.5])]


def circumstances(args) -> dict:
    """Machine, versions and command, for every line of figures."""
    cpu = (
        next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.machine(),
        )
        if os.path.exists("/proc/cpuinfo")
        else ""
    )
    packages = ("torch", "sentence-transformers", "transformers", "bm25s", "pytrec_eval-terrier", "numpy")
    weights = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "weights_sha256": weights,
        "precision": args.precision,
        "command": "python recipes/runoff_nano evaluate --judged JUDGED "
        f"--model models/{args.model.name} --precision {args.precision} --limit {args.limit}"
        + (" --prepared PREPARED" if args.prepared else ""),
    }
