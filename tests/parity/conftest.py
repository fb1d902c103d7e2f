"""Stand-in checkpoints, built once a session, and each of them loaded by Runoff and by sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest
import sentence_transformers
from transformers.utils import logging as transformers_logging

import standins
from runoff import CrossEncoder, Embedder
from standins import EncoderShape

TINY = EncoderShape(32, 2, 64, 4)

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    # true shapes in full
    "ettin-17m": partial(standins.build_ettin_reranker, size="17m"),
    "ettin-32m": partial(standins.build_ettin_reranker, size="32m"),
    "bert": standins.build_bert_classifier,
    "minilm-reranker": standins.build_minilm_reranker,
    "minilm": lambda _: standins.minilm_folder(),
    # true widths, fewer layers
    "ettin-68m": partial(standins.build_ettin_reranker, size="68m", layers=4),
    "ettin-150m": partial(standins.build_ettin_reranker, size="150m", layers=3),
    "ettin-400m": partial(standins.build_ettin_reranker, size="400m", layers=2),
    "ettin-1b": partial(standins.build_ettin_reranker, size="1b", layers=2),
    "roberta": partial(standins.build_roberta_classifier, shape=EncoderShape(768, 2, 3072, 12)),
    "xlm-roberta": partial(standins.build_xlm_roberta_classifier, shape=EncoderShape(768, 2, 3072, 12)),
    "modernbert-cls": partial(standins.build_modernbert_classifier, layers=4),
    "modernbert-mean": partial(standins.build_modernbert_classifier, size="32m", layers=4, pooling="mean"),
    # small, for what does not depend on the shape
    "tiny-bert": partial(standins.build_bert_classifier, shape=TINY),
    "tiny-bert-3": partial(standins.build_bert_classifier, shape=TINY, labels=3),
    "tiny-ettin": partial(standins.build_ettin_reranker, size="17m", layers=4),
    "tiny-ettin-3": partial(standins.build_ettin_reranker, size="17m", layers=2, labels=3),
    "deberta": standins.build_deberta_classifier,
    "causal": standins.build_causal_reranker,
    # embedders
    "static": partial(standins.build_static_embedder, dimension=256),
    "static-normalized": partial(standins.build_static_embedder, dimension=64, normalize=True),
    "model2vec": standins.build_model2vec_embedder,
    "model2vec-raw": partial(standins.build_model2vec_embedder, normalize=False),
    "model2vec-clustered": partial(standins.build_model2vec_embedder, clustered=True),
    "bert-cls": partial(
        standins.build_encoder_embedder, kind="bert", pooling="cls", shape=EncoderShape(384, 4, 1536, 12)
    ),
    "modernbert-embedder": partial(
        standins.build_encoder_embedder,
        kind="modernbert",
        pooling="mean",
        normalize=False,
        shape=standins.ETTIN_SHAPES["17m"],
    ),
}


@dataclass(frozen=True)
class Rerankers:
    """One checkpoint in both libraries."""

    folder: Path
    ours: CrossEncoder
    reference: sentence_transformers.CrossEncoder


@dataclass(frozen=True)
class Embedders:
    """One checkpoint in both libraries."""

    folder: Path
    ours: Embedder
    reference: sentence_transformers.SentenceTransformer


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> Iterator[None]:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a stand-in by its name in CHECKPOINTS; never to be edited, `standins.copied` makes a copy."""

    @cache
    def build(name: str) -> Path:
        return CHECKPOINTS[name](tmp_path_factory.mktemp("checkpoints") / name)

    return build


@pytest.fixture(scope="session")
def rerankers(checkpoint: Callable[[str], Path]) -> Callable[[str], Rerankers]:
    """A reranker of CHECKPOINTS, loaded by both libraries."""

    @cache
    def load(name: str) -> Rerankers:
        folder = checkpoint(name)
        reference = sentence_transformers.CrossEncoder(str(folder), device="cpu")
        return Rerankers(folder, CrossEncoder(folder, precision="fp32"), reference)

    return load


@pytest.fixture(scope="session")
def embedders(checkpoint: Callable[[str], Path]) -> Callable[[str], Embedders]:
    """An embedder of CHECKPOINTS, loaded by both libraries."""

    @cache
    def load(name: str) -> Embedders:
        folder = checkpoint(name)
        reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        return Embedders(folder, Embedder(folder, precision="fp32"), reference)

    return load
