"""How far Runoff's scores and vectors are from sentence-transformers' in fp32: one line per checkpoint.

Every checkpoint is a stand-in with random weights in the true shape (tests/standins.py). Rerankers score
queries with 25 documents each, most of them short; one more query whose documents climb to 4,000 tokens, and
8K where the model takes them; and pairs of tricky strings. Embedders compare every text with every query.

same order   of how many queries both libraries put all documents in the same order. Strictly: no near-tie
             is excused
near-ties    neighbours in the reference's order less than 1e-4 apart, which the promised precision cannot
             tell apart; and how many of these came out swapped
f64          how far Runoff / sentence-transformers are from the same model in float64, over the 60 shortest
             inputs ("-": the model is too big for that)
batching     what sentence-transformers differs from itself by, batches of 8 against one by one, over the same 60
seconds      Runoff / sentence-transformers, without loading; the machine may have been busy (see "load")

Figures go to benchmarks/results/parity.jsonl, one line per checkpoint and form (full or quick). A full run
keeps the lines that are there with the same settings, and so continues where it was stopped; --fresh does not.
"""

from __future__ import annotations

import argparse
import functools
import gc
import hashlib
import json
import logging
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
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
import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from runoff import CrossEncoder, Embedder  # noqa: E402
from standin_cases import CASES, Case  # noqa: E402
from standin_texts import tricky_pairs  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "parity.jsonl"
TOLERANCE = 1e-4
NEAR_TIE = 1e-4
# sentence-transformers pads a batch to its longest pair: beyond this, one by one costs less.
LONG_CHARACTERS = 2000
SHORTEST = 60
# Vectors closer than this in every number belong to texts that the model cannot tell apart.
SAME = 1e-6


# --- rerankers ---------------------------------------------------------------------------------------


def measure_reranker(case: Case, folder: Path) -> dict[str, Any]:
    """The figures of the reranker in `folder`."""
    candidates = case.candidates()
    pairs = [pair for one in candidates for pair in one.pairs]
    pairs += tricky_pairs() if case.has_tricky_pairs else []
    ours, our_seconds = _our_scores(folder, pairs)
    gc.collect()
    reference = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    started = time.perf_counter()
    theirs = _reference_scores(reference, pairs)
    seconds = {"runoff": our_seconds, "sentence_transformers": round(time.perf_counter() - started, 1)}
    lengths = _pair_lengths(reference.tokenizer, pairs)
    shortest = np.argsort(lengths, kind="stable")[:SHORTEST]
    precision = _precision(
        partial(_reference_scores, reference, [pairs[row] for row in shortest]),
        reference,
        ours[shortest],
        case.is_small,
    )
    ends = np.cumsum([len(one.documents) for one in candidates])
    groups = [slice(end - len(one.documents), end) for end, one in zip(ends, candidates, strict=True)]
    return {
        "inputs": len(pairs),
        "tokens": [int(lengths.min()), int(lengths.max())],
        **_agreement(ours, theirs, [(ours[rows], theirs[rows]) for rows in groups]),
        **precision,
        "seconds": seconds,
    }


def _our_scores(folder: Path, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, float]:
    model = CrossEncoder(folder, precision="fp32", device="cpu")
    started = time.perf_counter()
    scores = np.asarray(model.predict(pairs, activation_fn=nn.Identity()))
    return scores, round(time.perf_counter() - started, 1)


def _reference_scores(
    model: sentence_transformers.CrossEncoder, pairs: Sequence[tuple[str, str]], batch_size: int = 8
) -> np.ndarray:
    """Raw scores; long pairs go one by one."""
    scores = np.empty(len(pairs))
    is_long = np.array([len(query) + len(document) > LONG_CHARACTERS for query, document in pairs])
    for rows, size in ((np.flatnonzero(is_long), 1), (np.flatnonzero(~is_long), batch_size)):
        if len(rows):
            chosen = [pairs[row] for row in rows]
            scores[rows] = model.predict(chosen, batch_size=size, activation_fn=nn.Identity())
    return scores


def _pair_lengths(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Tokens the model sees of each pair, special ones included."""
    queries, documents = zip(*pairs, strict=True)
    encoded = tokenizer(list(queries), list(documents), truncation="longest_first")
    return np.array([len(ids) for ids in encoded["input_ids"]])


# --- embedders ---------------------------------------------------------------------------------------


def measure_embedder(case: Case, folder: Path) -> dict[str, Any]:
    """The figures of the embedder in `folder`; texts that it cannot tell apart count once."""
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    candidates = case.candidates()
    texts = [document for one in candidates for document in one.documents]
    texts += [text for pair in tricky_pairs() for text in pair]
    texts = _told_apart(model, list(dict.fromkeys(texts)))
    queries = [one.query for one in candidates]
    embedder = Embedder(folder, precision="fp32", device="cpu")
    started = time.perf_counter()
    ours = [embedder.encode_query(queries), embedder.encode_document(texts)]
    our_seconds = round(time.perf_counter() - started, 1)
    started = time.perf_counter()
    theirs = [_reference_vectors(model, queries, "query"), _reference_vectors(model, texts)]
    seconds = {"runoff": our_seconds, "sentence_transformers": round(time.perf_counter() - started, 1)}
    lengths = np.array([len(_ids(model.tokenizer, text)) for text in texts])
    lengths = np.minimum(lengths, model.max_seq_length or np.inf)
    shortest = np.argsort(lengths, kind="stable")[:SHORTEST]
    precision = _precision(
        partial(_reference_vectors, model, [texts[row] for row in shortest]),
        model,
        ours[1][shortest],
        case.is_small,
    )
    similarities = [embedder.similarity(*ours), np.asarray(model.similarity(*theirs))]
    agreement = _agreement(*similarities, list(zip(*similarities, strict=True)))
    agreement["max_difference"] = max(
        float(np.abs(mine - other).max()) for mine, other in zip(ours, theirs, strict=True)
    )
    return {
        "inputs": len(texts) + len(queries),
        "tokens": [int(lengths.min()), int(lengths.max())],
        **agreement,
        **precision,
        "seconds": seconds,
    }


def _told_apart(model: sentence_transformers.SentenceTransformer, texts: Sequence[str]) -> list[str]:
    """Texts without those whose vector an earlier one has, such as two of unknown words only."""
    vectors = _reference_vectors(model, texts)
    is_new = [
        row == 0 or np.abs(vectors[:row] - vectors[row]).max(axis=1).min() > SAME for row in range(len(texts))
    ]
    return [text for text, is_kept in zip(texts, is_new, strict=True) if is_kept]


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, by a tokenizer of transformers or of tokenizers."""
    encoded = tokenizer.encode(text)
    return encoded if isinstance(encoded, list) else encoded.ids


def _reference_vectors(
    model: sentence_transformers.SentenceTransformer,
    texts: Sequence[str],
    task: str = "document",
    batch_size: int = 8,
) -> np.ndarray:
    """Vectors; long texts go one by one."""
    encode = model.encode_query if task == "query" else model.encode_document
    is_long = np.array([len(text) > LONG_CHARACTERS for text in texts])
    vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float64)
    for rows, size in ((np.flatnonzero(is_long), 1), (np.flatnonzero(~is_long), batch_size)):
        if len(rows):
            vectors[rows] = encode([texts[row] for row in rows], batch_size=size)
    return vectors


# --- figures -----------------------------------------------------------------------------------------


def _precision(
    run_reference: Callable[..., np.ndarray], model: nn.Module, ours: np.ndarray, is_small: bool
) -> dict[str, Any]:
    """What sentence-transformers differs from itself by, and both libraries from float64."""
    in_batches, one_by_one = run_reference(batch_size=8), run_reference(batch_size=1)
    figures: dict[str, Any] = {"batching": float(np.abs(in_batches - one_by_one).max()), "f64": None}
    if is_small:
        model.double()
        exact = run_reference(batch_size=1)
        distances = {"runoff": ours, "sentence_transformers": in_batches}
        figures["f64"] = {name: float(np.abs(part - exact).max()) for name, part in distances.items()}
    return figures


def _agreement(
    ours: np.ndarray, theirs: np.ndarray, rankings: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Differences of all scores, and the order within each query's documents."""
    orders = [_compare_orders(*ranking) for ranking in rankings]
    return {
        "max_difference": float(np.abs(ours - theirs).max()),
        "score_spread": float(theirs.std()),
        "score_range": [float(theirs.min()), float(theirs.max())],
        "same_order": all(is_same for is_same, _, _ in orders),
        "queries_in_same_order": [sum(is_same for is_same, _, _ in orders), len(orders)],
        "near_ties": sum(near for _, near, _ in orders),
        "largest_swapped_gap": max(swapped for _, _, swapped in orders),
    }


def _compare_orders(ours: np.ndarray, theirs: np.ndarray) -> tuple[bool, int, float]:
    """(the same order, near-ties in the reference's, the widest gap between two that came out swapped)."""
    order, reference_order = (np.argsort(-scores, kind="stable") for scores in (ours, theirs))
    near = int((-np.diff(theirs[reference_order]) < NEAR_TIE).sum())
    swapped = float(np.diff(theirs[order]).max(initial=0.0))
    return bool((order == reference_order).all()), near, swapped


# --- the record --------------------------------------------------------------------------------------


def circumstances() -> dict[str, Any]:
    """Machine, versions, command and date of this run."""
    packages = ("sentence-transformers", "transformers", "torch", "numpy", "tokenizers")
    return {
        "precision": "fp32",
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
        "threads": {"blas": os.environ.get("OPENBLAS_NUM_THREADS"), "torch": torch.get_num_threads()},
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "code": code_fingerprint(),
        "command": shlex.join(["python", "benchmarks/parity.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@functools.cache
def code_fingerprint() -> str:
    """Changes with every change of the sources that make scores; taken once, when they are loaded."""
    digest = hashlib.sha256()
    for room in ("checkpoint", "engine", "text"):
        for path in sorted((ROOT / "src" / "runoff" / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def recorded() -> dict[tuple[str, str], dict[str, Any]]:
    """The lines of the results by checkpoint and form."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["checkpoint"], row["settings"]["form"]): row for row in rows}


def record(row: dict[str, Any]) -> None:
    """Puts `row` into the results in place of the earlier one of the same checkpoint and form."""
    rows = recorded() | {(row["checkpoint"], row["settings"]["form"]): row}
    place = {case.name: number for number, case in enumerate(CASES)}
    kept = sorted((key for key in rows if key[0] in place), key=lambda key: (key[1], place[key[0]]))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    unfinished = RESULTS.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(rows[key]) + "\n" for key in kept), "utf-8")
    unfinished.replace(RESULTS)


# --- the command -------------------------------------------------------------------------------------

COLUMNS = {
    "checkpoint": 39,
    "inputs": 6,
    "tokens": 7,
    "max diff": 8,
    "spread": 6,
    "same order": 10,
    "near-ties": 9,
    "f64": 15,
    "batching": 8,
    "seconds": 13,
}


def table_line(cells: Iterable[object]) -> str:
    return "  ".join(
        f"{cell!s:{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)
    ).rstrip()


def figures_line(row: dict[str, Any]) -> str:
    f64, swapped = row["f64"], row["largest_swapped_gap"]
    return table_line(
        (
            row["checkpoint"],
            row["inputs"],
            "{}-{}".format(*row["tokens"]),
            f"{row['max_difference']:.1e}",
            f"{row['score_spread']:.2f}",
            "{} of {}".format(*row["queries_in_same_order"]),
            f"{row['near_ties']}" + (f", {swapped:.0e}" if swapped else ""),
            "{runoff:.1e}/{sentence_transformers:.1e}".format(**f64) if f64 else "-",
            f"{row['batching']:.1e}",
            "{runoff} / {sentence_transformers}".format(**row["seconds"]),
        )
    )


def measured(case: Case, is_quick: bool) -> dict[str, Any]:
    """The line of one checkpoint, which is built, measured and thrown away."""
    with tempfile.TemporaryDirectory(prefix="runoff-parity-") as scratch:
        folder = case.build(Path(scratch) / "checkpoint")
        gc.collect()
        around = circumstances()
        figures = (measure_embedder if case.is_embedder else measure_reranker)(case, folder)
    return {"checkpoint": case.name, "settings": case.settings(is_quick), **figures, **around}


def main() -> int:
    """Measures, records and prints; exit code 1 where a difference is beyond the tolerance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="five small checkpoints over 120 pairs each, always anew"
    )
    parser.add_argument("--fresh", action="store_true", help="measure anew what is recorded already")
    parser.add_argument("--only", action="append", metavar="TEXT", help="checkpoints whose name holds TEXT")
    options = parser.parse_args()
    code_fingerprint()
    logging.getLogger("runoff").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    cases = [case for case in CASES if not options.only or any(text in case.name for text in options.only)]
    if options.quick:
        cases = [case.in_quick_form() for case in cases if case.is_quick]
    print(table_line(COLUMNS))
    rows = []
    for case in cases:
        settings = case.settings(options.quick)
        row = recorded().get((case.name, settings["form"]))
        is_kept = row is not None and row["settings"] == settings and not (options.quick or options.fresh)
        if row is None or not is_kept:
            row = measured(case, options.quick)
            record(row)
        age = f"  (of {row['date']}, code {row['code']})" if is_kept else ""
        print(figures_line(row) + age, flush=True)
        rows.append(row)
    worst = max((row["max_difference"] for row in rows), default=0.0)
    swapped = max((row["largest_swapped_gap"] for row in rows), default=0.0)
    print(f"worst difference {worst:.1e}, widest swapped gap {swapped:.1e}; tolerance {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
