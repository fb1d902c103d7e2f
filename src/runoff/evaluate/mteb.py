"""mteb's two-stage evaluation -> what rerankers add to embedders on its tasks, each pair of both in files of its own.

mteb files a reranker's result under its own name alone: in a shared cache the second embedder would be given the first
one's reranked score. Here each first stage has a folder, and each reranker one in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from runoff.contracts import CheckpointError, InputError, MissingExtraError, RunoffError, ScoreError
from runoff.data.atomic import replace_file
from runoff.evaluate.measures import measured
from runoff.evaluate.mteb_models import FirstStage, Identity, RerankerModel
from runoff.evaluate.mteb_tasks import loaded_copy, quiet_mteb

DEPTH = 100
BATCH = 32
"""Pairs or texts of a batch: mteb's own number where none is given."""

CUT = 10
ROUNDING = 5.1e-6
"""mteb rounds its figures to five digits."""

SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What to judge, and the folder `out` that takes and keeps it. `settings`: what else scores depend on."""

    out: Path
    tasks: Sequence[Any]
    first_stages: Sequence[FirstStage]
    rerankers: Sequence[RerankerModel] = ()
    depth: int = DEPTH
    batch_size: int = BATCH
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's figures of one task: a first stage's (`first_stage` None), or a reranker's over that stage's lists.

    `ndcg`: NDCG@10 by query. `candidates` and `predictions`: SHA-256 of the file that the lists came from, and of the
    one with the scores. `pairs`: what a reranker scored.
    """

    task: str
    dataset_revision: str
    model: Identity
    first_stage: Identity | None
    depth: int
    candidates: str
    predictions: str
    pairs: int
    seconds: float
    facts: Mapping[str, Any]
    ndcg: Mapping[str, float]

    @property
    def mean(self) -> float:
        return sum(self.ndcg.values()) / len(self.ndcg)

    @classmethod
    def read(cls, file: Path) -> Cell | None:
        """What `write` wrote; None where there is nothing whole."""
        try:
            known = json.loads(file.read_text("utf-8"))
            first = known.pop("first_stage")
            model = Identity(**known.pop("model"))
            return cls(model=model, first_stage=Identity(**first) if first else None, **known)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be judged: an embedder, a reranker or a task, and why."""

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one model: `ResultCache(cache)` is mteb's, `predictions` takes the scores, `figures` the cells."""

    cache: Path
    predictions: Path

    @classmethod
    def of(cls, out: Path, first: Identity, reranker: Identity | None) -> Place:
        root = out / first.folder
        if reranker is None:
            return cls(root / "first_stage", root / "predictions")
        # A model's folder has two underscores for its name's slash, so that none is called first_stage.
        return cls(root / reranker.folder, root / reranker.folder / "predictions")

    def scores(self, task: str) -> Path:
        return self.predictions / f"{task}_predictions.json"

    def cell(self, task: str) -> Path:
        return self.cache / "figures" / f"{task}.json"


def judge_mteb(
    order: Order, tell: Callable[[Cell, bool], Any] = lambda _cell, _is_new: None
) -> list[Missing]:
    """What could not be judged; every cell is told as soon as it is known, with whether it was computed just now.

    Cells that `order.out` has whole are not computed again. Raises `InputError` for a folder with other settings, or
    with scores of another model or revision under the same name.
    """
    check_settings(order)
    missing: list[Missing] = []
    for stage in order.first_stages:
        for task in order.tasks:
            if any((each.kind, each.name) == ("task", task.metadata.name) for each in missing):
                continue
            try:
                with quiet_mteb():
                    _Bench(order, stage, task, tell, missing).judge()
            except (CheckpointError, MissingExtraError) as error:
                missing.append(Missing("embedder", stage.identity.name, str(error)))
                break
    return missing


def check_settings(order: Order) -> None:
    """Writes what the figures of the folder depend on, or raises `InputError` where it has those of others."""
    wanted = {"depth": order.depth, **order.settings}
    file = order.out / SETTINGS
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))
        others = [name for name in wanted | known if wanted.get(name) != known.get(name)]
        if others:
            told = ", ".join(f"{name} {known.get(name)!r}, not {wanted.get(name)!r}" for name in others)
            raise InputError(f"{order.out} has figures with {told}: give another --out, or the same options")
        return
    order.out.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(wanted) + "\n")


class _Bench:
    """One first stage and all rerankers on one task, whose data is loaded only if something has to be computed."""

    def __init__(
        self,
        order: Order,
        stage: FirstStage,
        task: Any,
        tell: Callable[[Cell, bool], Any],
        missing: list[Missing],
    ) -> None:
        self._order, self._stage, self._pristine, self._tell = order, stage, task, tell
        self._missing, self._is_reranking = missing, False
        self._loaded: Any = None
        self._name = str(task.metadata.name)
        self._lists = Place.of(order.out, stage.identity, None).scores(self._name)

    def judge(self) -> None:
        try:
            self._cell(self._stage, None)
        except _OutOfReachError as error:
            self._missing.append(Missing("task", self._name, str(error)))
            return
        for reranker in self._order.rerankers:
            if any((each.kind, each.name) == ("reranker", reranker.identity.name) for each in self._missing):
                continue
            try:
                self._cell(reranker, self._stage.identity)
            except _OutOfReachError as error:
                self._missing.append(Missing("task", self._name, str(error)))
                return
            except (CheckpointError, MissingExtraError) as error:
                self._missing.append(Missing("reranker", reranker.identity.name, str(error)))

    def _cell(self, model: FirstStage | RerankerModel, first: Identity | None) -> None:
        place = Place.of(self._order.out, first or model.identity, model.identity if first else None)
        candidates = digest(self._lists) if first else ""
        kept = self._kept(place, model.identity, first, candidates)
        self._tell(kept or self._computed(place, model, first, candidates), kept is None)

    def _kept(self, place: Place, model: Identity, first: Identity | None, candidates: str) -> Cell | None:
        """The cell that was computed before. Where there is none, old scores of this very model are removed: mteb would
        write new ones into their file and leave its first lines."""
        scores = place.scores(self._name)
        refuse_foreign(scores, model)
        cell = Cell.read(place.cell(self._name))
        if (
            cell is not None
            and (cell.model, cell.first_stage, cell.depth) == (model, first, self._order.depth)
            and cell.dataset_revision == self._pristine.metadata.dataset["revision"]
            and cell.candidates == candidates
            and scores.is_file()
            and cell.predictions == digest(scores)
            and _result(place, self._pristine, model) is not None
        ):
            return cell
        scores.unlink(missing_ok=True)
        return None

    def _computed(
        self, place: Place, model: FirstStage | RerankerModel, first: Identity | None, candidates: str
    ) -> Cell:
        import mteb

        facts = model.facts  # first, as a model that cannot be loaded needs no data
        task, begun = self._task(first is not None), perf_counter()
        before = model.scored_pairs if isinstance(model, RerankerModel) else 0
        found = mteb.evaluate(
            model,
            task,
            co2_tracker=False,
            encode_kwargs={"batch_size": self._order.batch_size, "show_progress_bar": False},
            cache=mteb.ResultCache(place.cache),
            overwrite_strategy="always",
            prediction_folder=place.predictions,
            show_progress_bar=False,
        )
        seconds = perf_counter() - begun
        scores = self._checked(place, model.identity, found.task_results[0], first)
        cell = Cell(
            task=self._name,
            dataset_revision=task.metadata.dataset["revision"],
            model=model.identity,
            first_stage=first,
            depth=self._order.depth,
            candidates=candidates,
            predictions=digest(place.scores(self._name)),
            pairs=model.scored_pairs - before if isinstance(model, RerankerModel) else 0,
            seconds=round(seconds, 2),
            facts=facts,
            ndcg=_ndcg(task, scores, _main_score(found.task_results[0])),
        )
        cell.write(place.cell(self._name))
        return cell

    def _task(self, is_reranking: bool) -> Any:
        """The task with its data; for rerankers with this stage's lists."""
        if self._loaded is None:
            try:
                self._loaded = loaded_copy(self._pristine)
            except InputError as error:
                raise _OutOfReachError(str(error)) from error
        if is_reranking and not self._is_reranking:
            self._loaded.convert_to_reranking(self._lists, top_k=self._order.depth)
            self._is_reranking = True
        return self._loaded

    def _checked(self, place: Place, model: Identity, result: Any, first: Identity | None) -> Scores:
        """The scores that mteb wrote, by query; `ScoreError` if they are not this model's over this stage's lists."""
        meta, scores = read_scores(place.scores(self._name))
        if meta != model.as_mteb:
            raise ScoreError(f"{place.scores(self._name)} is of {meta}, expected {model.as_mteb}")
        if first is not None:
            told = _only_score(result).get("previous_results_model_meta")
            lists = cut_lists(read_scores(self._lists)[1], self._order.depth)
            if told != first.as_mteb or any(scores[query].keys() != set(lists[query]) for query in scores):
                raise ScoreError(
                    f"{self._name}: what {model.name} scored are not the lists of {first.as_mteb} (mteb says {told})"
                )
        return scores


class _OutOfReachError(RunoffError):
    """A task whose data could not be loaded."""


# --- mteb's files ----------------------------------------------------------------------------------------

Scores = dict[str, dict[str, float]]
"""Query -> document -> score."""


def read_scores(file: Path) -> tuple[dict[str, str], Scores]:
    """(the model, its scores) of a file of predictions with one subset and one split."""
    known = json.loads(file.read_text("utf-8"))
    model = known.pop("mteb_model_meta")
    (splits,) = known.values()
    (scores,) = splits.values()
    return model, scores


def refuse_foreign(file: Path, model: Identity) -> None:
    """`InputError` where the file of predictions is another model's, or of other weights. One cut off is nobody's."""
    try:
        found = json.loads(file.read_text("utf-8"))["mteb_model_meta"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if found != model.as_mteb:
        raise InputError(
            f"{file} has the scores of {found['model_name']} at {found['revision']}, expected those of {model.name} at "
            f"{model.revision}: give another --out, or remove that model's folder"
        )


def cut_lists(scores: Scores, depth: int) -> dict[str, list[str]]:
    """Each query's best documents, as mteb cuts them for a reranker: equal scores in the file's order."""
    return {
        query: sorted(found, key=found.__getitem__, reverse=True)[:depth] for query, found in scores.items()
    }


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _result(place: Place, task: Any, model: Identity) -> Any:
    """mteb's own result of a model on a task, or None."""
    import mteb

    cache = mteb.ResultCache(place.cache)
    return cache.load_task_result(task.metadata.name, model.name, model.revision)


def _only_score(result: Any) -> dict[str, Any]:
    ((score,),) = result.scores.values()
    return dict(score)


def _main_score(result: Any) -> float:
    return float(_only_score(result)[f"ndcg_at_{CUT}"])


def _ndcg(task: Any, scores: Scores, told: float) -> dict[str, float]:
    """NDCG@10 by query, by pytrec_eval; `ScoreError` where its mean is not what mteb says."""
    ((data,),) = (splits.values() for splits in task.dataset.values())
    grades = data["relevant_docs"]
    ranked = {}
    for query, found in scores.items():
        # Equal scores by document id from the end of the alphabet: trec_eval's rule, and so mteb's.
        order = sorted(found, key=lambda document: (found[document], document), reverse=True)
        is_itself = task.ignore_identical_ids
        ranked[query] = [document for document in order if not (is_itself and document == query)]
    figures = measured(grades, ranked, ("ndcg",), (CUT,))[f"ndcg@{CUT}"]
    if abs(float(figures.mean()) - told) > ROUNDING:
        raise ScoreError(
            f"{task.metadata.name}: NDCG@10 is {figures.mean():.6f} by pytrec_eval over the scores that mteb wrote, "
            f"and {told:.6f} by mteb. This is a mistake in Runoff or mteb: report it with both versions"
        )
    return dict(zip(ranked, map(float, figures), strict=True))
