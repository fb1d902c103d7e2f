"""`runoff judge`: figures, files and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff import CrossEncoder, Embedder
from runoff.checkpoint.modular import weight_digests
from runoff.evaluate.judged import read_judged
from runoff.evaluate.matrix import judge
from runoff.evaluate.stages import bm25_lists, dense_lists
from standin_judged import judged_folder

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return judged_folder(tmp_path / "house")


def test_the_figures_are_those_of_python(shell: Shell, tiny: Tiny, judged: Path) -> None:
    words = (
        "judge",
        judged,
        "--model",
        tiny("bert"),
        "--model",
        tiny("ettin"),
        "--fuse",
        "1",
        "--fuse",
        "0.5",
    )
    lines = shell(*words, "--precision", "fp32", "--figures", "out.jsonl", "--json").json_lines
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == lines
    house = read_judged(judged)
    models = {name: CrossEncoder(tiny(name), precision="fp32") for name in ("bert", "ettin")}
    found = judge(house, bm25_lists(house.documents, house.queries), models, [1.0, 0.5])
    wanted = found.lines()
    timeless = [{key: value for key, value in line.items() if key != "seconds"} for line in wanted]
    assert [{key: line[key] for key in own} for line, own in zip(lines, timeless, strict=True)] == timeless
    assert [line["system"] for line in lines][-1] == "z(bm25)+0.5*z(ettin)"
    assert lines[1]["spearman"].keys() == {"ettin"}


def test_every_line_says_where_it_comes_from(shell: Shell, tiny: Tiny, judged: Path) -> None:
    first, model, fused = shell("judge", judged, "--model", tiny("ettin"), "--limit", 2, "--json").json_lines
    for line in (first, model, fused):
        assert line["command"] == "runoff judge house --reranker ettin --depth 100 --limit 2 --precision auto"
        assert {"machine", "python", "versions", "date"} <= line.keys()
        assert line["versions"].keys() >= {"runoff", "numpy", "bm25s", "pytrec_eval-terrier"}
        assert (line["queries"], line["queries_judged"]) == (2, 3)
        assert str(Path.cwd()) not in json.dumps(line)
    assert "weights_sha256" not in first
    assert model["weights_sha256"] == fused["weights_sha256"] == weight_digests(tiny("ettin"))
    assert len(model["weights_sha256"]) == 4
    assert model["precision"] == fused["precision"]


def test_for_a_person_there_is_a_table_for_each_set_and_one_of_means(
    shell: Shell, tiny: Tiny, judged: Path, tmp_path: Path
) -> None:
    judged_folder(tmp_path / "other")
    answer = shell("judge", judged, tmp_path / "other", "--model", tiny("bert"), "--figures", "out.jsonl")
    assert (answer.code, answer.err) == (0, "")
    for said in ("house  3 queries, 5 documents", "other  3 queries", "mean of 2 sets", "  + bm25"):
        assert said in answer.out
    assert "out.jsonl: 6 lines" in answer.out
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert f"{lines[1]['ndcg_at_10']:.4f}" in answer.out


def test_a_trec_run_is_the_first_stage(shell: Shell, tiny: Tiny, judged: Path) -> None:
    Path("dense.trec").write_text("q1 Q0 roof 1 2 t\nq1 Q0 boiler 2 1 t\nq2 Q0 window 1 1 t\n")
    lines = shell("judge", judged, "--model", tiny("bert"), "--retriever", "dense.trec", "--json").json_lines
    assert [line["system"] for line in lines] == ["dense", "bert", "z(dense)+1*z(bert)"]
    assert lines[0]["queries_without_candidates"] == 1
    assert lines[0]["mrr_at_10"] == 0.5


def test_local_models_of_one_name_are_told_apart(
    shell: Shell, tiny: Tiny, judged: Path, tmp_path: Path
) -> None:
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "model").symlink_to(tiny("bert"))
    lines = shell("judge", judged, "--model", "one/model", "--model", "two/model", "--json").json_lines
    assert [line["system"] for line in lines if line["weight"] is None] == ["bm25", "one/model", "two/model"]
    assert lines[1]["spearman"] == {"two/model": 1.0}


def test_what_cannot_be_judged_is_refused(shell: Shell, tiny: Tiny, judged: Path) -> None:
    model = ("--model", tiny("bert"))
    shell("judge", "nowhere", *model).check_refused(2, "expected a judged set at nowhere", "no corpus.jsonl")
    Path("a.trec").write_text("q1 Q0 roof 1 2 t\n")
    twice = ("--retriever", "bm25", "--retriever", "bm25")
    shell("judge", judged, judged, "--retriever", "a.trec", *model).check_refused(2, "a.trec", "one DATA")
    shell("judge", judged, "--figures", "no/where.jsonl", *model).check_refused(
        2, "--figures", "no/where.jsonl"
    )
    shell("judge", judged, "--out", "a.trec", *model).check_refused(2, "expected a folder as --out")
    shell("judge", judged, *twice, *model).check_refused(2, "a retriever was given twice")
    shell("judge", judged, *model, *model).check_refused(2, "a model was given twice")
    shell("judge", judged, "--fuse", "0", *model).check_refused(2, "expected a number above 0, got '0'")
    shell("judge", judged, "--model", tiny("bert-3-labels")).check_refused(2, "one label")


def test_a_matrix_scores_each_pair_once_and_a_second_question_nothing(
    shell: Shell, tiny: Tiny, judged: Path
) -> None:
    words = ["judge", judged, "--retriever", "bm25", "--retriever", tiny("static")]
    words += [
        "--retriever",
        f"bm25+{tiny('static')}",
        "--reranker",
        tiny("bert"),
        "--reranker",
        tiny("ettin"),
    ]
    first = shell(*words, "--depth", 3, "--out", "out", "--precision", "fp32")
    pairs = {
        line.split()[0] + " " + line.split()[2]
        for file in Path("out/house/runs").glob("*+bert.trec")
        for line in file.read_text().splitlines()
    }
    assert f"{2 * len(pairs)} pairs scored now" in first.out
    assert "bm25+static" in first.out
    assert "NDCG@10 of each reranker over each retriever" in first.out
    report = Path("out/report.md").read_text()
    for count, depth in (("0 pairs scored now", 3), ("0 pairs scored now", 2)):
        again = shell(*words, "--depth", depth, "--out", "out", "--precision", "fp32")
        assert count in again.out
    assert report != Path("out/report.md").read_text()
    deeper = shell(*words, "--depth", 3, "--curve", 5, "--out", "out", "--precision", "fp32")
    assert " 0 pairs scored" not in deeper.out
    shell(*words, "--out", "out", "--max-length", 16).check_refused(2, "made of something else: max_length")
    names = {path.name for path in Path("out/house/lists").iterdir()}
    assert names == {"bm25.trec", "bm25.trec.json", "static.trec", "static.trec.json"}


def test_a_dense_first_stage_is_exact_search_by_the_embedder(shell: Shell, tiny: Tiny, judged: Path) -> None:
    lines = shell("judge", judged, "--retriever", tiny("static"), "--model", "none", "--json").json_lines
    house = read_judged(judged)
    lists = dense_lists(house.documents, house.queries, Embedder(tiny("static")))
    wanted = judge(house, lists, {}, first="static").lines()
    assert [line["ndcg_at_10"] for line in lines] == [line["ndcg_at_10"] for line in wanted]
    assert [line["system"] for line in lines] == ["static"]


def test_judgements_alone_take_runs(shell: Shell, judged: Path, tiny: Tiny) -> None:
    Path("dense.run").write_text("q1 Q0 roof 1 2 t\nq1 Q0 boiler 2 1 t\nq2 Q0 window 1 1 t\n")
    qrels = judged / "qrels" / "test.tsv"
    answer = shell("judge", qrels, "--retriever", "dense.run")
    assert "2 queries have no candidates" not in answer.out
    assert "1 queries have no candidates and count 0" in answer.out
    assert "test: 1 queries without a positive judgement (the first: q4)" in answer.out
    shell("judge", qrels).check_refused(2, "test has judgements and no texts, so bm25 finds nothing")
    shell("judge", qrels, "--retriever", "dense.run", "--model", tiny("bert")).check_refused(
        2, "no texts, so nothing can be reranked"
    )


def test_single_queries_are_shown_with_their_texts(shell: Shell, tiny: Tiny, judged: Path) -> None:
    Path("bad.trec").write_text("q2 Q0 garden 1 2 t\nq2 Q0 window 2 1 t\n")
    answer = shell("judge", judged, "--retriever", "bad.trec", "--model", tiny("bert"), "--examples", 2)
    assert answer.code == 0
    lines = shell("judge", judged, "--retriever", "bad.trec", "--model", tiny("bert"), "--json").json_lines
    changed = lines[1]["minus_first"] != 0
    assert ("what did the storm break" in answer.out) == changed
