"""What the engine benchmarks score: checkpoints with random weights in true shapes, and pairs of real words.

Checkpoints are those of tests/standins.py, built once into build/bench. The lengths of pairs follow a
log-normal fitted to natural questions (mean 148 tokens, median 112, at most 512); their words are the
docstrings of the standard library, cut so that the checkpoint's own tokenizer counts what was drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

BUILD = ROOT / "build" / "bench"
ETTIN, MINILM, ALL_LOCAL = ("17m", "32m", "68m", "150m"), "MiniLM-L6", "17m all local"
SHAPES = (*ETTIN, MINILM)
MEAN, MEDIAN, CAP = 148, 112, 512
LONGEST = 4 * CAP  # documents are as long as they are; what is over the limit is cut by each engine
QUERY_WORDS = (7, 12)
FORMAT = 1  # of the built checkpoints: another number builds them anew

Pair = tuple[str, str]


def checkpoint(shape: str, python: str = sys.executable) -> Path:
    """The folder of a shape's checkpoint, built by `python` if it is not there."""
    digest = hashlib.sha256((ROOT / "tests" / "standins.py").read_bytes()).hexdigest()[:8]
    folder = BUILD / f"{shape.replace(' ', '-')}-{digest}-{FORMAT}"
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [python, __file__, "--build", shape, str(unfinished)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"could not build the checkpoint {shape}:\n{done.stderr[-2000:]}")
        unfinished.rename(folder)
    return folder


def build(shape: str, folder: Path) -> None:
    """Writes the checkpoint of `shape`; needs torch and sentence-transformers."""
    import standins

    folder.mkdir(parents=True)
    if shape == MINILM:
        standins.build_bert_classifier(folder)
    elif shape == ALL_LOCAL:
        layers = standins.ETTIN_SHAPES["17m"].layers
        local = {"layer_types": ["sliding_attention"] * layers, "max_position_embeddings": 8192}
        standins.build_ettin_reranker(folder, "17m", **local)
    else:
        standins.build_ettin_reranker(folder, shape, max_position_embeddings=8192)
    # Older transformers, which some engines still need, know the tokenizer under its older name.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2), "utf-8")


# --- pairs -------------------------------------------------------------------------------------------


@cache
def spread() -> float:
    """Sigma of the log-normal of median `MEDIAN` whose mean, capped at `CAP`, is `MEAN`."""
    low, high = 0.1, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = np.minimum(_quantiles(10_000, middle), CAP).mean()
        low, high = (middle, high) if mean < MEAN else (low, middle)
    return low


def _quantiles(count: int, sigma: float) -> np.ndarray:
    """`count` lengths at even steps of the distribution, shortest first."""
    normal = statistics.NormalDist()
    steps = [normal.inv_cdf((row + 0.5) / count) for row in range(count)]
    return MEDIAN * np.exp(sigma * np.array(steps))


def drawn_lengths(count: int, seed: int = 1) -> np.ndarray:
    """Tokens of each of `count` pairs, special ones included, in a random order."""
    lengths = np.clip(np.round(_quantiles(count, spread())), 16, LONGEST).astype(int)
    return np.random.default_rng(seed).permutation(lengths)


def made_pairs(folder: Path, count: int, seed: int = 1) -> list[Pair]:
    """`count` pairs for the checkpoint in `folder`, each with a query of its own."""
    generator = np.random.default_rng([seed, 1])
    cutter = Cutter(folder)
    return [cutter.pair(int(length), generator) for length in drawn_lengths(count, seed)]


def made_request(folder: Path, documents: int, tokens: int, seed: int) -> list[Pair]:
    """One query with `documents` documents, each pair of `tokens` tokens give or take a fifth."""
    generator = np.random.default_rng([seed, 2])
    cutter = Cutter(folder)
    query = cutter.query(generator)
    lengths = generator.integers(math.ceil(tokens * 0.8), math.floor(tokens * 1.2) + 1, documents)
    return [cutter.pair(int(length), generator, query) for length in lengths]


class Cutter:
    """Makes texts of so many tokens as a checkpoint's tokenizer counts them."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def query(self, generator: np.random.Generator) -> str:
        return _sample(int(generator.integers(*QUERY_WORDS)), generator)

    def pair(self, length: int, generator: np.random.Generator, query: str | None = None) -> Pair:
        """A pair of `length` tokens in all; a query longer than that is cut to half of it."""
        query = self._cut(query or self.query(generator), max(length // 2, 1))
        taken = len(self._tokenizer.encode(query, "").ids)
        wanted = max(length - taken, 1)
        return query, self._cut(_sample(wanted + 8, generator), wanted)

    def _cut(self, text: str, tokens: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def _sample(words: int, generator: np.random.Generator) -> str:
    from standin_texts import sample_text

    return sample_text(words, generator)


def token_counts(folder: Path, pairs: list[Pair], limit: int = CAP) -> np.ndarray:
    """Tokens of each pair as an engine with that limit sees them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return np.array([len(each.ids) for each in tokenizer.encode_batch(pairs)])


def described(counts: np.ndarray) -> dict[str, Any]:
    """What a result line says of its pairs' lengths."""
    return {
        "pairs": len(counts),
        "tokens": int(counts.sum()),
        "mean_tokens": round(float(counts.mean()), 1),
        "median_tokens": float(np.median(counts)),
        "most_tokens": int(counts.max()),
    }


if __name__ == "__main__" and sys.argv[1:2] == ["--build"]:
    build(sys.argv[2], Path(sys.argv[3]))
