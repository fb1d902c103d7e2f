"""Stand-in checkpoints of a few thousand weights a layer: for what does not depend on the shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import standins
from standins import EncoderShape

SHAPE = EncoderShape(hidden=32, layers=3, intermediate=48, heads=2)


def _with_tiny_shape(build: Callable[..., Path], folder: Path, **options: object) -> Path:
    with mock.patch.dict(standins.ETTIN_SHAPES, {"tiny": SHAPE}):
        return build(folder, size="tiny", **options)


def _ettin(**options: object) -> Callable[[Path], Path]:
    return partial(_with_tiny_shape, standins.build_ettin_reranker, **options)


def _modernbert(**options: object) -> Callable[[Path], Path]:
    return partial(_with_tiny_shape, standins.build_modernbert_classifier, **options)


TINY: dict[str, Callable[[Path], Path]] = {
    "bert": partial(standins.build_bert_classifier, shape=SHAPE),
    "bert-3-labels": partial(standins.build_bert_classifier, shape=SHAPE, labels=3),
    "roberta": partial(standins.build_roberta_classifier, shape=SHAPE),
    "xlm-roberta": partial(standins.build_xlm_roberta_classifier, shape=SHAPE),
    "ettin": _ettin(),
    "ettin-3-labels": _ettin(labels=3),
    "modernbert-cls": _modernbert(pooling="cls"),
    "modernbert-mean": _modernbert(pooling="mean"),
    "deberta": standins.build_deberta_classifier,
    "causal": standins.build_causal_reranker,
    "static": partial(standins.build_static_embedder, dimension=16),
    "model2vec": partial(standins.build_model2vec_embedder, dimension=16),
    "model2vec-raw": partial(standins.build_model2vec_embedder, dimension=16, normalize=False),
    "model2vec-clustered": partial(standins.build_model2vec_embedder, dimension=16, clustered=True),
    "bert-embedder": partial(
        standins.build_encoder_embedder, kind="bert", pooling="mean", normalize=False, shape=SHAPE
    ),
    "modernbert-embedder": partial(
        standins.build_encoder_embedder, kind="modernbert", pooling="cls", shape=SHAPE
    ),
}
