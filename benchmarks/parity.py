"""How far Runoff's scores and vectors are from sentence-transformers' in fp32: one line per checkpoint.

Every checkpoint is a stand-in with random weights in the true shape (tests/standins.py). Rerankers score
queries with 25 documents each, most short, some of 4,000 tokens, one pair of 8K where the model takes it;
the same raw scores are asked of both libraries. Embedders score every text against every query.
"same order" counts the queries whose documents both put in the same order, where scores within 1e-6 of each
other count as tied. "inverted" is the largest step up in the reference's scores when they are read in our
order, over all pairs together (0: the orders are the same). "ref. noise" is what sentence-transformers
differs from itself by, batches of 8 against one by one, over the 60 shortest inputs.
Figures replace those of the same checkpoint in benchmarks/results/parity.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import sentence_transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

import standins  # noqa: E402
from runoff import CrossEncoder, Embedder  # noqa: E402
from standin_texts import Candidates, sample_candidates, tricky_pairs  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "parity.jsonl"
TOLERANCE = 1e-4
TIE = 1e-6
DOCUMENTS_EACH = 25
# The prose makes about 1.65 tokens a word with the stand-ins' byte-level pieces.
WORDS_OF_4K_TOKENS = 2400
WORDS_OF_8K_TOKENS = 4850
LONG_CHARACTERS = 4000


@dataclass(frozen=True)
class Case:
    """One checkpoint: how it is built, over how many queries, and whether `--quick` includes it."""

    name: str
    build: Callable[[Path], Path]
    query_count: int = 20
    longest_words: int = WORDS_OF_4K_TOKENS
    has_8k_pair: bool = False
    is_quick: bool = False
    is_embedder: bool = False


def _ettin(size: str, **options: Any) -> Case:
    return Case(f"ettin-reranker-{size}", partial(standins.build_ettin_reranker, size=size), **options)


CASES = (
    _ettin("17m", has_8k_pair=True, is_quick=True),
    _ettin("32m", has_8k_pair=True),
    _ettin("68m", has_8k_pair=True),
    _ettin("150m", has_8k_pair=True),
    _ettin("400m", query_count=1, longest_words=400),
    _ettin("1b", query_count=1, longest_words=200),
    Case("bert, ms-marco-MiniLM-L6 shape", standins.build_bert_classifier, is_quick=True),
    Case("all-MiniLM-L6-v2 with a random head", standins.build_minilm_reranker),
    Case(
        "roberta, 12 layers of 768",
        partial(standins.build_roberta_classifier, shape=standins.BERT_BASE),
        longest_words=600,
    ),
    Case(
        "xlm-roberta, bge-reranker-base shape",
        partial(standins.build_xlm_roberta_classifier, vocab_size=250002),
        longest_words=600,
    ),
    Case("modernbert classifier, cls, 150m shape", standins.build_modernbert_classifier, longest_words=1200),
    Case(
        "modernbert classifier, mean, 32m shape",
        partial(standins.build_modernbert_classifier, size="32m", pooling="mean"),
    ),
    Case("static-retrieval-mrl-en-v1 shape", standins.build_static_embedder, is_embedder=True, is_quick=True),
    Case(
        "model2vec, 256 dimensions",
        partial(standins.build_model2vec_embedder, dimension=256),
        is_embedder=True,
    ),
    Case("all-MiniLM-L6-v2", lambda _: standins.minilm_folder(), is_embedder=True, is_quick=True),
    Case(
        "bge-small-en-v1.5 shape",
        partial(
            standins.build_encoder_embedder,
            kind="bert",
            pooling="cls",
            shape=standins.EncoderShape(384, 12, 1536, 12),
        ),
        is_embedder=True,
    ),
    Case(
        "modernbert embedder, mean, 32m shape",
        partial(
            standins.build_encoder_embedder,
            kind="modernbert",
            pooling="mean",
            shape=standins.ETTIN_SHAPES["32m"],
        ),
        longest_words=1200,
        is_embedder=True,
    ),
)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The figures of one checkpoint in `folder`."""
    candidates = sample_candidates(case.query_count, DOCUMENTS_EACH, longest_words=case.longest_words)
    figures = (
        _measure_embedder(folder, candidates)
        if case.is_embedder
        else _measure_reranker(case, folder, candidates)
    )
    return {"checkpoint": case.name, **figures}


def _measure_reranker(case: Case, folder: Path, candidates: list[Candidates]) -> dict[str, Any]:
    pairs = [pair for one in candidates for pair in one.pairs]
    ranked_pair_count = len(pairs)
    if case.query_count > 1:
        pairs += tricky_pairs()
    if case.has_8k_pair:
        longest = sample_candidates(1, 1, longest_words=WORDS_OF_8K_TOKENS, seed=21)
        pairs += longest[0].pairs
    ours_model = CrossEncoder(str(folder), precision="fp32")
    started = time.perf_counter()
    ours = np.asarray(ours_model.predict(pairs, activation_fn=nn.Identity()), dtype=np.float64)
    ours_seconds = time.perf_counter() - started
    reference = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    started = time.perf_counter()
    theirs = _reference_scores(reference, pairs).astype(np.float64)
    reference_seconds = time.perf_counter() - started
    lengths = _token_counts(reference.tokenizer, pairs)
    short = [pairs[row] for row in np.argsort(lengths, kind="stable")[:60]]
    noise = _reference_scores(reference, short, 8) - _reference_scores(reference, short, 1)
    same, inverted = _order(ours, theirs, ranked_pair_count)
    return {
        "inputs": len(pairs),
        "tokens": [int(lengths.min()), int(lengths.max())],
        "max_difference": float(np.abs(ours - theirs).max()),
        "score_spread": float(theirs.std()),
        "score_range": [float(theirs.min()), float(theirs.max())],
        "same_order": f"{same} of {case.query_count}",
        "inverted": inverted,
        "reference_noise": float(np.abs(noise).max()),
        "seconds": {"runoff": round(ours_seconds, 1), "sentence_transformers": round(reference_seconds, 1)},
    }


def _reference_scores(
    model: sentence_transformers.CrossEncoder, pairs: Sequence[tuple[str, str]], batch_size: int = 8
) -> np.ndarray:
    """Raw scores; long pairs go one by one, so that padding does not multiply their cost."""
    scores = np.empty(len(pairs), np.float32)
    is_long = np.array([len(query) + len(document) > LONG_CHARACTERS for query, document in pairs])
    for rows, size in ((np.flatnonzero(is_long), 1), (np.flatnonzero(~is_long), batch_size)):
        if len(rows):
            chosen = [pairs[row] for row in rows]
            scores[rows] = model.predict(chosen, batch_size=size, activation_fn=nn.Identity())
    return scores


def _token_counts(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Tokens the model sees of each pair, special ones included."""
    queries, documents = zip(*pairs, strict=True)
    encoded = tokenizer(list(queries), list(documents), truncation="longest_first")
    return np.array([len(ids) for ids in encoded["input_ids"]])


def _order(ours: np.ndarray, theirs: np.ndarray, ranked_pair_count: int) -> tuple[int, float]:
    """(queries whose documents are ranked alike, largest inversion over all pairs together)."""
    groups = [slice(start, start + DOCUMENTS_EACH) for start in range(0, ranked_pair_count, DOCUMENTS_EACH)]
    same = sum(_largest_rise(ours[rows], theirs[rows]) <= TIE for rows in groups)
    return same, _largest_rise(ours, theirs)


def _largest_rise(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest step up in `theirs` when read from our best to our worst; 0 where the orders are equal."""
    return float(np.diff(theirs[np.argsort(-ours, kind="stable")]).max(initial=0.0))


def _measure_embedder(folder: Path, candidates: list[Candidates]) -> dict[str, Any]:
    queries = [one.query for one in candidates]
    texts = [document for one in candidates for document in one.documents if document]
    texts = list(dict.fromkeys([*texts, *(text for pair in tricky_pairs() for text in pair)]))
    started = time.perf_counter()
    embedder = Embedder(str(folder), precision="fp32")
    ours = [np.asarray(embedder.encode_query(queries)), np.asarray(embedder.encode_document(texts))]
    ours_seconds = time.perf_counter() - started
    started = time.perf_counter()
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs = [model.encode_query(queries, batch_size=8), model.encode_document(texts, batch_size=8)]
    reference_seconds = time.perf_counter() - started
    one_by_one = model.encode_document(texts[:60], batch_size=1)
    similarities = np.asarray(model.similarity(theirs[0], theirs[1]))
    our_similarities = np.asarray(embedder.similarity(ours[0], ours[1]))
    rises = [_largest_rise(*rows) for rows in zip(our_similarities, similarities, strict=True)]
    lengths = np.array([len(model.tokenizer.encode(text)) for text in texts])
    limit = model.max_seq_length or np.inf
    return {
        "inputs": len(texts) + len(queries),
        "tokens": [int(min(lengths.min(), limit)), int(min(lengths.max(), limit))],
        "max_difference": max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)),
        "score_spread": float(similarities.std()),
        "score_range": [float(similarities.min()), float(similarities.max())],
        "same_order": f"{sum(rise <= TIE for rise in rises)} of {len(rises)}",
        "inverted": max(rises),
        "reference_noise": float(np.abs(one_by_one - theirs[1][:60]).max()),
        "seconds": {"runoff": round(ours_seconds, 1), "sentence_transformers": round(reference_seconds, 1)},
    }


def circumstances() -> dict[str, Any]:
    """Machine, versions, command and date of this run."""
    packages = ("sentence-transformers", "transformers", "torch", "numpy", "tokenizers")
    return {
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "command": shlex.join(["python", "benchmarks/parity.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def record(row: dict[str, Any]) -> None:
    """Puts `row` into the results in place of the earlier one of the same checkpoint."""
    rows = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.is_file() else []
    by_name = {old["checkpoint"]: old for old in rows} | {row["checkpoint"]: row}
    in_order = [by_name.pop(case.name) for case in CASES if case.name in by_name]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in [*in_order, *by_name.values()]), "utf-8")


COLUMNS = (
    "checkpoint",
    "inputs",
    "tokens",
    "max diff",
    "spread",
    "same order",
    "inverted",
    "ref. noise",
    "seconds",
)


def table_line(cells: Iterable[object]) -> str:
    widths = (38, 6, 9, 9, 7, 10, 9, 10, 13)
    return "  ".join(f"{cell!s:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def figures_line(row: dict[str, Any]) -> str:
    return table_line(
        (
            row["checkpoint"],
            row["inputs"],
            "{}-{}".format(*row["tokens"]),
            f"{row['max_difference']:.1e}",
            f"{row['score_spread']:.2f}",
            row["same_order"],
            f"{row['inverted']:.0e}",
            f"{row['reference_noise']:.1e}",
            "{runoff} / {sentence_transformers}".format(**row["seconds"]),
        )
    )


def main() -> int:
    """Measures and prints; exit code 1 where a difference is beyond the tolerance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="four checkpoints over few pairs; records nothing"
    )
    parser.add_argument("--only", action="append", metavar="TEXT", help="checkpoints whose name holds TEXT")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    chosen = [
        case for case in CASES if not arguments.only or any(text in case.name for text in arguments.only)
    ]
    if arguments.quick:
        chosen = [
            Case(case.name, case.build, query_count=2, longest_words=200, is_embedder=case.is_embedder)
            for case in chosen
            if case.is_quick
        ]
    print(table_line(COLUMNS))
    worst = 0.0
    for case in chosen:
        with tempfile.TemporaryDirectory(prefix="runoff-parity-") as scratch:
            row = measure(case, case.build(Path(scratch) / "checkpoint"))
        print(figures_line(row), flush=True)
        worst = max(worst, row["max_difference"])
        if not arguments.quick:
            record({**row, "precision": "fp32", **circumstances()})
    print(f"worst difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
