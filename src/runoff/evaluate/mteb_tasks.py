"""What mteb is to judge: the retrieval tasks of a benchmark, and judged sets of one's own as tasks that need no hub."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runoff.contracts import InputError, MissingExtraError
from runoff.evaluate.judged import Judged, digest_of

BENCHMARK = "MTEB(eng, v2)"
SUBSET, SPLIT = "default", "test"


@dataclass(frozen=True, slots=True)
class Size:
    """Queries and documents of a task; None where mteb does not say before it is loaded."""

    queries: int | None
    documents: int | None

    def pairs(self, depth: int) -> int | None:
        """What a reranker has to score after one first stage."""
        if self.queries is None:
            return None
        return self.queries * min(depth, depth if self.documents is None else self.documents)


def check_extra() -> None:
    """Raises `MissingExtraError` without mteb."""
    try:
        import mteb  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtraError(
            f"this needs mteb ({error}). Install it: pip install 'runoff[eval,torch]'"
        ) from error


def benchmark_tasks(benchmark: str = BENCHMARK, names: Sequence[str] = ()) -> list[Any]:
    """The retrieval tasks of a benchmark of mteb, or those of them that are named. Nothing is loaded yet.

    `InputError` for a benchmark or a task that there is not, and for tasks with several subsets or splits.
    """
    check_extra()
    import mteb
    from mteb.abstasks import AbsTaskRetrieval

    try:
        found = mteb.get_benchmark(benchmark)
    except KeyError as error:
        raise InputError(
            f"mteb {mteb.__version__} has no benchmark {benchmark!r}: {error.args[0]}"
        ) from error
    own = [
        task
        for task in found.tasks
        if isinstance(task, AbsTaskRetrieval) and task.metadata.type == "Retrieval"
    ]
    by_name = {task.metadata.name: task for task in own}
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(
            f"{benchmark} has no retrieval task {', '.join(unknown)}; it has {', '.join(by_name) or 'none'}"
        )
    chosen = [by_name[name] for name in names] or own
    for task in chosen:
        if len(task.hf_subsets) != 1 or len(task.eval_splits) != 1:
            raise InputError(
                f"expected tasks with one subset and one split, got {task.metadata.name} with "
                f"{len(task.hf_subsets)} and {len(task.eval_splits)}: name others with --task"
            )
    return chosen


def offline_task(judged: Judged) -> Any:
    """A judged set as a retrieval task of mteb, of the set's name; the dataset's revision is a digest of all of it."""
    check_extra()
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    grades = {query: judged.grades[query] for query in judged.queries}
    revision = digest_of(judged.documents, judged.queries, grades)

    class JudgedSet(AbsTaskRetrieval):  # type: ignore[misc] # mteb counts as untyped
        data_loaded: bool
        metadata = TaskMetadata(
            name=judged.name,
            description="A judged set in a local folder.",
            type="Retrieval",
            main_score="ndcg_at_10",
            eval_langs=["eng-Latn"],
            eval_splits=[SPLIT],
            dataset={"path": judged.name, "revision": revision},
        )

        def load_data(self, num_proc: int | None = None, *, timer: Any = None, **options: Any) -> None:
            if not self.data_loaded:
                self.dataset = {SUBSET: {SPLIT: _split(judged)}}
                self.data_loaded = True

    task = JudgedSet()
    task.judged_size = Size(len(judged.queries), len(judged.documents))
    return task


def _split(judged: Judged) -> Any:
    from datasets import Dataset
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    # The title is in front of the text already. It must not be None: mteb measures its length.
    corpus = [{"id": id, "title": "", "text": text} for id, text in judged.documents.items()]
    return RetrievalSplitData(
        corpus=Dataset.from_list(corpus),
        queries=Dataset.from_list([{"id": id, "text": text} for id, text in judged.queries.items()]),
        relevant_docs={query: dict(judged.grades[query]) for query in judged.queries},
        top_ranked=None,
    )


def size(task: Any) -> Size:
    """How large a task is, by what mteb says of it; nothing is loaded."""
    if (own := getattr(task, "judged_size", None)) is not None:
        return own  # type: ignore[no-any-return] # it is ours
    known = (task.metadata.descriptive_stats or {}).get(task.eval_splits[0], {})
    queries, documents = known.get("num_queries"), known.get("num_documents")
    if queries is None and (texts := (known.get("documents_text_statistics") or {}).get("unique_texts")):
        queries, documents = known["num_samples"] - texts, texts
    return Size(queries, documents)


def loaded_copy(task: Any) -> Any:
    """A copy of a task with its data, for one first stage: turned into a reranking task it keeps that stage's lists and
    depth, which the next stage must not meet. `InputError` where the data cannot be reached."""
    own = copy.copy(task)
    try:
        own.load_data()
    except Exception as error:
        # datasets, the hub's client and its HTTP library each have errors of their own, which depend on their versions.
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the data of {task.metadata.name} cannot be reached: {said}") from error
    return own


@contextmanager
def quiet_mteb() -> Iterator[None]:
    """mteb and datasets without their bars, and without remarks such as that a benchmark's task has a newer version."""
    import datasets

    logger, had_bars = logging.getLogger("mteb"), not datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
