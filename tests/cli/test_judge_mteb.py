"""`runoff judge mteb`: figures, files, what is told of models that cannot be reached, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runoff import CrossEncoder
from runoff.cli.judge_mteb import revision_of
from runoff.evaluate.judged import read_judged
from runoff.evaluate.matrix import figures_of
from runoff.evaluate.stages import bm25_lists
from standin_judged import judged_folder

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

pytest.importorskip("mteb")


@pytest.fixture
def words(tmp_path: Path, tiny: Tiny) -> tuple[object, ...]:
    """A judged set, two first stages and a reranker, all of them local."""
    folder = judged_folder(tmp_path / "house")
    first = ("--embedder", "bm25", tiny("static"), "--reranker", tiny("bert"))
    return ("judge", "mteb", "--judged", folder, *first, "--precision", "fp32", "--depth", 3, "--out", "out")


def test_the_figures_are_those_of_judge(shell: Shell, tiny: Tiny, words: Any, tmp_path: Path) -> None:
    lines = shell(*words, "--json").json_lines
    assert [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()] == lines
    house = read_judged(tmp_path / "house")
    model = CrossEncoder(tiny("bert"), precision="fp32")
    wanted = figures_of(house, bm25_lists(house.documents, house.queries, 3))(model.predict)
    systems = {(line["embedder"], line["reranker"]): line for line in lines}
    assert set(systems) == {
        ("runoff/bm25", None),
        ("runoff/bm25", "local/bert"),
        ("local/static", None),
        ("local/static", "local/bert"),
    }
    line = systems["runoff/bm25", "local/bert"]
    assert line["ndcg_at_10"] == pytest.approx(wanted["ndcg@10"], abs=1e-6)
    alone = systems["runoff/bm25", None]["ndcg_at_10"]
    assert line["minus_first"] == pytest.approx(line["ndcg_at_10"] - alone, abs=2e-6)
    assert line["minus_first_95"][0] <= line["minus_first"] <= line["minus_first_95"][1]
    assert (line["pairs"], line["depth"], line["queries"]) == (9, 3, 3)


def test_every_line_says_where_it_comes_from(shell: Shell, tiny: Tiny, words: Any) -> None:
    *_, line = shell(*words, "--json").json_lines
    assert line["command"] == (
        "runoff judge mteb --judged house --embedder bm25 static --reranker bert --depth 3 --batch-size 32 "
        "--precision fp32 --out out"
    )
    assert line["versions"].keys() >= {"runoff", "mteb", "sentence-transformers"}
    assert line["embedder_facts"] == {"engine": "reference", "precision": "fp32", "prompts": {}}
    assert line["reranker_facts"]["precision"] == "fp32"
    assert line["embedder_revision"] == revision_of(tiny("static"))
    assert line["reranker_revision"] == revision_of(tiny("bert"))
    assert str(Path.cwd()) not in json.dumps(line)


def test_for_a_person_there_are_tables_and_a_second_run_scores_nothing(shell: Shell, words: Any) -> None:
    first, again = shell(*words), shell(*words)
    for answer, scored in ((first, "18 pairs scored now"), (again, " 0 pairs scored now")):
        assert (answer.code, answer.err) == (0, "")
        for said in (
            "bm25  by bm25s",
            "static  by Runoff's numpy engine",
            "means  of 1 task and 2 embedders",
            scored,
        ):
            assert said in answer.out
    tables = Path("out/results.md").read_text()
    assert "| task | alone | bert |" in tables
    assert "## means" in tables


def test_batches_are_as_large_as_asked(shell: Shell, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[int, int | None]] = set()
    predict = CrossEncoder.predict

    def watched(self: CrossEncoder, *inputs: Any, **options: Any) -> Any:
        asked.add((options["batch_size"], self._token_budget))
        return predict(self, *inputs, **options)

    monkeypatch.setattr(CrossEncoder, "predict", watched)
    assert shell(*words, "--batch-size", 7, "--batch-tokens", 512).code == 0
    assert asked == {(7, 512)}


def test_what_cannot_be_reached_is_named_at_the_end_and_the_rest_is_done(
    shell: Shell, tiny: Tiny, words: Any
) -> None:
    answer = shell(*words, "--embedder", "org/far-away", tiny("static"))
    assert answer.code == 1
    assert "static  by Runoff's numpy engine" in answer.out
    (line,) = answer.err.splitlines()
    assert line.startswith("runoff: error: not judged: embedder org/far-away: ")
    assert line.endswith("The rest is in out")
    assert "- embedder org/far-away: " in Path("out/results.md").read_text()


def test_the_article_s_models_and_tasks_are_listed_without_a_hub(shell: Shell) -> None:
    facts = shell("judge", "mteb", "--out", "out", "--list", "--json").json
    assert len(facts["embedders"]) == 6
    assert len(facts["tasks"]) == 10
    assert facts["pairs"] == 6 * 882_000
    assert not Path("out").exists()
    answer = shell("judge", "mteb", "--out", "out", "--list", "--task", "SCIDOCS", "--embedder", "bm25")
    assert "100,000 pairs to score at most" in answer.out


def test_other_weights_prompts_or_tokenizers_are_another_revision(tiny_copy: Callable[[str], Path]) -> None:
    folder = tiny_copy("bert")
    before = revision_of(folder)
    shutil.copytree(folder, folder.with_name("same"))
    assert revision_of(folder.with_name("same")) == before
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    assert revision_of(folder) != before


def test_what_cannot_be_judged_is_refused(shell: Shell, tiny: Tiny, words: Any) -> None:
    shell(*words, "--task", "SCIDOCS").check_refused(2, "--judged takes the place of a benchmark")
    shell(*words, "--judged", "nowhere").check_refused(2, "expected a judged set at nowhere")
    shell(*words, "--embedder", "bm25", "bm25").check_refused(2, "a name was given twice")
    shell("judge", "mteb", "--out", "out", "--task", "moon").check_refused(2, "no retrieval task moon")
    shell("judge", "mteb").check_refused(2, "--out", "See runoff judge mteb --help")
    assert shell(*words).code == 0
    shell(*words, "--depth", 2).check_refused(2, "figures with depth 3, not 2")


def test_a_folder_of_that_name_is_a_judged_set(shell: Shell) -> None:
    shell("judge", "./mteb").check_refused(2, "mteb", "corpus.jsonl")
