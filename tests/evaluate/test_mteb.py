"""mteb's two-stage evaluation with our models: nothing is mixed up, nothing computed twice, its own files readable."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.contracts import CheckpointError, InputError
from runoff.evaluate.judged import Judged, read_judged
from runoff.evaluate.matrix import figures_of
from runoff.evaluate.mteb import Cell, Missing, Order, Place, cut_lists, judge_mteb, read_scores
from runoff.evaluate.mteb_models import (
    Bm25Model,
    EmbedderModel,
    Identity,
    PairScorer,
    RerankerModel,
    TextEncoder,
    registered_prompts,
)
from runoff.evaluate.mteb_tasks import benchmark_tasks, offline_task, quiet_mteb, size
from standin_judged import CORPUS, QRELS, QUERIES, judged_folder

mteb = pytest.importorskip("mteb")


@pytest.fixture
def house(tmp_path: Path) -> Judged:
    return read_judged(judged_folder(tmp_path / "house"))


def overlap(pairs: Sequence[tuple[str, str]]) -> Any:
    """Shared words, and less than half of one by the document's checksum, so that no two are equal: mteb breaks ties by
    document id, `runoff judge` by the first stage's order."""
    shared = [
        len(set(query.lower().split()) & set(document.lower().strip(".").split()))
        + zlib.crc32(document.encode()) / 2**33
        for query, document in pairs
    ]
    return np.array(shared, np.float32)


def reranker(name: str = "local/words", revision: str = "r1") -> RerankerModel:
    return RerankerModel(Identity(name, revision), lambda: PairScorer(lambda pairs, _: overlap(pairs), {}))


def embedder(sign: int, revision: str = "e1") -> EmbedderModel:
    """One that finds long documents first (1) or short ones (-1), whatever the query."""

    def vectors_of(texts: Sequence[str], kind: str, _size: int) -> Any:
        # Two documents are equally long: the one with more of an "e" counts as longer.
        longs = [1.0 if kind == "query" else sign * (len(text) + text.count("e") / 10) for text in texts]
        return np.array(longs, np.float32)[:, None]

    encoder = TextEncoder(vectors_of, lambda one, other: one @ other.T, {"engine": "native"})
    return EmbedderModel(Identity(f"local/{'long' if sign > 0 else 'short'}", revision), lambda: encoder)


def judged(order: Order) -> dict[tuple[str, str, str | None], Cell]:
    """(task, model, first stage) -> its cell."""
    cells: dict[tuple[str, str, str | None], Cell] = {}

    def tell(cell: Cell, _is_new: bool) -> None:
        cells[cell.task, cell.model.name, cell.first_stage and cell.first_stage.name] = cell

    assert judge_mteb(order, tell) == []
    return cells


# --- nothing is mixed up ---------------------------------------------------------------------------------


def test_a_shared_cache_would_give_the_second_embedder_the_first_one_s_result(
    house: Judged, tmp_path: Path
) -> None:
    found = []
    for stage in (embedder(1), embedder(-1)):
        task = offline_task(house)
        with quiet_mteb():
            shared = {"cache": mteb.ResultCache(tmp_path / "cache"), "show_progress_bar": False}
            mteb.evaluate(stage, task, prediction_folder=tmp_path / stage.identity.folder, **shared)
            task.convert_to_reranking(tmp_path / stage.identity.folder, top_k=2)
            result = mteb.evaluate(reranker(), task, **shared).task_results[0]
        found.append(result.scores["test"][0])
    assert found[0]["ndcg_at_10"] == found[1]["ndcg_at_10"]
    assert found[1]["previous_results_model_meta"]["model_name"] == "local/long"


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1)])
def test_two_embedders_never_exchange_their_results(
    house: Judged, tmp_path: Path, signs: tuple[int, int]
) -> None:
    order = Order(
        tmp_path / "out", [offline_task(house)], [embedder(sign) for sign in signs], [reranker()], depth=2
    )
    cells = judged(order)
    # The longest two are both of q1's answers; of the shortest two the second one by words is q2's.
    long, short = (cells["house", "local/words", f"local/{name}"] for name in ("long", "short"))
    assert dict(long.ndcg) == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert dict(short.ndcg) == pytest.approx({"q1": 0.0, "q2": 1 / np.log2(3), "q3": 0.0})
    for cell in (long, short):
        assert cell.first_stage is not None
        place = Place.of(order.out, cell.first_stage, cell.model)
        result = mteb.ResultCache(place.cache).load_task_result("house", "local/words", "r1")
        assert result.scores["test"][0]["previous_results_model_meta"] == cell.first_stage.as_mteb
        assert cell.pairs == 6


@pytest.mark.parametrize(
    "other", [Identity("local/short", "e1"), Identity("local/long", "e2")], ids=["embedder", "revision"]
)
def test_scores_of_another_embedder_or_revision_are_refused(
    house: Judged, tmp_path: Path, other: Identity
) -> None:
    order = Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker()])
    judged(order)
    file = Place.of(order.out, order.first_stages[0].identity, None).scores("house")
    file.write_text(json.dumps({**json.loads(file.read_text()), "mteb_model_meta": other.as_mteb}))
    with pytest.raises(InputError, match=rf"of {other.name} at {other.revision}, expected.*local/long at e1"):
        judge_mteb(order)


def test_a_reranker_of_other_weights_is_refused_in_a_folder_of_that_name(
    house: Judged, tmp_path: Path
) -> None:
    judged(Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker(revision="r1")]))
    with pytest.raises(InputError, match=r"local/words at r1, expected those of local/words at r2"):
        judge_mteb(Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker(revision="r2")]))


def test_a_folder_of_another_depth_or_precision_is_refused(house: Judged, tmp_path: Path) -> None:
    tasks, settings = [offline_task(house)], {"precision": "fp32"}
    judged(Order(tmp_path / "out", tasks, [embedder(1)], depth=2, settings=settings))
    with pytest.raises(InputError, match=r"figures with depth 2, not 3: give another --out"):
        judge_mteb(Order(tmp_path / "out", tasks, [embedder(1)], depth=3, settings=settings))
    with pytest.raises(InputError, match=r"precision 'fp32', not 'bf16'"):
        judge_mteb(Order(tmp_path / "out", tasks, [embedder(1)], depth=2, settings={"precision": "bf16"}))


# --- the figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adi", "cisi", "negconstraint", "scifact_antonym", "xquad_en"])
def test_ndcg_is_pytrec_eval_s_mteb_s_and_that_of_judge_on_every_judged_set(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    own = read_judged(shared_data / "judged" / name).sampled(40)
    check_figures(own, tmp_path / "out", 100)


def test_ndcg_is_that_of_judge_where_the_depth_cuts(house: Judged, tmp_path: Path) -> None:
    check_figures(house, tmp_path / "out", 3)


def check_figures(own: Judged, out: Path, depth: int) -> None:
    import pytrec_eval

    stage, model = Bm25Model(), reranker()
    cells = judged(Order(out, [offline_task(own)], [stage], [model], depth))
    cell = cells[own.name, model.identity.name, stage.identity.name]
    place = Place.of(out, stage.identity, model.identity)
    grades = {query: dict(own.grades[query]) for query in own.queries}
    by_query = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut.10"}).evaluate(
        read_scores(place.scores(own.name))[1]
    )
    assert cell.mean == pytest.approx(np.mean([row["ndcg_cut_10"] for row in by_query.values()]), abs=1e-6)
    result = mteb.ResultCache(place.cache).load_task_result(own.name, "local/words", "r1")
    assert result.scores["test"][0]["ndcg_at_10"] == round(cell.mean, 5)
    found = cut_lists(read_scores(Place.of(out, stage.identity, None).scores(own.name))[1], depth)
    lists = {query: [(document, 0.0) for document in found[query]] for query in own.queries}
    assert cell.mean == pytest.approx(figures_of(own, lists)(overlap)["ndcg@10"], abs=1e-6)
    assert cell.pairs == sum(map(len, lists.values()))


def test_a_document_that_is_the_query_itself_does_not_count_where_the_task_says_so(tmp_path: Path) -> None:
    corpus = [*CORPUS, {"_id": "q1", "title": "", "text": QUERIES[0]["text"]}]
    task = offline_task(read_judged(judged_folder(tmp_path / "own", corpus)))
    counted = judged(Order(tmp_path / "one", [task], [Bm25Model()], [reranker()]))
    task = copy.copy(task)
    task.ignore_identical_ids = True
    ignored = judged(Order(tmp_path / "two", [task], [Bm25Model()], [reranker()]))
    first = [cells["own", "local/words", "runoff/bm25"].ndcg["q1"] for cells in (counted, ignored)]
    assert first[0] < first[1] == 1.0


# --- nothing is computed twice ---------------------------------------------------------------------------


def test_what_is_finished_is_neither_loaded_nor_scored_again(house: Judged, tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("nothing is to be loaded")

    first = judged(Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker()], 2))
    stage = EmbedderModel(embedder(1).identity, never)
    model = RerankerModel(reranker().identity, never)
    again = judged(Order(tmp_path / "out", [offline_task(house)], [stage], [model], 2))
    assert again == first
    assert model.scored_pairs == 0


def test_after_an_interruption_only_the_rest_is_scored(house: Judged, tmp_path: Path) -> None:
    other = read_judged(judged_folder(tmp_path / "other"))
    calls: list[int] = []

    def scores_of(pairs: Sequence[tuple[str, str]], _size: int) -> Any:
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return overlap(pairs)

    tasks = [offline_task(house), offline_task(other)]
    model = RerankerModel(reranker().identity, lambda: PairScorer(scores_of, {}))
    with pytest.raises(KeyboardInterrupt):
        judge_mteb(Order(tmp_path / "out", tasks, [embedder(1)], [model]))
    assert calls == [15, 15]
    again = reranker()
    judged(Order(tmp_path / "out", tasks, [embedder(1)], [again]))
    assert again.scored_pairs == 15


def test_scores_that_were_cut_off_are_computed_again(house: Judged, tmp_path: Path) -> None:
    order = Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker()], 2)
    first = judged(order)
    file = Place.of(order.out, order.first_stages[0].identity, None).scores("house")
    file.write_text(file.read_text()[:100])
    again = judged(order)
    assert [cell.ndcg for cell in again.values()] == [cell.ndcg for cell in first.values()]


def test_a_set_that_has_changed_is_judged_again(house: Judged, tmp_path: Path) -> None:
    judged(Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [reranker()], 2))
    changed = read_judged(judged_folder(tmp_path / "new" / "house", CORPUS, QUERIES, QRELS + "q2\tleak\t1\n"))
    model = reranker()
    cells = judged(Order(tmp_path / "out", [offline_task(changed)], [embedder(1)], [model], 2))
    assert model.scored_pairs == 6
    assert cells["house", "local/words", "local/long"].ndcg["q2"] > 0


# --- what mteb is given, and what it reads ---------------------------------------------------------------


def test_batch_size_and_kinds_of_text_reach_the_models(house: Judged, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def vectors_of(texts: Sequence[str], kind: str, size: int) -> Any:
        asked.append((kind, len(texts), size))
        return np.array([[float(len(text))] for text in texts], np.float32)

    def scores_of(pairs: Sequence[tuple[str, str]], size: int) -> Any:
        asked.append(("pairs", len(pairs), size))
        assert pairs[0][0] == "when is the boiler serviced"
        return overlap(pairs)

    stage = EmbedderModel(
        Identity("local/e", "1"), lambda: TextEncoder(vectors_of, lambda one, other: one @ other.T, {})
    )
    model = RerankerModel(Identity("local/r", "1"), lambda: PairScorer(scores_of, {}))
    judged(Order(tmp_path / "out", [offline_task(house)], [stage], [model], batch_size=4))
    assert asked == [("query", 3, 4), ("document", 5, 4), ("pairs", 15, 4)]


def test_pairs_are_scored_in_pieces(house: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runoff.evaluate.mteb_models.PIECE", 4)
    advanced: list[int] = []
    model = reranker()
    model.advance = advanced.append
    judged(Order(tmp_path / "out", [offline_task(house)], [embedder(1)], [model]))
    assert advanced == [4, 4, 4, 3]


def test_mteb_s_own_loader_reads_every_result(house: Judged, tmp_path: Path) -> None:
    order = Order(tmp_path / "out", [offline_task(house)], [embedder(1), Bm25Model()], [reranker()])
    cells = judged(order)
    for cell in cells.values():
        place = Place.of(order.out, cell.first_stage or cell.model, cell.model if cell.first_stage else None)
        (read,) = mteb.ResultCache(place.cache).load_results().model_results
        assert (read.model_name, read.model_revision) == (cell.model.name, cell.model.revision)
        assert read.task_results[0].get_score() == pytest.approx(cell.mean, abs=5.1e-6)


def test_our_models_keep_mteb_s_protocols() -> None:
    from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol

    for model, protocol in (
        (reranker(), CrossEncoderProtocol),
        (embedder(1), EncoderProtocol),
        (Bm25Model(), SearchProtocol),
    ):
        assert isinstance(model, protocol)
        assert model.mteb_model_meta.name == model.identity.name
        assert model.mteb_model_meta.loader is None
    one, other = np.eye(2, 3, dtype=np.float32), np.ones((2, 3), np.float32)
    assert embedder(1).similarity_pairwise(one, other).tolist() == [1.0, 1.0]


def test_prompts_that_a_model_s_files_lack_are_those_of_mteb_s_registry() -> None:
    found = registered_prompts("BAAI/bge-small-en-v1.5")
    assert found == {"query": "Represent this sentence for searching relevant passages: "}
    assert registered_prompts("local/model") == {}


# --- tasks -----------------------------------------------------------------------------------------------


def test_the_benchmark_has_ten_retrieval_tasks_of_known_size() -> None:
    tasks = {task.metadata.name: task for task in benchmark_tasks()}
    assert len(tasks) == 10
    assert size(tasks["SCIDOCS"]).pairs(100) == 100_000
    assert size(tasks["FEVERHardNegatives"]).queries == 1000
    assert sum(size(task).pairs(100) or 0 for task in tasks.values()) == 882_000
    assert [task.metadata.name for task in benchmark_tasks(names=["TRECCOVID"])] == ["TRECCOVID"]


def test_benchmarks_and_tasks_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match=r"has no benchmark 'MTEB\(eng, v9\)'"):
        benchmark_tasks("MTEB(eng, v9)")
    with pytest.raises(InputError, match=r"no retrieval task STS12; it has ArguAna, .*SCIDOCS"):
        benchmark_tasks(names=["STS12"])


def test_what_cannot_be_reached_is_named_and_the_rest_is_judged(house: Judged, tmp_path: Path) -> None:
    def gated() -> Any:
        raise CheckpointError("accept its terms")

    def foreign() -> Any:
        raise ValueError("needs code of its own\nand more")

    stages = [EmbedderModel(Identity("org/gated", "1"), gated), embedder(1)]
    models = [RerankerModel(Identity("org/foreign", "1"), foreign), reranker()]
    tasks = [*benchmark_tasks(names=["SCIDOCS"]), offline_task(house)]
    told: list[tuple[str, str]] = []
    missing = judge_mteb(
        Order(tmp_path / "out", tasks, stages, models),
        lambda cell, _: told.append((cell.task, cell.model.name)),
    )
    assert {(each.kind, each.name) for each in missing} == {
        ("embedder", "org/gated"),
        ("reranker", "org/foreign"),
        ("task", "SCIDOCS"),
    }
    assert Missing("embedder", "org/gated", "accept its terms") in missing
    assert any("cannot be loaded: needs code of its own" in each.reason for each in missing)
    assert told == [("house", "local/long"), ("house", "local/words")]
