"""`runoff search`: both orders side by side, every score, every way to ask."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]

QUERY = "boiler storm"
FOUND = {"boiler", "roof", "water", "window"}  # the notes with either word


@pytest.fixture
def reranked(reference: Callable[..., list[float]], tiny: Tiny, notes_index: Path, stored: Any) -> Any:
    """(id, score) of the four notes for QUERY, best first, by sentence-transformers."""
    texts = {id: text for id, text in stored(notes_index).items() if id in FOUND}
    scores = reference(tiny("bert"), [(QUERY, text) for text in texts.values()])
    pairs = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
    assert min(a[1] - b[1] for a, b in pairwise(pairs)) > 1e-3
    return pairs


def test_json_has_hits_in_the_references_order_and_what_each_stage_said(
    shell: Shell, notes_index: Path, tiny: Tiny, reranked: list[tuple[str, float]]
) -> None:
    answer = shell("search", QUERY, "--index", notes_index, "--json").json
    assert answer["index"] == str(notes_index)
    assert (answer["model"], answer["retrieve"], answer["query"]) == (str(tiny("bert")), "bm25", QUERY)
    hits = answer["hits"]
    assert [hit["id"] for hit in hits] == [id for id, _ in reranked]
    assert [hit["score"] for hit in hits] == pytest.approx([score for _, score in reranked], abs=1e-4)
    before = [each["id"] for each in answer["before"]]
    assert set(before) == FOUND
    assert before != [id for id, _ in reranked]
    for rank, hit in enumerate(hits, start=1):
        assert hit["rank"] == hit["ranks"]["rerank"] == rank
        assert hit["score"] == hit["scores"]["rerank"]
        assert hit["ranks"]["bm25"] == before.index(hit["id"]) + 1
    boiler = next(hit for hit in hits if hit["id"] == "boiler")
    assert boiler["title"] == "Boiler"
    assert boiler["text"] == "Boiler The boiler is serviced every October."
    assert (Path(boiler["source"]).name, boiler["place"]) == ("notes.jsonl", "line 1")
    assert boiler["metadata"] == {"year": 2025}
    assert list(answer["timings_ms"]) == ["load", "retrieve", "rerank", "total"]


def test_a_person_sees_both_orders_side_by_side_with_what_moved_where(
    shell: Shell, notes_index: Path
) -> None:
    record = shell("search", QUERY, "--index", notes_index, "--json").json
    answer = shell("search", QUERY, "--index", notes_index)
    assert (answer.code, answer.err) == (0, "")
    assert re.search(r"# +before: BM25 +score +after: bert +score +rank", answer.out)
    begins = {"boiler": "Boiler", "roof": "The roof", "water": "A boiler heats", "window": "The storm"}
    was = {each["id"]: each["rank"] for each in record["before"]}
    for before, hit in zip(record["before"], record["hits"], strict=True):
        arrow = "=" if was[hit["id"]] == hit["rank"] else "▲" if hit["rank"] < was[hit["id"]] else "▼"
        moved = f"= {hit['rank']}" if arrow == "=" else f"{arrow} {was[hit['id']]} → {hit['rank']}"
        row = rf"^ *{hit['rank']} +{begins[before['id']]}.* {before['score']:.3f} +"
        row += rf"{begins[hit['id']]}.* {hit['score']:.3f} +{moved} *$"
        assert re.search(row, answer.out, re.MULTILINE), row
    # The best three texts, each under its id and place.
    shown = re.findall(r"^ +(\d)  .*notes\.jsonl, (line \d)$", answer.out, re.MULTILINE)
    assert shown == [(str(hit["rank"]), hit["place"]) for hit in record["hits"][:3]]
    assert re.search(r"^load .* · retrieve .* · rerank .* · total .*$", answer.out, re.MULTILINE)


def test_as_many_passages_are_shown_as_asked(shell: Shell, notes_index: Path) -> None:
    out = shell("search", QUERY, "--index", notes_index, "--passages", 1).out
    assert len(re.findall(r"notes\.jsonl, line \d$", out, re.MULTILINE)) == 1


def test_without_reranking_the_first_stage_stands(shell: Shell, notes_index: Path) -> None:
    options = ("search", QUERY, "--index", notes_index, "--no-rerank")
    record = shell(*options, "--json").json
    assert record["model"] is None
    assert [hit["id"] for hit in record["hits"]] == [each["id"] for each in record["before"]]
    scores = [hit["scores"]["bm25"] for hit in record["hits"]]
    assert scores == sorted(scores, reverse=True)
    out = shell(*options).out
    assert re.search(r"# +score +BM25", out)
    assert "before" not in out


def test_a_filter_narrows_and_top_k_cuts(shell: Shell, notes_index: Path) -> None:
    options = ("search", QUERY, "--index", notes_index, "--json")
    old = shell(*options, "--where", "year < 2024").json
    assert {hit["id"] for hit in old["hits"]} == {"water", "window"}
    assert {each["id"] for each in old["before"]} == {"water", "window"}
    every = shell(*options).json["hits"]
    assert [hit["id"] for hit in shell(*options, "--top-k", 2).json["hits"]] == [
        hit["id"] for hit in every[:2]
    ]


def test_top_k_beyond_the_collection_gives_all_that_match(shell: Shell, notes_index: Path) -> None:
    answer = shell("search", QUERY, "--index", notes_index, "--top-k", 1000, "--json")
    assert {hit["id"] for hit in answer.json["hits"]} == FOUND
    dense = shell("search", QUERY, "--index", notes_index, "--top-k", 1000, "--retrieve", "dense", "--json")
    assert len(dense.json["hits"]) == 5


def test_dense_candidates_are_ordered_by_the_cosine_of_the_embedders_vectors(
    shell: Shell, notes_index: Path, tiny: Tiny, stored: Any
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny("static")), device="cpu")
    texts = stored(notes_index)
    vectors = model.encode([QUERY, *texts.values()], normalize_embeddings=True)
    cosines = dict(zip(texts, (vectors[1:] @ vectors[0]).tolist(), strict=True))
    options = ("search", QUERY, "--index", notes_index, "--retrieve", "dense", "--json")
    before = shell(*options).json["before"]
    assert [each["id"] for each in before] == sorted(cosines, key=lambda id: -cosines[id])
    assert [each["score"] for each in before] == pytest.approx(
        sorted(cosines.values(), reverse=True), abs=1e-5
    )


@pytest.mark.parametrize("fusion", ["rrf", "zscore"])
def test_hybrid_candidates_have_both_scores_and_the_fused_one(
    shell: Shell, notes_index: Path, fusion: str
) -> None:
    options = ("search", QUERY, "--index", notes_index, "--retrieve", "hybrid", "--fusion", fusion)
    record = shell(*options, "--no-rerank", "--json").json
    assert {hit["id"] for hit in record["hits"]} == {*FOUND, "garden"}
    for hit in record["hits"]:
        stages = {"dense", "fusion"} | ({"bm25"} if hit["id"] in FOUND else set())
        assert set(hit["scores"]) == stages
        if fusion == "rrf":  # 1 / (60 + rank) of each list that has it
            ranks = [hit["ranks"][stage] for stage in stages - {"fusion"}]
            assert hit["score"] == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
    assert re.search(r"before: BM25 \+ vectors", shell(*options).out)


def test_a_rerank_weight_below_1_mixes_both_stages(shell: Shell, notes_index: Path) -> None:
    options = ("search", QUERY, "--index", notes_index, "--rerank-weight")
    first_alone = shell(*options, "0", "--json").json
    assert [hit["id"] for hit in first_alone["hits"]] == [each["id"] for each in first_alone["before"]]
    mixed = shell(*options, "0.5", "--json").json
    assert all(set(hit["scores"]) == {"bm25", "rerank", "final"} for hit in mixed["hits"])
    assert "after: bert + first stage" in shell(*options, "0.5").out


def test_only_the_depth_is_reranked(shell: Shell, notes_index: Path) -> None:
    record = shell("search", QUERY, "--index", notes_index, "--depth", 2, "--json").json
    before = [each["id"] for each in record["before"]]
    assert {hit["id"] for hit in record["hits"][:2]} == set(before[:2])
    assert [hit["id"] for hit in record["hits"][2:]] == before[2:]
    assert ["rerank" in hit["scores"] for hit in record["hits"]] == [True, True, False, False]


def test_texts_and_stored_tokens_score_alike(shell: Shell, notes_index: Path) -> None:
    by = {
        tokens: shell("search", QUERY, "--index", notes_index, "--tokens", tokens, "--json").json["hits"]
        for tokens in ("stored", "text")
    }
    assert by["stored"] == by["text"]


def test_another_reranker_reads_the_texts_when_asked_to(shell: Shell, notes_index: Path, tiny: Tiny) -> None:
    options = ("--model", tiny("ettin"), "--tokens", "text", "--json")
    record = shell("search", QUERY, "--index", notes_index, *options).json
    assert (record["model"], len(record["hits"])) == (str(tiny("ettin")), 4)


def test_nothing_found_is_said_and_no_error(shell: Shell, notes_index: Path) -> None:
    answer = shell("search", "unheardof", "--index", notes_index)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("nothing found: no document shares a word with the query")
    assert shell("search", "unheardof", "--index", notes_index, "--json").json["hits"] == []


def test_an_index_is_found_from_any_folder_with_the_model_it_remembers(
    shell: Shell, notes_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(shell("search", QUERY, "--index", "../notes.index", "--json").json["hits"]) == 4


# --- a file of queries -----------------------------------------------------------------------------------


def test_a_file_of_queries_is_answered_in_its_order(shell: Shell, notes_index: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.tsv").write_text("q2\tstorm\nq1\tboiler\nq3\tunheardof\n")
    options = ("search", "--queries", "queries.tsv", "--index", notes_index)
    records = shell(*options, "--json").json_lines
    assert [(each["id"], each["query"]) for each in records] == [
        ("q2", "storm"),
        ("q1", "boiler"),
        ("q3", "unheardof"),
    ]
    found = [{hit["id"] for hit in each["hits"]} for each in records]
    assert found == [{"roof", "window"}, {"boiler", "water"}, set()]
    single = shell("search", "storm", "--index", notes_index, "--json").json
    assert records[0]["hits"] == single["hits"]
    out = shell(*options).out
    assert re.findall(r"^(q\d)  (\w+)$", out, re.MULTILINE) == [
        ("q2", "storm"),
        ("q1", "boiler"),
        ("q3", "unheardof"),
    ]


# --- the prompt --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["storm\n  boiler \n\nroof\n", "storm\nboiler\n", "storm\nboiler"])
def test_the_prompt_answers_until_an_empty_line_or_the_end(
    shell: Shell, notes_index: Path, typed: str
) -> None:
    answer = shell("search", "--index", notes_index, typed=typed)
    assert answer.code == 0
    assert answer.err == "runoff: type a query; an empty line ends\n"
    assert answer.out.count("query> ") == 3
    assert answer.out.count("before: BM25") == 2


def test_the_prompt_answers_json_lines_and_nothing_else_on_stdout(shell: Shell, notes_index: Path) -> None:
    answer = shell("search", "--index", notes_index, "--json", typed="storm\nboiler\n")
    assert [each["query"] for each in answer.json_lines] == ["storm", "boiler"]
    assert [{hit["id"] for hit in each["hits"]} for each in answer.json_lines] == [
        {"roof", "window"},
        {"boiler", "water"},
    ]
    # Loading counts for the first answer alone.
    loads = [each["timings_ms"]["load"] for each in answer.json_lines]
    assert loads[0] > 0
    assert loads[1] == 0


def test_ctrl_c_at_the_prompt_ends_it_with_130(
    shell: Shell, notes_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", pressed)
    answer = shell("search", "--index", notes_index, typed="")
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "runoff: type a query; an empty line ends\nrunoff: interrupted\n"


def test_without_a_query_and_without_a_terminal_nobody_is_asked(shell: Shell, notes_index: Path) -> None:
    answer = shell("search", "--index", notes_index, piped=b"storm\n")
    answer.check_refused(2, "no query", "--queries FILE", "on a terminal, it would be asked for")


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("q", "--queries", "q.tsv"), ("a query or --queries FILE, got both", "Leave one out")),
        (("q", "--run", "out.trec"), ("--run writes the results of many queries", "--queries FILE")),
        (("q", "--top-k", "0"), ("--top-k", "1 or more, got '0'")),
        (("q", "--depth", "0"), ("--depth", "1 or more, got '0'")),
        (("q", "--rerank-weight", "2"), ("from 0 to 1, got '2'",)),
        (("q", "--retrieve", "splade"), ("invalid choice: 'splade'", "bm25", "dense", "hybrid")),
        (("",), ("expected a query, got an empty text",)),
        (("--queries", "nowhere.tsv"), ("expected a file of queries", "at nowhere.tsv; found none")),
        (("--queries", "empty.txt"), ("no queries found in empty.txt", "at least one line")),
        (("--queries", "latin.txt"), ("latin.txt:1: expected UTF-8, got byte 0xe9", "iconv")),
        (("--queries", "twice.tsv"), ("query id '1' stands there twice", "its own id")),
    ],
)
def test_what_cannot_be_asked_is_told_before_a_model_is_loaded(
    shell: Shell, notes_index: Path, tmp_path: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (tmp_path / "q.tsv").write_text("1\ta\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / "twice.tsv").write_text("1\ta\n1\tb\n")
    shell("search", *words, "--index", notes_index, "--model", "./none").check_refused(2, *said)


@pytest.mark.parametrize("where", ["yearr > 2000", "year >", ""])
def test_a_filter_that_cannot_be_used_names_the_columns(shell: Shell, notes_index: Path, where: str) -> None:
    answer = shell("search", QUERY, "--index", notes_index, "--where", where)
    answer.check_refused(2, "expected a filter in SQL", "year (int64)", f"got {where!r}")


def test_an_index_that_is_not_there_says_how_to_make_one(shell: Shell) -> None:
    answer = shell("search", QUERY, "--index", "no.index")
    answer.check_refused(
        2, "expected a Runoff index at no.index", "found nothing", "runoff index no.index --from"
    )


def test_vectors_that_are_not_there_are_told_before_an_embedder_is_loaded(
    shell: Shell, notes: Path, tiny: Tiny
) -> None:
    assert shell("index", "words.index", "--from", notes, "--model", tiny("bert")).code == 0
    answer = shell("search", QUERY, "--index", "words.index", "--retrieve", "hybrid")
    answer.check_refused(2, "--retrieve hybrid needs vectors", "words.index has none", "--embedder NAME")


def test_another_embedder_than_the_indexs_own_is_refused(shell: Shell, notes_index: Path, tiny: Tiny) -> None:
    other = tiny("bert-embedder")
    answer = shell("search", QUERY, "--index", notes_index, "--retrieve", "dense", "--embedder", other)
    answer.check_refused(
        2, f"stores vectors of '{tiny('static')}' [16]", f"'{other}' [32]", "Use the embedder"
    )


def test_metadata_of_any_kind_is_json(shell: Shell, tiny: Tiny, tmp_path: Path) -> None:
    record = {"id": "a", "text": "boiler", "tags": ["x", "y"], "price": 2.5, "draft": True, "none": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert shell("index", "a.index", "--from", "a.jsonl", "--model", tiny("bert")).code == 0
    (hit,) = shell("search", "boiler", "--index", "a.index", "--json").json["hits"]
    assert hit["metadata"] == {"tags": '["x", "y"]', "price": 2.5, "draft": True}
