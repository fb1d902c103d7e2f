"""A judged set -> how well a first stage, a reranker and both together rank it, with intervals.

`read_judged` reads the set, `bm25_lists` (or `retrieved_lists`, `run_lists`) finds each query's candidates,
`judge` has every scorer order them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import (
    BadRow,
    FloatArray,
    InputError,
    MissingExtraError,
    Pair,
    Query,
    Retriever,
    Scorer,
)
from runoff.data.formats import read_documents, read_queries
from runoff.data.sampling import SEED
from runoff.data.trec import Qrels, Run, judgements, qrels_file, read_trec_run
from runoff.ranking import rank_scores, spearman, z_scores
from runoff.text.words import stemmed_words

DEPTH = 100
"""Candidates of a query, as most published figures have it."""

DRAWS = 10_000
CUT = 10
FIRST = "bm25"

Figures = npt.NDArray[np.float64]


# --- the set ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """Texts of the documents by id (title in front), texts of the queries that have a positive judgement, and
    grades by query and document. `queries_judged`: how many queries there were before `sampled`."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    grades: Qrels
    queries_judged: int

    def sampled(self, limit: int | None, seed: int = SEED) -> Judged:
        """The same with at most `limit` queries, drawn by chance from their ids, always the same ones."""
        if limit is None or len(self.queries) <= limit:
            return self
        drawn = sorted(random.Random(seed).sample(sorted(self.queries), limit))
        return replace(self, queries={query: self.queries[query] for query in drawn})


def read_judged(folder: str | Path, split: str = "test") -> Judged:
    """The judged set of a BEIR folder: corpus.jsonl, queries.jsonl, qrels/`split`.tsv.

    Queries without a positive judgement are left out, as they say nothing about an order. Raises `InputError`
    with file and line for a document without text, an id that stands there twice or nowhere, a missing file.
    """
    folder = Path(folder)
    documents = _documents(folder)
    texts = {str(query.id): query.text for query in read_queries(folder)}
    file = qrels_file(folder, split)
    grades: Qrels = {}
    for line, query, document, grade in judgements(file):
        for kind, id, known in (("query", query, texts), ("document", document, documents)):
            if id not in known:
                home = "queries.jsonl" if kind == "query" else "corpus.jsonl"
                raise InputError(
                    f"{file}:{line}: {kind} {id!r} is judged and not in {home}. Are the files of one set?"
                )
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{file}:{line}: document {document!r} is judged twice, with two grades")
    positive = sorted(query for query, found in grades.items() if max(found.values()) > 0)
    if not positive:
        raise InputError(f"{file} holds no positive judgement: expected at least one grade above 0")
    return Judged(
        folder.resolve().name, documents, {query: texts[query] for query in positive}, grades, len(positive)
    )


def _documents(folder: Path) -> dict[str, str]:
    names = ("corpus.jsonl", "corpus.jsonl.gz")
    corpus = next((folder / name for name in names if (folder / name).is_file()), None)
    if corpus is None:
        raise InputError(
            f"expected a judged set at {folder} (corpus.jsonl, queries.jsonl, qrels/test.tsv); found no corpus.jsonl"
        )
    documents: dict[str, str] = {}
    for document in read_documents(corpus):
        if isinstance(document, BadRow):
            raise InputError(str(document))
        where = f"{corpus}:{document.origin.line}" if document.origin else str(corpus)
        if not document.text:
            raise InputError(f"{where}: document {document.id!r} has neither text nor title")
        if document.id in documents:
            raise InputError(f"{where}: document id {document.id!r} stands there twice")
        documents[document.id] = document.text
    return documents


# --- its first stage -------------------------------------------------------------------------------------


def bm25_lists(documents: Mapping[str, str], queries: Mapping[str, str], depth: int = DEPTH) -> Run:
    """BM25's best `depth` documents of each query, by bm25s (Lucene's form, k1 1.5, b 0.75, English stop words and
    stemmer). A list that words alone cannot fill goes on with documents of score 0, so that each has its `depth`."""
    document_words, query_words = (
        stemmed_words(list(documents.values())),
        stemmed_words(list(queries.values())),
    )
    import bm25s

    ids = list(documents)
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(document_words, show_progress=False)
    found = index.retrieve(query_words, k=min(depth, len(ids)), show_progress=False)
    return {
        query: [(ids[row], float(score)) for row, score in zip(rows, scores, strict=True)]
        for query, rows, scores in zip(queries, found.documents, found.scores, strict=True)
    }


def retrieved_lists(retriever: Retriever, judged: Judged, depth: int = DEPTH) -> Run:
    """What a retriever finds for each query, over the same documents."""
    run = {
        id: [(hit.id, hit.score) for hit in retriever.retrieve(Query(text, id), depth)]
        for id, text in judged.queries.items()
    }
    return _checked(run, judged, depth, "the retriever")


def run_lists(path: str | Path, judged: Judged, depth: int = DEPTH) -> Run:
    """The lists of a TREC run. `InputError` for a document that the set lacks, and for a run of other queries."""
    run = read_trec_run(path)
    if not run.keys() & judged.queries.keys():
        raise InputError(f"{path} has none of the queries of {judged.name}: is it the run of another set?")
    return _checked(run, judged, depth, str(path))


def _checked(run: Run, judged: Judged, depth: int, source: str) -> Run:
    lists = {query: run.get(query, [])[:depth] for query in judged.queries}
    for query, pairs in lists.items():
        seen: set[str] = set()
        for document, _ in pairs:
            if document not in judged.documents:
                raise InputError(
                    f"{source}: query {query!r} lists {document!r}, which {judged.name} does not have"
                )
            if document in seen:
                raise InputError(f"{source}: query {query!r} lists {document!r} twice")
            seen.add(document)
    return lists


# --- judging ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class System:
    """One way to order the candidates: a score of each (by query, in the list's order), and the figures [Q].

    `model` and `weight`: None for the first stage; a model without a weight is alone, with one it is fused.
    """

    name: str
    model: str | None
    weight: float | None
    scores: Sequence[Figures]
    ndcg: Figures
    reciprocal_rank: Figures
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What `judge` found: the systems by name, the first stage first. Figures are in the order of `queries`."""

    judged: Judged
    lists: Run
    depth: int
    first: str
    systems: Mapping[str, System]

    @property
    def queries(self) -> tuple[str, ...]:
        return tuple(self.judged.queries)

    def spearman(self, one: str, other: str) -> Figures:
        """Spearman's correlation [Q] of two systems' scores; NaN where one gives all candidates the same."""
        pairs = zip(self.systems[one].scores, self.systems[other].scores, strict=True)
        return np.array([spearman(first, second) for first, second in pairs])

    def interval(self, system: str, base: str) -> tuple[float, float]:
        """The 95 % interval of the difference of the mean NDCG@10, by paired bootstrap over the queries."""
        return difference_interval(self.systems[system].ndcg, self.systems[base].ndcg)

    def lines(self) -> list[dict[str, Any]]:
        """One line of figures for each system, for programs."""
        found, wanted = self._positives()
        shared = {
            "collection": self.judged.name,
            "first_stage": self.first,
            "depth": self.depth,
            "queries": len(self.queries),
            "queries_judged": self.judged.queries_judged,
            "queries_without_candidates": sum(not pairs for pairs in self.lists.values()),
            "documents": len(self.judged.documents),
            "pairs": sum(map(len, self.lists.values())),
            "positives_in_lists": round(found / wanted, 4),
        }
        return [{**self._line(system), **shared} for system in self.systems.values()]

    def _line(self, system: System) -> dict[str, Any]:
        base = self.systems[self.first]
        models = [each.name for each in self.systems.values() if each.model and each.weight is None]
        others = [name for name in models if name != system.name] if system.name in models else []
        return {
            "system": system.name,
            "model": system.model,
            "weight": system.weight,
            "ndcg_at_10": round(float(system.ndcg.mean()), 4),
            "minus_first": round(float((system.ndcg - base.ndcg).mean()), 4),
            "minus_first_95": [round(end, 4) for end in self.interval(system.name, self.first)],
            "mrr_at_10": round(float(system.reciprocal_rank.mean()), 4),
            "spearman": {other: _mean_or_none(self.spearman(system.name, other)) for other in others},
            "seconds": None if system.seconds is None else round(system.seconds, 2),
        }

    def _positives(self) -> tuple[int, int]:
        """How many positive judgements the lists have, and how many there are."""
        found = wanted = 0
        for query in self.queries:
            positive = {document for document, grade in self.judged.grades[query].items() if grade > 0}
            wanted += len(positive)
            found += len(positive & {document for document, _ in self.lists[query]})
        return found, wanted


def judge(
    judged: Judged,
    lists: Run,
    scorers: Mapping[str, Scorer],
    weights: Sequence[float] = (1.0,),
    *,
    depth: int = DEPTH,
    first: str = FIRST,
    advance: Callable[[int], Any] = lambda _: None,
) -> Judgement:
    """The first stage, each scorer alone, and z(first stage) + weight * z(scorer), on the lists' first `depth`.

    NDCG@10 and MRR@10 are pytrec_eval's, the ideal order taken over all judgements; a query without candidates
    counts 0. Equal scores keep the first stage's order. `advance` is told how many pairs were scored.
    """
    lists = _checked(lists, judged, depth, first)
    base = [np.array([score for _, score in pairs], np.float64) for pairs in lists.values()]
    systems = [_system(judged, lists, first, base)]
    for name, scorer in scorers.items():
        begun = perf_counter()
        scores = _scored(judged, lists, scorer, advance)
        systems.append(_system(judged, lists, name, scores, name, seconds=perf_counter() - begun))
        for weight in weights:
            fused = [z_scores(b) + weight * z_scores(s) for b, s in zip(base, scores, strict=True)]
            systems.append(_system(judged, lists, fused_name(first, weight, name), fused, name, weight))
    by_name = {system.name: system for system in systems}
    if len(by_name) < len(systems):
        raise InputError(f"each system needs a name of its own, got {', '.join(s.name for s in systems)}")
    return Judgement(judged, lists, depth, first, by_name)


def figures_of(
    judged: Judged, lists: Run | None = None, depth: int = DEPTH
) -> Callable[[Callable[[Sequence[Pair]], FloatArray]], dict[str, float]]:
    """A function from (pairs -> raw scores) to {"ndcg@10", "mrr@10"} of a model alone on `lists` (None: BM25's), for a
    model that is judged again and again while it is trained."""
    found = bm25_lists(judged.documents, judged.queries, depth) if lists is None else lists
    lists = _checked(found, judged, depth, FIRST)
    pairs = [
        (judged.queries[query], judged.documents[document])
        for query, row in lists.items()
        for document, _ in row
    ]
    edges = np.cumsum([len(row) for row in lists.values()])[:-1]

    def figures(scores_of: Callable[[Sequence[Pair]], FloatArray]) -> dict[str, float]:
        scores = np.split(np.asarray(scores_of(pairs), np.float64), edges)
        ndcg, reciprocal_rank = _figures(judged, lists, scores)
        return {"ndcg@10": float(ndcg.mean()), "mrr@10": float(reciprocal_rank.mean())}

    return figures


def fused_name(first: str, weight: float, model: str) -> str:
    return f"z({first})+{weight:g}*z({model})"


def _scored(judged: Judged, lists: Run, scorer: Scorer, advance: Callable[[int], Any]) -> list[Figures]:
    scores = []
    for query, pairs in lists.items():
        texts = [judged.documents[document] for document, _ in pairs]
        found = scorer.score(judged.queries[query], texts) if texts else np.empty(0)
        scores.append(np.asarray(found, np.float64))
        advance(len(texts))
    return scores


def _system(
    judged: Judged,
    lists: Run,
    name: str,
    scores: Sequence[Figures],
    model: str | None = None,
    weight: float | None = None,
    seconds: float | None = None,
) -> System:
    ndcg, reciprocal_rank = _figures(judged, lists, scores)
    return System(name, model, weight, scores, ndcg, reciprocal_rank, seconds)


def _figures(judged: Judged, lists: Run, scores: Sequence[Figures]) -> tuple[Figures, Figures]:
    """NDCG@10 and MRR@10 of each query."""
    try:
        import pytrec_eval
    except ImportError as error:
        raise MissingExtraError(
            f"judging needs pytrec_eval ({error}). Install it: pip install 'runoff[eval]'"
        ) from error
    # Places instead of scores: trec_eval reads scores as 32-bit floats and breaks ties by id, we by the list.
    # Ten are enough for both figures, and make its reciprocal rank the one at 10.
    run = {
        query: {pairs[row][0]: float(-place) for place, row in enumerate(rank_scores(values, CUT).rows)}
        for (query, pairs), values in zip(lists.items(), scores, strict=True)
    }
    evaluator = pytrec_eval.RelevanceEvaluator(
        {query: dict(judged.grades[query]) for query in run}, {f"ndcg_cut.{CUT}", "recip_rank"}
    )
    found = evaluator.evaluate({query: ranked for query, ranked in run.items() if ranked})
    nothing = {f"ndcg_cut_{CUT}": 0.0, "recip_rank": 0.0}
    rows = [found.get(query, nothing) for query in run]
    return np.array([row[f"ndcg_cut_{CUT}"] for row in rows]), np.array([row["recip_rank"] for row in rows])


def difference_interval(
    figures: npt.ArrayLike, base: npt.ArrayLike, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % interval of mean(figures) - mean(base), by paired bootstrap: the queries are drawn with replacement,
    the same ones for both."""
    difference = np.asarray(figures, np.float64) - np.asarray(base, np.float64)
    generator, count = np.random.default_rng(seed), len(difference)
    means = []
    # Some draws at a time, or thousands of queries would take gigabytes.
    for start in range(0, draws, 500):
        size = (min(500, draws - start), count)
        means.append(difference[generator.integers(count, size=size)].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _mean_or_none(values: Figures) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 4) if len(known) else None
