"""NanoBEIR (13 sets of 50 queries): the published recipe's measure on the way, by sentence-transformers' evaluator."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

from runoff.contracts import FloatArray, InputError, MissingExtraError, Pair

DATASET = "sentence-transformers/NanoBEIR-en"
SETS = (
    *(
        "climatefever",
        "dbpedia",
        "fever",
        "fiqa2018",
        "hotpotqa",
        "msmarco",
        "nfcorpus",
        "nq",
        "quoraretrieval",
    ),
    *("scidocs", "arguana", "scifact", "touche2020"),
)
"""All 13: the evaluator's own default leaves arguana and touche2020 out, the published figures do not."""
DEPTH = 100


def nanobeir(
    dataset: str = DATASET, sets: Sequence[str] = SETS
) -> Callable[[Callable[[Sequence[Pair]], FloatArray]], dict[str, float]]:
    """A function from a scorer of pairs to its NDCG@10 over BM25's top 100, of each set and as their mean.

    Positives that BM25 missed are not added, and the ideal order is of those it found: the evaluator's rule and the
    published figures' (`runoff judge` is stricter). `dataset` is a hub id or a local copy's folder.
    Raises `InputError` where it cannot be reached.
    """
    try:
        from sentence_transformers.cross_encoder.evaluation import CrossEncoderNanoBEIREvaluator
    except ImportError as error:
        raise MissingExtraError(
            "NanoBEIR needs sentence-transformers: pip install 'runoff[train]'"
        ) from error
    try:
        with redirect_stderr(io.StringIO()):  # its bar, which no option turns off
            evaluator = CrossEncoderNanoBEIREvaluator(
                list(sets), dataset, rerank_k=DEPTH, always_rerank_positives=False, write_csv=False
            )
    except (ValueError, OSError, ImportError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(
            f"expected NanoBEIR at {dataset}, it cannot be reached{offline}: {str(error).splitlines()[0]} Evaluate on "
            "held-out queries or a judged folder of your own instead: --evaluate held-out, --evaluate FOLDER"
        ) from error

    def evaluate(score: Callable[[Sequence[Pair]], FloatArray]) -> dict[str, float]:
        found = evaluator(_Scorer(score))
        figures = {"ndcg@10": float(found[f"{evaluator.name}_ndcg@10"])}
        for name in found:
            if name.startswith("Nano") and name.endswith(f"_R{DEPTH}_ndcg@10") and "BEIR" not in name:
                figures[f"{name.split('_')[0]}_ndcg@10"] = float(found[name])
        return figures

    return evaluate


class _NoCard:
    """Where the evaluator would leave its figures for a model card; ours is written by `runoff publish`."""

    def set_evaluation_metrics(self, *_figures: Any) -> None: ...


class _Scorer:
    """What the evaluator needs of a model: `predict`, and a card to write to."""

    def __init__(self, score: Callable[[Sequence[Pair]], FloatArray]) -> None:
        self._score = score
        self.model_card_data = _NoCard()

    def predict(self, pairs: Sequence[Any], **_options: Any) -> FloatArray:
        return self._score([(str(query), str(document)) for query, document in pairs])
