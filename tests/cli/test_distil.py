"""`runoff collect` and `runoff teach`: from an index to a teacher's scores, gone on with, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff import CrossEncoder
from runoff.data.shards import Shards
from runoff.distill.prompted import PromptedTeacher
from runoff.distill.teacher import pair_key
from standins import build_bare_causal

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

QUERIES = "q1\twhen is the boiler serviced\nq2\twhat did the storm break\nq3\tzebra\n"
QRELS = "query-id\tcorpus-id\tscore\nq1\tboiler\t1\nq2\tgarden\t1\n"


@pytest.fixture
def asked(notes_index: Path) -> Path:
    """The index, with queries.tsv and qrels.tsv beside it."""
    notes_index.with_name("queries.tsv").write_text(QUERIES, encoding="utf-8")
    notes_index.with_name("qrels.tsv").write_text(QRELS, encoding="utf-8")
    return notes_index


def rows(folder: str, kind: str) -> list[dict[str, Any]]:
    return [row for _, batch in Shards(folder, kind).batches() for row in batch.to_pylist()]


def test_from_an_index_to_a_teachers_scores(shell: Shell, tiny: Tiny, asked: Path) -> None:
    facts = shell(
        "collect", "cand", "--index", asked, "--queries", "queries.tsv", "--qrels", "qrels.tsv", "--json"
    ).json
    assert facts["queries"] == 3
    assert facts["queries_without_candidates"] == ["q3"]
    assert facts["positives_not_retrieved"] == 1
    pairs = [(row["query"], row["document"]) for row in rows("cand", "candidates")]
    assert facts["pairs"] == len(pairs) >= 4
    taught = shell("teach", "cand", "scores", "--model", tiny("bert"), "--precision", "fp32", "--json").json
    assert (taught["pairs"], taught["scored"], taught["known"]) == (len(pairs), len(pairs), 0)
    exact = CrossEncoder(tiny("bert"), precision="fp32").predict(pairs, activation_fn="identity")
    found = {row["key"]: row["score"] for row in rows("scores", "scores")}
    assert [found[pair_key(*pair)] for pair in pairs] == pytest.approx(list(exact), abs=1e-6)
    again = shell("teach", "cand", "scores", "--model", tiny("bert"), "--precision", "fp32", "--json").json
    assert (again["scored"], again["known"]) == (0, len(pairs))


def test_a_causal_model_teaches_in_the_words_of_its_family(shell: Shell, tmp_path: Path, asked: Path) -> None:
    folder = build_bare_causal(tmp_path / "mxbai-rerank-tiny-v2")
    assert shell("collect", "cand", "--index", asked, "--queries", "queries.tsv").code == 0
    assert shell("teach", "cand", "scores", "--model", folder, "--json").json["scored"] > 0
    about = json.loads(Path("scores/manifest.json").read_text())["identity"]
    assert (about["template"], about["precision"], about["max_length"]) == ("mxbai-rerank-v2", "fp32", 8192)
    pairs = [(row["query"], row["document"]) for row in rows("cand", "candidates")]
    teacher = PromptedTeacher("t", folder, "mxbai-rerank-v2", device="cpu", dtype="float32")
    found = {row["key"]: row["score"] for row in rows("scores", "scores")}
    assert [found[pair_key(*pair)] for pair in pairs] == pytest.approx(
        list(teacher.score_pairs(pairs)), abs=1e-5
    )
    other = folder.rename(tmp_path / "some-llm")
    shell("teach", "cand", "others", "--model", other).check_refused(
        2, "some-llm is a causal language model", "--template"
    )


def test_bm25_teaches_every_pair_without_a_model(shell: Shell, asked: Path) -> None:
    assert shell("collect", "cand", "--index", asked, "--queries", "queries.tsv").code == 0
    facts = shell("teach", "cand", "words", "--as", "bm25", "--json").json
    assert (facts["teacher"], facts["scored"]) == ("bm25", len(rows("cand", "candidates")))
    about = json.loads(Path("words/manifest.json").read_text())["identity"]
    assert (about["as"], about["k1"], about["b"], about["documents"] > 0) == ("bm25", 1.5, 0.75, True)
    shell("teach", "cand", "x", "--as", "bm25", "--model", "some/model").check_refused(2, "takes no model")
    shell("teach", "cand", "x", "--as", "bm25", "--ray").check_refused(2, "leave --ray out")
    assert not Path("x").exists()


def test_labels_are_made_of_scores_and_of_what_the_first_stage_said(
    shell: Shell, tiny: Tiny, asked: Path
) -> None:
    words = ("collect", "cand", "--index", asked, "--queries", "queries.tsv", "--qrels", "qrels.tsv")
    assert shell(*words).code == 0
    assert shell("teach", "cand", "one", "--model", tiny("bert")).code == 0
    assert shell("teach", "cand", "two", "--model", tiny("static"), "--as", "similarity").code == 0
    raw = shell("label", "cand", "raw", "--scores", "one", "--json").json
    scores = {row["key"]: row["score"] for row in rows("one", "scores")}
    found = rows("raw", "labels")
    assert [row["label"] for row in found] == [
        scores[pair_key(row["query"], row["document"])] for row in found
    ]
    assert (raw["raw"], raw["pairs"]) == (True, len(found))
    parts = ("--scores", "one", "--scores", "two=0.5", "--column", "bm25=0.3", "--positive-bonus", 1)
    summed = shell("label", "cand", "sum", *parts, "--json").json
    assert set(summed["parts"]) == {"one", "two", "bm25"}
    assert not summed["raw"]
    assert "a sum of parts" in shell("label", "cand", "sum", *parts).out
    shell("label", "cand", "x", "--scores", "one=much").check_refused(2, "expected NAME=WEIGHT with a number")
    shell("label", "cand", "x").check_refused(2, "a label needs scores")
    shell("label", "cand", "x", "--scores", "one", "--scores", "one=2").check_refused(2, "a folder twice")
    shell("label", "cand", "x", "--scores", "cand").check_refused(2, "expected a folder of scores")
    assert not Path("x").exists()


def test_a_sample_of_candidates_and_of_labels(shell: Shell, tiny: Tiny, asked: Path) -> None:
    words = ("collect", "cand", "--index", asked, "--queries", "queries.tsv", "--qrels", "qrels.tsv")
    assert shell(*words, "--retrieve", "dense").code == 0
    assert shell("teach", "cand", "one", "--model", tiny("bert")).code == 0
    anchors = ("sample", "cand", "few", "--scores", "one", "--total", 3, "--hardest", 1)
    facts = shell(*anchors, "--plot", "scores.svg", "--json").json
    assert (facts["queries"], facts["rows_before"], facts["rows"], facts["positives"]) == (3, 15, 9, 2)
    assert "<svg" in Path("scores.svg").read_text(encoding="utf-8")
    assert "9 of 15, of 3 queries" in shell(*anchors).out
    assert shell("teach", "few", "one", "--model", tiny("bert"), "--json").json["scored"] == 0
    assert shell("label", "few", "rows", "--scores", "one").code == 0
    band = shell("sample", "rows", "fewer", "--head", 1, "--medium", 1, "--band", 0.5, 1, "--json").json
    assert (band["rows_before"], band["rows"], band["positives"]) == (9, 6, 2)
    assert {row["query_id"] for row in rows("fewer", "labels")} == {"q1", "q2", "q3"}
    shell("sample", "cand", "x").check_refused(2, "candidates are sampled by a teacher's scores")
    shell("sample", "rows", "x", "--scores", "one").check_refused(2, "labels are sampled by their own label")
    shell("sample", "one", "x").check_refused(2, "expected a folder of candidates or labels", "one of scores")
    shell("sample", "rows", "x", "--plot", "p.txt").check_refused(
        2, "expected a file ending in .svg, .png, .pdf"
    )
    shell("sample", "rows", "x", "--plot", "no/p.svg").check_refused(
        2, "in a folder that is there, got no/p.svg"
    )
    shell("sample", "rows", "x", "--band", 1, 0).check_refused(2, "a band within 0 and 1")
    shell("sample", "rows", "x", "--guard", 7).check_refused(2, "a guard above 0 and up to 2")
    assert not Path("x").exists()


def test_people_are_told_what_came_of_it(shell: Shell, tiny: Tiny, asked: Path) -> None:
    said = shell("collect", "cand", "--index", asked, "--queries", "queries.tsv").out
    assert "no candidates" in said
    assert "1 queries: q3" in said
    assert "runoff teach cand SCORES --model NAME" in said
    said = shell("teach", "cand", "scores", "--model", tiny("static"), "--as", "similarity").out
    assert "mean" in said
    assert "were known" in said


@pytest.mark.parametrize("way", ["dense", "hybrid"])
def test_candidates_by_vectors_keep_what_each_stage_said(shell: Shell, asked: Path, way: str) -> None:
    words = (
        "collect",
        "cand",
        "--index",
        asked,
        "--queries",
        "queries.tsv",
        "--retrieve",
        way,
        "--depth",
        4,
    )
    assert shell(*words, "--json").json["pairs"] == 12
    found = rows("cand", "candidates")
    assert all(row["dense"] is not None for row in found if way == "dense")
    assert all((row["fusion"] is not None) == (way == "hybrid") for row in found)


def test_queries_can_be_drawn_and_runs_be_given(shell: Shell, asked: Path) -> None:
    drawn = shell("collect", "drawn", "--index", asked, "--draw", "sentences", "--count", 3, "--json").json
    assert (drawn["queries"], drawn["positives"]) == (3, 3)
    Path("made.trec").write_text(
        "q1 Q0 roof 1 2.5 x\nq2 Q0 window 1 1.5 x\nq3 Q0 roof 1 1 x\n", encoding="utf-8"
    )
    words = ("collect", "cand", "--index", asked, "--queries", "queries.tsv", "--run", "made.trec")
    assert shell(*words, "--json").json["pairs"] == 3
    assert [row["document_id"] for row in rows("cand", "candidates")] == ["roof", "window", "roof"]


def test_what_does_not_go_together_is_refused(shell: Shell, tiny: Tiny, asked: Path) -> None:
    index = ("--index", asked)
    shell("collect", "c", *index).check_refused(2, "expected either --queries FILE or --draw, got neither")
    both = shell("collect", "c", *index, "--queries", "queries.tsv", "--draw", "titles")
    both.check_refused(2, "expected either --queries FILE or --draw, got both")
    shell("collect", "c", *index, "--draw", "titles", "--qrels", "qrels.tsv").check_refused(
        2, "--qrels judges"
    )
    deep = shell("collect", "c", *index, "--queries", "queries.tsv", "--depth", 3000)
    deep.check_refused(2, "expected 1 to 2,048 candidates a query, got 3000")
    shell("teach", "nowhere", "s", "--model", tiny("bert")).check_refused(
        2, "expected a folder of candidates"
    )
    shell("teach", asked, "s", "--model", tiny("bert")).check_refused(2, "expected a folder of candidates")
    assert not Path("c").exists()
    assert not Path("s").exists()


def test_a_folder_of_another_teacher_is_not_written_into(shell: Shell, tiny: Tiny, asked: Path) -> None:
    assert shell("collect", "cand", "--index", asked, "--queries", "queries.tsv").code == 0
    assert shell("teach", "cand", "scores", "--model", tiny("bert")).code == 0
    before = Path("scores", "manifest.json").read_bytes()
    refused = shell("teach", "cand", "scores", "--model", tiny("ettin"))
    refused.check_refused(2, "scores was begun with", "Give the same again to go on, or another folder")
    assert Path("scores", "manifest.json").read_bytes() == before
    assert json.loads(before)["complete"]
