"""NanoBEIR (13 sets of 50 queries): the published recipe's measure on the way, by sentence-transformers' evaluator, and
beside it the figures whose ideal order knows what BM25 missed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import numpy as np

from runoff.contracts import FloatArray, InputError, MissingExtraError, Pair
from runoff.evaluate.measures import measured
from runoff.ranking import rank_scores

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
CUT = 10
HONEST = "honest_"
"""In front of a figure's name: over what BM25 found alone, the ideal order over all judgements."""

ELSEWHERE = (
    "Evaluate on held-out queries or on a judged folder instead: --evaluate held-out, --evaluate FOLDER"
)


@dataclass(frozen=True, slots=True)
class Reranked:
    """What is reranked: the best `depth` of BM25, of `sets`; with the positives that BM25 missed, if so asked, as
    sentence-transformers' own default has it. `csv`: whether figures go to files too, where a folder is named.
    """

    dataset: str = DATASET
    sets: Sequence[str] = SETS
    depth: int = DEPTH
    adds_positives: bool = False
    batch_size: int = 32
    csv: bool = False


def nanobeir(
    dataset: str = DATASET, sets: Sequence[str] = SETS
) -> Callable[[Callable[[Sequence[Pair]], FloatArray]], dict[str, float]]:
    """A function from a scorer of pairs to its NDCG@10 over BM25's top 100, of each set and as their mean.

    Positives that BM25 missed are not added, and the ideal order is of those it found: the evaluator's rule and the
    published figures' (`runoff judge` is stricter). `dataset` is a hub id or a local copy's folder.
    Raises `InputError` where it cannot be reached.
    """
    evaluator = nanobeir_evaluator(Reranked(dataset, sets))

    def evaluate(score: Callable[[Sequence[Pair]], FloatArray]) -> dict[str, float]:
        found = evaluator(PairModel(score))
        figures = {"ndcg@10": float(found[f"{evaluator.name}_ndcg@10"])}
        for name in found:
            if name.startswith("Nano") and name.endswith(f"_R{DEPTH}_ndcg@10") and "BEIR" not in name:
                figures[f"{name.split('_')[0]}_ndcg@10"] = float(found[name])
        return figures

    return evaluate


def nanobeir_evaluator(protocol: Reranked | None = None) -> Any:
    """sentence-transformers' evaluator of the sets, for its trainer or for a call with a model: {figure: value}.

    The names are its own, `NanoMSMARCO_R100_ndcg@10` to `NanoBEIR_R100_mean_ndcg@10`, and so are their figures. Added
    are `..._honest_ndcg@10`, `..._honest_map` and the same with `base_`: by pytrec_eval over BM25's own list, where an
    answer that it missed costs what it costs. `primary_metric` has its whole name from the start, theirs from the
    first call on. Raises `InputError` where the dataset cannot be reached.
    """
    asked = protocol or Reranked()
    try:
        from sentence_transformers.cross_encoder.evaluation import CrossEncoderNanoBEIREvaluator
    except ImportError as error:
        raise MissingExtraError(
            "NanoBEIR needs sentence-transformers: pip install 'runoff[train]'"
        ) from error

    class HonestNanoBEIREvaluator(CrossEncoderNanoBEIREvaluator):  # type: ignore[misc] # theirs is untyped
        def __call__(
            self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
        ) -> dict[str, float]:
            heard = _Heard(model)
            figures = super().__call__(heard, output_path, epoch, steps)
            added: dict[str, list[float]] = {}
            for each in honest:
                for name, value in each.figures(heard.scores).items():
                    figures[f"{each.name}_R{asked.depth}_{name}"] = value
                    added.setdefault(name, []).append(value)
            means = {f"{self.name}_{name}": float(np.mean(values)) for name, values in added.items()}
            return {**{name: float(value) for name, value in figures.items()}, **means}

    try:
        with redirect_stderr(io.StringIO()):  # its bar, which no option turns off
            evaluator = HonestNanoBEIREvaluator(
                list(asked.sets),
                asked.dataset,
                rerank_k=asked.depth,
                always_rerank_positives=asked.adds_positives,
                batch_size=asked.batch_size,
                write_csv=asked.csv,
            )
            names = [each.name.rpartition("_R")[0] for each in evaluator.evaluators]
            honest = [_read(asked, name) for name in names]
    except (ValueError, OSError, ImportError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(
            f"expected NanoBEIR at {asked.dataset}, it cannot be reached{offline}: {str(error).splitlines()[0]} "
            + ELSEWHERE
        ) from error
    evaluator.primary_metric = f"{evaluator.name}_ndcg@{CUT}"
    return evaluator


@dataclass(frozen=True, slots=True)
class _Set:
    """One set: texts by id, and BM25's list and the positives of each query."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]
    grades: dict[str, dict[str, int]]

    def figures(self, scores: Mapping[Pair, float]) -> dict[str, float]:
        """NDCG@10 and MAP over the lists alone, and BM25's own; equal scores keep BM25's order.

        A query without a positive in its list is not scored, and counts 0 in any order.
        """
        ranked = {}
        for query, found in self.lists.items():
            pairs = [(self.queries[query], self.documents[document]) for document in found]
            order = rank_scores([scores.get(pair, 0.0) for pair in pairs]).rows
            ranked[query] = [found[row] for row in order]
        return {
            **{f"{HONEST}{name}": value for name, value in self._measured(ranked).items()},
            **{f"base_{HONEST}{name}": value for name, value in self._measured(self.lists).items()},
        }

    def _measured(self, ranked: Mapping[str, Sequence[str]]) -> dict[str, float]:
        deepest = max(map(len, ranked.values()))
        ndcg = measured(self.grades, ranked, ("ndcg",), (CUT,))[f"ndcg@{CUT}"]
        whole = measured(self.grades, ranked, ("map",), (deepest,))[f"map@{deepest}"]
        return {f"ndcg@{CUT}": float(ndcg.mean()), "map": float(whole.mean())}


def _read(asked: Reranked, name: str) -> _Set:
    """One set by its ids, which the evaluator's samples no longer have."""
    from datasets import load_dataset

    corpus, queries, qrels, bm25 = (
        load_dataset(asked.dataset, part, split=name) for part in ("corpus", "queries", "qrels", "bm25")
    )
    grades: dict[str, dict[str, int]] = {}
    for row in qrels:
        ids = row["corpus-id"] if isinstance(row["corpus-id"], list) else [row["corpus-id"]]
        grades.setdefault(row["query-id"], {}).update(dict.fromkeys(ids, 1))
    return _Set(
        name,
        dict(zip(corpus["_id"], corpus["text"], strict=True)),
        dict(zip(queries["_id"], queries["text"], strict=True)),
        {row["query-id"]: row["corpus-ids"][: asked.depth] for row in bm25},
        grades,
    )


class PairModel:
    """A scorer of pairs as the evaluator wants a model: `predict`, and a card to write to."""

    def __init__(self, score: Callable[[Sequence[Pair]], FloatArray]) -> None:
        self._score = score

    def predict(self, pairs: Sequence[Any], **_options: Any) -> FloatArray:
        return self._score([(str(query), str(document)) for query, document in pairs])


class _NoCard:
    """Where the evaluator would leave its figures for a model card; ours is written by `runoff publish`."""

    def set_evaluation_metrics(self, *_figures: Any) -> None: ...


class _Heard:
    """A model whose scores are kept by pair, so that no pair is scored twice for two figures."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.model_card_data = getattr(model, "model_card_data", _NoCard())
        self.scores: dict[Pair, float] = {}

    def predict(self, pairs: Sequence[Any], **options: Any) -> FloatArray:
        found = self._model.predict(pairs, **options)
        values = np.asarray(found, np.float64).reshape(len(pairs))
        self.scores |= {(pair[0], pair[1]): float(value) for pair, value in zip(pairs, values, strict=True)}
        return found  # type: ignore[no-any-return] # as the model gave it
