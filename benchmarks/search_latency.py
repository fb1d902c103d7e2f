"""How long a search takes: each stage in one process, and from typing `runoff search` to the answer.

The documents are the Wikipedia leads of the demo (build/demo, see recipes/demo_collection.py), indexed with
runoff-nano's token ids and, for dense and hybrid retrieval, with vectors of a table in the shape of
static-retrieval-mrl-en-v1 (random numbers: the time is the real one's, the vectors mean nothing). "stages" are
medians and 95th percentiles over queries that are all new, on an open index after one query for warmth;
"typed" is the wall time of whole `runoff search` processes, Python's start and every import included, with what
the command itself says of its stages. A line replaces that of the same settings and machine in
benchmarks/results/search_latency.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingest import LEADS, NANO, ROOT, circumstances, leads, made_queries, record

QUERIES, QUICK_QUERIES = 12, 3
TYPED, QUICK_TYPED = 7, 3
TABLE_ROWS, TABLE_DIMENSION = 30522, 1024
STAGES = ("retrieve", "rerank", "total")
WAYS = {
    "bm25, stored token ids": {},
    "bm25, texts tokenised": {"tokens": "text"},
    "dense, stored token ids": {"retrieve": "dense"},
    "hybrid, stored token ids": {"retrieve": "hybrid"},
}


def static_table(folder: Path) -> Path:
    """An embedder in the shape of static-retrieval-mrl-en-v1 with random rows, over runoff-nano's tokenizer."""
    import numpy as np
    from safetensors.numpy import save_file

    (folder / "0_StaticEmbedding").mkdir(parents=True)
    rows = np.random.default_rng(1).standard_normal((TABLE_ROWS, TABLE_DIMENSION), np.float32)
    save_file({"embedding.weight": rows}, folder / "0_StaticEmbedding" / "model.safetensors")
    (folder / "0_StaticEmbedding" / "tokenizer.json").write_bytes((NANO / "tokenizer.json").read_bytes())
    module = {"idx": 0, "name": "0", "path": "0_StaticEmbedding"}
    module["type"] = "sentence_transformers.models.StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps([module]))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "cosine"}))
    return folder


def made_index(folder: Path) -> tuple[Path, Path]:
    """(index, embedder) in `folder`, over all leads."""
    from runoff import CrossEncoder, Embedder, Index
    from runoff.data.formats import read_documents
    from runoff.search.index import IngestOptions

    embedder = static_table(folder / "static-table")
    index = Index.create(folder / "index", CrossEncoder("runoff-nano"), Embedder(embedder))
    index.add(read_documents(LEADS), IngestOptions(show_progress=False))
    return folder / "index", embedder


def stages_of(index_path: Path, embedder_path: Path, queries: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of each stage for each way of searching: {way: {stage: {median, p95}}}."""
    from runoff import CrossEncoder, Embedder, Index, Search
    from runoff.search.pipeline import SearchOptions

    reranker, embedder = CrossEncoder("runoff-nano"), Embedder(embedder_path)
    index = Index.open(index_path)
    figures: dict[str, Any] = {}
    for way, options in WAYS.items():
        search = Search(index, reranker, embedder, SearchOptions(**options))
        first, *rest = queries
        search.search(first)
        found = [search.search(query).timings for query in rest]
        figures[way] = {stage: spread([timings[stage] for timings in found]) for stage in STAGES}
    return figures


def typed(index_path: Path, queries: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of whole processes, and of the stages as they say themselves; the first is for warmth."""
    wall: list[float] = []
    said: list[dict[str, float]] = []
    for query in queries:
        command = [sys.executable, "-m", "runoff", "search", query, "--index", str(index_path), "--json"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        wall.append((time.perf_counter() - began) * 1000)
        said.append(json.loads(done.stdout)["timings_ms"])
    stages = {stage: spread([timings[stage] for timings in said[1:]]) for stage in ("load", *STAGES)}
    return {"wall": spread(wall[1:]), **stages}


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = statistics.quantiles(values, n=20, method="inclusive")
    return {"median": round(statistics.median(values), 1), "p95": round(ordered[-1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_QUERIES} queries")
    quick = parser.parse_args().quick
    queries = made_queries((QUICK_QUERIES if quick else QUERIES) + 1)
    with tempfile.TemporaryDirectory(prefix="runoff-bench-") as scratch:
        index, embedder = made_index(Path(scratch))
        stages = stages_of(index, embedder, queries)
        whole = typed(index, queries[: (QUICK_TYPED if quick else TYPED) + 1])
    settings = {"documents": len(leads()), "model": "runoff-nano", "depth": 100, "queries": len(queries) - 1}
    row = {"benchmark": "search_latency", "settings": settings, "stages_ms": stages, "typed_ms": whole}
    record({**row, **circumstances()})
    for way, figures in {**stages, "typed, to the end of the process": whole}.items():
        shown = ", ".join(
            f"{stage} {each['median']:.0f} ({each['p95']:.0f})" for stage, each in figures.items()
        )
        print(f"{way:34} {shown} ms", flush=True)


if __name__ == "__main__":
    main()
