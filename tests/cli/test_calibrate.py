"""`runoff calibrate`: what is fitted is Python's, lies beside the model, and is refused where it would mislead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.calibration.fit import fit
from runoff.calibration.stored import CALIBRATION, read_calibration
from runoff.data.shards import Shards
from runoff.distill import labels as label_shards
from runoff.evaluate.judged import read_judged
from runoff.evaluate.stages import bm25_lists
from standin_calibration import write_calibration
from standin_judged import judged_folder

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

QUERIES, DOCUMENTS = 12, 30
WORDS = ("boiler", "roof", "storm", "window", "rose", "garden", "rain", "leak", "sun", "water")


def texts_of(model: CrossEncoder) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """A corpus, queries, and judgements that hold the model's best quarter of each query, but for some."""
    generator = np.random.default_rng(4)
    corpus = [
        {"_id": f"d{row}", "title": "", "text": " ".join(generator.choice(WORDS, 6))}
        for row in range(DOCUMENTS)
    ]
    queries = [{"_id": f"q{row}", "text": " ".join(generator.choice(WORDS, 3))} for row in range(QUERIES)]
    lines = []
    for query in queries:
        scores = model.score(query["text"], [document["text"] for document in corpus])
        for row in np.argsort(-scores)[: DOCUMENTS // 4]:
            if generator.random() < 0.8:
                lines.append(f"{query['_id']}\td{row}\t{generator.integers(1, 3)}\n")
        lines.append(f"{query['_id']}\td{np.argmin(scores)}\t0\n")
    return corpus, queries, "".join(lines)


@pytest.fixture(scope="module")
def built_set(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "house"
    return judged_folder(folder, *texts_of(CrossEncoder(tiny("bert"))))


@pytest.fixture
def judged(built_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_set, tmp_path / "house"))


def by_python(judged: Path, model: Path, depth: int) -> Any:
    house, scorer = read_judged(judged), CrossEncoder(model)
    scores: list[float] = []
    relevant, groups = [], []
    for query, row in bm25_lists(house.documents, house.queries, depth).items():
        scores += scorer.score(house.queries[query], [house.documents[id] for id, _ in row]).tolist()
        relevant += [house.grades[query].get(id, 0) > 0 for id, _ in row]
        groups += [query] * len(row)
    return scores, relevant, groups


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_calibration_is_pythons_and_lies_beside_the_model(
    shell: Shell, tiny_copy: Tiny, judged: Path, method: str
) -> None:
    model = tiny_copy("bert")
    words = ("calibrate", model, "--judged", judged, "--method", method, "--depth", 20)
    facts = shell(*words, "--plot", "diagram.svg", "--json").json
    scores, relevant, groups = by_python(judged, model, 20)
    wanted = fit(scores, relevant, groups, method).calibration  # type: ignore[arg-type]
    found = read_calibration(model)
    assert found is not None
    assert found.probabilities(scores) == pytest.approx(wanted.probabilities(scores), abs=1e-9)
    assert found.method == facts["method"] == method
    assert found.fitted_on.names == ("house",)
    assert found.fitted_on.relevance == (
        "a grade above 0 among BM25's best 20 of each query; what nobody judged counts as not relevant"
    )
    assert (facts["queries"], facts["pairs"], facts["relevant"]) == (QUERIES, 20 * QUERIES, sum(relevant))
    assert facts["share_relevant"] == pytest.approx(np.mean(relevant))
    assert facts["ece_after"] == pytest.approx(found.fitted_on.ece_after)
    assert facts["brier_after"] < facts["brier_before"]
    assert [each["wanted"] for each in facts["thresholds"]] == [0.5, 0.8, 0.9]
    assert sum(each["pairs"] for each in facts["reliability"]["after"]) == facts["pairs"]
    assert Path("diagram.svg").read_text().startswith("<?xml")
    assert CrossEncoder(model).calibration == found


def test_a_copy_is_written_where_out_says(shell: Shell, tiny: Tiny, tmp_path: Path) -> None:
    source = tiny("ettin")
    judged = judged_folder(tmp_path / "own", *texts_of(CrossEncoder(source)))
    before = sorted(path.name for path in source.iterdir())
    answer = shell("calibrate", source, "--judged", judged, "--out", "copy", "--limit", 10)
    assert (answer.code, answer.err) == (0, "")
    assert sorted(path.name for path in source.iterdir()) == before
    held = {path.relative_to("copy").as_posix() for path in Path("copy").rglob("*") if path.is_file()}
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert held == {*wanted, CALIBRATION}
    pairs = [("boiler", "a boiler leaks"), ("roof", "a storm")]
    np.testing.assert_array_equal(CrossEncoder("copy").predict(pairs), CrossEncoder(source).predict(pairs))
    calibration = read_calibration(Path("copy"))
    assert calibration is not None
    assert calibration.fitted_on.queries == 10
    for said in ("copy/calibration.json", "calibrated by platt", "10 queries"):
        assert said in answer.out
    assert f"{calibration.fitted_on.ece_after:.4f}" in answer.out
    assert f"{calibration.fitted_on.brier_before:.4f}" in answer.out


def test_several_sets_are_fitted_together(
    shell: Shell, tiny_copy: Tiny, judged: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(judged, tmp_path / "more" / "garden"))
    model = tiny_copy("bert")
    facts = shell("calibrate", model, "--judged", judged, "--judged", other, "--depth", 10, "--json").json
    assert facts["names"] == ["house", "garden"]
    # Queries of the same ids in two sets are different queries.
    assert (facts["queries"], facts["pairs"]) == (2 * QUERIES, 20 * QUERIES)


# --- labels ----------------------------------------------------------------------------------------------


def labels(folder: Path, model: CrossEncoder, grades: bool = True, wrong: float | None = None) -> Path:
    """Rows of `runoff label`: each query's documents, graded by the judged set, labelled by the model's score."""
    corpus, queries, qrels = texts_of(model)
    graded = {tuple(line.split("\t")[:2]): int(line.split("\t")[2]) for line in qrels.splitlines()}
    columns: dict[str, list[Any]] = {name: [] for name in label_shards.schema().names}
    for query in queries:
        scores = model.score(query["text"], [document["text"] for document in corpus])
        for rank, (document, score) in enumerate(zip(corpus, scores.tolist(), strict=True), start=1):
            row = {
                "query_id": query["_id"],
                "query": query["text"],
                "document_id": document["_id"],
                "document": document["text"],
                "grade": graded.get((query["_id"], document["_id"])) if grades else None,
                "rank": rank,
                "label": score if wrong is None else wrong,
            }
            for name, column in columns.items():
                column.append(row[name])
    made = Shards(folder, label_shards.KIND)
    made.begin({"scores": []})
    made.write(0, columns, label_shards.schema())
    made.finish({"counts": {"pairs": len(columns["label"])}})
    return folder


def test_labelled_rows_are_relevant_by_grade_or_from_a_label_on(
    shell: Shell, tiny_copy: Tiny, tmp_path: Path
) -> None:
    model = tiny_copy("bert")
    scorer = CrossEncoder(model)
    rows = labels(tmp_path / "rows", scorer)
    corpus, queries, qrels = texts_of(scorer)
    facts = shell("calibrate", model, "--labels", rows, "--json").json
    assert (facts["names"], facts["queries"], facts["pairs"]) == (["rows"], QUERIES, QUERIES * DOCUMENTS)
    assert facts["relevant"] == sum(int(line.split("\t")[2]) > 0 for line in qrels.splitlines())
    scores = np.concatenate(
        [scorer.score(query["text"], [each["text"] for each in corpus]) for query in queries]
    )
    limit = float(np.quantile(scores, 0.8))
    facts = shell("calibrate", model, "--labels", rows, "--relevant-from", limit, "--json").json
    assert facts["relevant"] == int((scores >= limit).sum())
    assert facts["relevance"] == f"a label of {limit:g} or more"
    few = shell("calibrate", model, "--labels", rows, "--relevant-from", limit, "--limit", 8, "--json").json
    assert few["queries"] == 8


def test_labels_that_say_nothing_of_relevance_are_refused(
    shell: Shell, tiny_copy: Tiny, tmp_path: Path
) -> None:
    model = tiny_copy("bert")
    scorer = CrossEncoder(model)
    unjudged = labels(tmp_path / "unjudged", scorer, grades=False)
    shell("calibrate", model, "--labels", unjudged).check_refused(
        2, "no row of", "is judged", "--relevant-from NUMBER"
    )
    wrong = labels(tmp_path / "wrong", scorer, wrong=float("nan"))
    shell("calibrate", model, "--labels", wrong, "--relevant-from", 1).check_refused(
        2, "part-00000.parquet, row 0: expected a label that is a finite number, got nan"
    )
    shell("calibrate", model, "--labels", tmp_path).check_refused(2, "expected a folder of labels")


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("expected judged pairs: --judged FOLDER", "--labels ROWS", "one of both")),
        (("--judged", "house", "--labels", "rows"), ("one of both",)),
        (("--judged", "house", "--relevant-from", "1"), ("--relevant-from is a label's",)),
        (("--labels", "rows", "--depth", "5"), ("--depth is how many candidates BM25 finds",)),
        (("--labels", "rows", "--relevant-from", "nan"), ("expected a number, got 'nan'",)),
        (("--judged", "nowhere"), ("expected a judged set at nowhere",)),
        (("--judged", "house", "--judged", "house"), ("names a set twice",)),
        (("--judged", "house", "--plot", "diagram.jpg"), ("expected a file ending in .svg",)),
        (("--judged", "house", "--out", "bert"), ("lie in one another",)),
        (("--judged", "house", "--out", "bert/inside"), ("lie in one another",)),
        (("--judged", "house", "--out", "house"), ("a new or empty folder as --out, house is in use",)),
        (("--judged", "house", "--depth", "1"), ("expected at least 20 relevant pairs and 20 that are not",)),
        (("--judged", "house", "--limit", "4"), ("pairs of at least 5 queries", "got 4")),
        (("--judged", "house", "--method", "beta"), ("'beta'",)),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_cannot_be_meant_or_fitted_is_refused_and_nothing_is_written(
    shell: Shell, tiny_copy: Tiny, judged: Path, words: Sequence[str], said: Sequence[str]
) -> None:
    model = tiny_copy("bert")
    shell("calibrate", "bert", *words).check_refused(2, *said)
    assert not (model / CALIBRATION).exists()
    assert sorted(path.name for path in Path().iterdir()) == ["bert", "house"]


def test_judgements_against_the_scores_are_refused(shell: Shell, tiny_copy: Tiny, judged: Path) -> None:
    model = tiny_copy("bert")
    scorer, house = CrossEncoder(model), read_judged(judged)
    lines = ["query-id\tcorpus-id\tscore\n"]
    for id, query in house.queries.items():
        worst = np.argsort(scorer.score(query, list(house.documents.values())))[:8]
        lines += [f"{id}\t{list(house.documents)[row]}\t1\n" for row in worst]
    (judged / "qrels" / "test.tsv").write_text("".join(lines))
    shell("calibrate", model, "--judged", judged).check_refused(2, "the scores run against the relevance")
    assert not (model / CALIBRATION).exists()


def test_a_packaged_model_is_never_written_to(shell: Shell, judged: Path) -> None:
    shell("calibrate", "runoff-nano", "--judged", judged).check_refused(
        2, "runoff-nano is no folder", "--out FOLDER"
    )


def test_a_model_of_several_labels_has_no_calibration(shell: Shell, tiny: Tiny, judged: Path) -> None:
    answer = shell("calibrate", tiny("bert-3-labels"), "--judged", judged, "--out", "copy")
    answer.check_refused(2, "gives 3 scores a pair: a calibration is of one")


# --- thresholds on the command line ----------------------------------------------------------------------

QUERY = "boiler rain"
TEXTS = ["a boiler leaks", "the roof in the storm", "rain on roses", "the sun", "a window"]


def test_rank_keeps_what_is_probable(shell: Shell, tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    raw = CrossEncoder(folder).score(QUERY, TEXTS)
    write_calibration(folder, slope=1.0, intercept=-float(np.sort(raw)[2]))  # the third worst has 0.5
    whole = shell("rank", QUERY, *TEXTS, "--model", folder, "--json").json["results"]
    assert not any("probability" in each for each in whole)
    kept = shell("rank", QUERY, *TEXTS, "--model", folder, "--threshold", 0.49, "--json").json["results"]
    assert [each["corpus_id"] for each in kept] == [each["corpus_id"] for each in whole][:3]
    assert kept[2]["probability"] == pytest.approx(0.5, abs=1e-4)
    table = shell("rank", QUERY, *TEXTS, "--model", folder, "--threshold", 0.49).out
    assert "probability" in table
    assert f"{kept[0]['probability']:.3f}" in table
    assert "3 of 5 documents by" in table
    none = shell("rank", QUERY, *TEXTS, "--model", folder, "--threshold", 1).out
    assert "none of the 5 documents has a probability of 1 or more" in none


def test_a_threshold_without_a_calibration_or_sense_is_refused(
    shell: Shell, tiny: Tiny, notes_index: Path
) -> None:
    for words in (("rank", QUERY, *TEXTS), ("search", QUERY, "--index", notes_index)):
        command = (*words, "--model", tiny("bert"), "--threshold")
        shell(*command, 0.5).check_refused(2, "has no calibration", "runoff calibrate")
        shell(*command, 1.5).check_refused(2, "expected a number from 0 to 1, got '1.5'")
        shell(*command, "nan").check_refused(2, "expected a number from 0 to 1, got 'nan'")
    search = ("search", QUERY, "--index", notes_index, "--threshold", 0.5)
    shell(*search, "--no-rerank").check_refused(2, "--threshold", "neither --no-rerank nor --run")


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_search_keeps_what_is_probable(
    shell: Shell, tiny_copy: Tiny, notes_index: Path, weight: float
) -> None:
    folder = tiny_copy("bert")
    command = ("search", "boiler storm", "--index", notes_index, "--model", folder, "--rerank-weight", weight)
    whole = shell(*command, "--json").json["hits"]
    raw = sorted(hit["scores"]["rerank"] for hit in whole)
    assert len(raw) == 4
    write_calibration(folder, slope=1.0, intercept=-(raw[1] + raw[2]) / 2)
    kept = shell(*command, "--threshold", 0.5, "--json").json["hits"]
    wanted = [hit["id"] for hit in whole if hit["scores"]["rerank"] >= raw[2]]
    assert [hit["id"] for hit in kept] == wanted
    assert [hit["rank"] for hit in kept] == [1, 2]
    assert all(hit["scores"]["probability"] >= 0.5 for hit in kept)
    one = shell(*command, "--threshold", 0.5, "--top-k", 1, "--json").json["hits"]
    assert [hit["id"] for hit in one] == wanted[:1]
    assert "probability" in shell(*command, "--threshold", 0.5).out
    none = shell(*command, "--threshold", 1).out
    assert "none of the 4 candidates has a probability of 1 or more" in none


# --- what goes along -------------------------------------------------------------------------------------


def test_info_tells_of_it(shell: Shell, tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    assert shell("info", "--model", folder, "--json").json["model"]["calibration"] is None
    write_calibration(folder)
    found = shell("info", "--model", folder, "--json").json["model"]["calibration"]
    assert found == "platt, fitted on house: expected calibration error 0.0200 (before 0.4000)"


def test_a_quantized_model_keeps_it_and_says_how_far_it_is_off(shell: Shell, tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    calibration = write_calibration(folder)
    answer = shell("quantize", folder, "small", "--json")
    if "native engine" in answer.err:
        pytest.skip("needs the native engine")
    moved = answer.json["measured"]["largest_probability_difference"]
    assert 0.0 < moved < 0.1
    assert CrossEncoder("small").calibration == calibration
    card = Path("small/README.md").read_text()
    assert f"probabilities that differ by {moved:.4f} at most" in card
    assert "runoff calibrate small --judged FOLDER" in card
    assert json.loads(Path("small", CALIBRATION).read_text())["fitted_on"]["names"] == ["house"]
