"""`runoff index`: what is put in is there, is replaced, goes again; what cannot be used is told and costs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.contracts import Document
from runoff.search.index import Index
from standin_search import numbered_documents

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]
Stored = Callable[[Path], dict[str, str]]


def write_jsonl(file: Path, *records: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_new_index_holds_the_documents_their_tokens_and_vectors(
    shell: Shell, notes: Path, tiny: Tiny, tmp_path: Path
) -> None:
    options = ("--model", tiny("bert"), "--embedder", tiny("static"), "--json")
    answer = shell("index", "notes.index", "--from", notes, *options).json
    assert [answer[name] for name in ("added", "updated", "unchanged", "bad")] == [5, 0, 0, 0]
    assert answer["bad_rows"] == []
    told = answer["index"]
    assert (told["path"], told["documents"], told["unindexed"]) == ("notes.index", 5, 0)
    assert (told["state"], told["language"]) == ("complete", "english")
    assert (told["tokenizer"], told["embedder"]) == (str(tiny("bert")), str(tiny("static")))
    assert told["columns"]["year"] == "int64"
    document = Index.open(tmp_path / "notes.index").get(["boiler"])["boiler"]
    assert document == Document(
        "boiler",
        "Boiler The boiler is serviced every October.",
        "Boiler",
        str(notes),
        "line 1",
        {"year": 2025},
    )
    check_tokens(tmp_path / "notes.index", tiny("bert"))


def check_tokens(path: Path, model: Path) -> None:
    """The stored token ids are those that the model makes of the texts."""
    index, reranker = Index.open(path), CrossEncoder(model)
    hits = index.candidates([each.id for each in index.documents()]).values()
    assert len(hits) > 0
    for hit in hits:
        np.testing.assert_array_equal(hit.tokens, reranker.tokenize([hit.text or ""])[0])


def test_a_person_is_told_what_was_added_and_how_to_search_it(shell: Shell, notes: Path, tiny: Tiny) -> None:
    answer = shell("index", "notes.index", "--from", notes, "--model", tiny("bert"))
    assert (answer.code, answer.err) == (0, "")
    first, state, next_step = answer.out.splitlines()
    assert re.fullmatch(r"5 documents added, 0 updated, 0 unchanged, 0 bad rows, in \d+\.\d s", first)
    assert re.fullmatch(
        rf"notes\.index holds 5 documents in \d+\.\d MB, token ids of {re.escape(str(tiny('bert')))}", state
    )
    assert next_step == 'search it: runoff search "..." --index notes.index'


def test_the_same_command_again_changes_nothing_and_needs_no_models_named(
    shell: Shell, notes: Path, notes_index: Path, stored: Stored
) -> None:
    before = stored(notes_index)
    answer = shell("index", notes_index, "--from", notes, "--json").json
    assert [answer[name] for name in ("added", "updated", "unchanged", "bad")] == [0, 0, 5, 0]
    assert stored(notes_index) == before


def test_several_sources_of_several_kinds_make_one_index(
    shell: Shell, tiny: Tiny, tmp_path: Path, stored: Stored
) -> None:
    (tmp_path / "shop.csv").write_text("sku,about,name,price\n1,red wine,Merlot,7.5\n2,white wine,Soave,20\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "plain.txt").write_text("Plain words.")
    (tmp_path / "folder" / "page.md").write_text("# Head\n\nMarked words.\n")
    (tmp_path / "beir").mkdir()
    write_jsonl(tmp_path / "beir" / "corpus.jsonl", {"_id": "b1", "title": "T", "text": "beir"})
    write_jsonl(tmp_path / "beir" / "queries.jsonl", {"_id": "q1", "text": "no document"})
    columns = ("--columns", "id=sku,text=about,title=name", "--types", "price=float")
    model = ("--model", tiny("bert"))
    assert shell("index", "shop.index", "--from", "shop.csv", *columns, *model).code == 0
    assert stored(tmp_path / "shop.index") == {"1": "Merlot red wine", "2": "Soave white wine"}
    assert Index.open(tmp_path / "shop.index").count("price > 10") == 1
    assert shell("index", "all.index", "--from", "folder", "beir", *model).code == 0
    texts = stored(tmp_path / "all.index")
    assert texts["b1"] == "T beir"
    assert "q1" not in texts
    assert {id.partition("#")[0] for id in texts} == {"folder/plain.txt", "folder/page.md", "b1"}
    assert any("Marked words." in text for text in texts.values())


def test_records_are_cut_into_passages_only_when_asked(
    shell: Shell, tiny: Tiny, tmp_path: Path, stored: Stored
) -> None:
    text = "One two three. Four five six."
    write_jsonl(tmp_path / "long.jsonl", {"id": "long", "text": text})
    shell("index", "whole.index", "--from", "long.jsonl", "--model", tiny("bert"))
    assert stored(tmp_path / "whole.index") == {"long": text}
    shell("index", "cut.index", "--from", "long.jsonl", "--model", tiny("bert"), "--passages", 4)
    assert stored(tmp_path / "cut.index") == {"long#1": "One two three.", "long#2": "Four five six."}


def test_upsert_replaces_what_differs_and_without_it_that_is_reported(
    shell: Shell, notes_index: Path, tmp_path: Path, stored: Stored
) -> None:
    before = stored(notes_index)
    changed = {"id": "roof", "text": "The roof leaks again.", "year": 2026}
    write_jsonl(tmp_path / "new.jsonl", changed, {"id": "fresh", "text": "A fresh note.", "year": 2026})
    kept = shell("index", notes_index, "--from", "new.jsonl", "--json").json
    assert [kept[name] for name in ("added", "updated", "unchanged", "bad")] == [1, 0, 0, 1]
    assert (kept["bad_rows"][0]["source"], kept["bad_rows"][0]["line"]) == ("new.jsonl", 1)
    assert "'roof' is in the index with other content" in kept["bad_rows"][0]["reason"]
    assert stored(notes_index) == before | {"fresh": "A fresh note."}
    replaced = shell("index", notes_index, "--from", "new.jsonl", "--upsert", "--json").json
    assert [replaced[name] for name in ("added", "updated", "unchanged", "bad")] == [0, 1, 1, 0]
    assert stored(notes_index) == before | {"fresh": "A fresh note.", "roof": "The roof leaks again."}
    found = shell("search", "leaks", "--index", notes_index, "--no-rerank", "--json").json
    assert "roof" in [hit["id"] for hit in found["hits"]]


def test_delete_takes_ids_and_says_how_many_were_there(
    shell: Shell, notes_index: Path, stored: Stored
) -> None:
    answer = shell("index", notes_index, "--delete", "roof", "unheardof", "garden", "roof")
    assert answer.out.splitlines()[0] == "2 documents deleted of 3 ids"
    assert "holds 3 documents" in answer.out
    assert set(stored(notes_index)) == {"boiler", "water", "window"}
    again = shell("index", notes_index, "--delete", "roof", "--json").json
    assert (again["deleted"], again["index"]["documents"]) == (0, 3)
    found = shell("search", "roof", "--index", notes_index, "--json").json
    assert found["hits"] == []


def test_delete_where_takes_a_filter(shell: Shell, notes_index: Path, stored: Stored) -> None:
    where = "year < 2024 AND title IS NULL"
    assert shell("index", notes_index, "--delete-where", where, "--json").json["deleted"] == 3
    assert set(stored(notes_index)) == {"boiler", "roof"}


@pytest.mark.parametrize(
    ("where", "said"),
    [("yearr < 1", ("a filter in SQL", "year (int64)")), ("", ("a filter", 'where="true"'))],
)
def test_a_filter_that_might_mean_anything_deletes_nothing(
    shell: Shell, notes_index: Path, stored: Stored, where: str, said: tuple[str, ...]
) -> None:
    shell("index", notes_index, "--delete-where", where).check_refused(2, *said)
    assert len(stored(notes_index)) == 5


def test_retokenize_stores_another_models_tokens_and_the_index_remembers_whose(
    shell: Shell, notes_index: Path, tiny: Tiny
) -> None:
    answer = shell("index", notes_index, "--retokenize", "--model", tiny("ettin"), "--json").json
    assert (answer["retokenized"], answer["index"]["tokenizer"]) == (5, str(tiny("ettin")))
    check_tokens(notes_index, tiny("ettin"))
    assert shell("search", "boiler", "--index", notes_index, "--json").json["model"] == str(tiny("ettin"))


def test_token_ids_can_be_left_out_taken_away_and_put_back(
    shell: Shell, notes: Path, tiny: Tiny, tmp_path: Path
) -> None:
    told = shell("index", "a.index", "--from", notes, "--no-tokens", "--json").json["index"]
    assert told["tokenizer"] is None
    assert "tokens" not in told["columns"]
    answer = shell("index", "a.index", "--from", notes, "--model", tiny("bert"))
    answer.check_refused(2, "stores no token ids", "Leave --model out", "--retokenize --model")
    assert shell("index", "a.index", "--retokenize", "--model", tiny("bert")).code == 0
    check_tokens(tmp_path / "a.index", tiny("bert"))
    answer = shell("index", "a.index", "--from", notes, "--no-tokens")
    answer.check_refused(2, f"stores token ids of {tiny('bert')}", "a.index --retokenize --no-tokens")
    assert "no token ids" in shell("index", "a.index", "--retokenize", "--no-tokens").out


def test_a_language_is_chosen_once(shell: Shell, notes: Path, tmp_path: Path) -> None:
    for path, language in (("plain.index", "none"), ("deutsch.index", "German")):
        shell("index", path, "--from", notes, "--no-tokens", "--language", language)
    assert Index.open(tmp_path / "plain.index").settings.language is None
    assert Index.open(tmp_path / "deutsch.index").settings.language == "german"
    assert shell("index", "plain.index", "--from", notes, "--json").json["unchanged"] == 5
    answer = shell("index", "plain.index", "--from", notes, "--language", "french")
    answer.check_refused(2, "made with language=None, asked was 'french'")


def test_optimize_brings_an_interrupted_index_up_to_date(
    shell: Shell, notes_index: Path, tmp_path: Path
) -> None:
    table = Index.open(notes_index)._table
    table.append(table.rows(table.schema.names, "id = 'roof'"))
    assert Index.open(notes_index).info().unindexed == 1
    assert shell("index", notes_index, "--optimize", "--json").json["optimized"] is True
    assert Index.open(notes_index).info().unindexed == 0


def test_an_interrupted_ingest_keeps_whole_batches_says_so_and_the_same_command_completes_it(
    shell: Shell, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = list(numbered_documents(4200))  # a batch has 4,096

    def interrupted(options: Any) -> Iterator[Document]:
        yield from whole[:4150]
        raise KeyboardInterrupt

    command = ("index", "numbers.index", "--from", ".", "--model", tiny("bert"))
    monkeypatch.setattr("runoff.cli.index._records", interrupted)
    answer = shell(*command)
    assert (answer.code, answer.out, answer.err) == (130, "", "runoff: interrupted\n")
    told = shell("info", "--index", "numbers.index", "--model", tiny("bert"), "--json").json["index"]
    assert (told["documents"], told["state"]) == (4096, "incomplete")
    search = ("search", "number7", "--index", "numbers.index", "--json")
    found = shell(*search)
    assert [hit["id"] for hit in found.json["hits"]] == ["d7"]
    assert "the index at numbers.index is incomplete" in found.err
    assert "run it again" in found.err
    monkeypatch.setattr("runoff.cli.index._records", lambda options: iter(whole))
    report = shell(*command, "--json").json
    assert (report["added"], report["unchanged"]) == (104, 4096)
    assert report["index"]["state"] == "complete"
    assert shell(*search).err == ""
    assert sum(1 for _ in Index.open(tmp_path / "numbers.index").documents()) == 4200


# --- bad rows ----------------------------------------------------------------------------------------------

MIXED = (
    b'{"id": "a", "text": "good"}\n'
    b'{"id": "b", "text": "caf\xe9"}\n'
    b'{"id": "a", "text": "again"}\n'
    b'{"words": "neither id nor text"}\n'
    b'{"id": "c", "text": "cut sh\n'
    b'{"id": "d", "text": "good too"}\n'
)
REASONS = ["expected UTF-8, got byte 0xe9", "duplicate id 'a'", "no id column", "not JSON"]


def test_bad_rows_are_shown_with_their_lines_and_written_down_and_the_rest_is_stored(
    shell: Shell, tiny: Tiny, tmp_path: Path, stored: Stored
) -> None:
    (tmp_path / "mixed.jsonl").write_bytes(MIXED)
    options = ("--from", "mixed.jsonl", "--model", tiny("bert"), "--bad-rows", "bad.jsonl")
    answer = shell("index", "mixed.index", *options)
    assert answer.code == 0
    assert "2 documents added, 0 updated, 0 unchanged, 4 bad rows" in answer.out
    shown = re.findall(r"^  left out  mixed\.jsonl:(\d): (.*)$", answer.out, re.MULTILINE)
    written = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line for line, _ in shown] == ["2", "3", "4", "5"]
    assert [each["line"] for each in written] == [2, 3, 4, 5]
    for reason, (_, told), each in zip(REASONS, shown, written, strict=True):
        assert told.startswith(reason)
        assert each["reason"] == told
    assert stored(tmp_path / "mixed.index") == {"a": "good", "d": "good too"}


def test_only_the_first_ten_bad_rows_are_shown(shell: Shell, tiny: Tiny, tmp_path: Path) -> None:
    records = [{"id": "a", "text": "good"}, *({"id": f"b{row}"} for row in range(13))]
    write_jsonl(tmp_path / "many.jsonl", *records)
    command = ("index", "many.index", "--from", "many.jsonl", "--model", tiny("bert"))
    out = shell(*command).out
    assert out.count("left out") == 10
    assert "... and 3 more; --bad-rows FILE writes them all" in out
    assert "... and 3 more; all are in bad.jsonl" in shell(*command, "--bad-rows", "bad.jsonl").out
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 13


def test_asked_to_stop_at_a_bad_row_it_stops_and_a_new_index_is_not_left_behind(
    shell: Shell, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "mixed.jsonl").write_bytes(MIXED)
    command = ("index", "mixed.index", "--from", "mixed.jsonl", "--model", tiny("bert"), "--stop-on-bad-row")
    shell(*command).check_refused(
        2, "mixed.jsonl:2: expected UTF-8", "Stopped at the first bad row, as asked"
    )
    assert not (tmp_path / "mixed.index").exists()


# --- what is refused, and loses nothing ------------------------------------------------------------------------

REFUSED_SOURCES = [
    ("nowhere.jsonl", ("expected a file or folder of documents at nowhere.jsonl, found nothing", "Check")),
    ("empty.jsonl", ("no documents found in empty.jsonl", "expected records")),
    ("empty", ("no documents found in empty", "expected records")),
    ("a.docx", ("expected a file ending in .jsonl", "got a.docx")),
    (
        "wrong.csv",
        ("all 2 records are bad", "wrong.csv:2: no id column", "the columns are foo, bar", "--columns"),
    ),
    ("latin.jsonl", ("all 1 records are bad", "latin.jsonl:1: expected UTF-8", "0xe9", "iconv")),
]


@pytest.fixture
def refused_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_bytes(b"PK")
    (tmp_path / "wrong.csv").write_text("foo,bar\n1,2\n3,4\n")
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a", "text": "café"}'.encode("latin-1"))


@pytest.mark.usefixtures("refused_sources")
@pytest.mark.parametrize(("source", "said"), REFUSED_SOURCES, ids=[source for source, _ in REFUSED_SOURCES])
def test_documents_that_cannot_be_used_are_told_and_neither_make_nor_change_an_index(
    shell: Shell, tiny: Tiny, notes_index: Path, stored: Stored, source: str, said: tuple[str, ...]
) -> None:
    before = stored(notes_index)
    shell("index", "new.index", "--from", source, "--model", tiny("bert")).check_refused(2, *said)
    assert not notes_index.with_name("new.index").exists()
    shell("index", notes_index, "--from", source, "--upsert").check_refused(2, *said)
    assert stored(notes_index) == before
    assert Index.open(notes_index).info().state == "complete"


@pytest.mark.usefixtures("refused_sources")
@pytest.mark.parametrize("kind", ["an empty folder", "a link to one"])
def test_a_folder_that_was_there_before_is_left_as_it_was(
    shell: Shell, tiny: Tiny, tmp_path: Path, kind: str
) -> None:
    folder = path = tmp_path / "folder"
    folder.mkdir()
    if kind == "a link to one":
        path = tmp_path / "link"
        path.symlink_to(folder)
    answer = shell("index", path, "--from", "wrong.csv", "--model", tiny("bert"))
    answer.check_refused(2, "no id column")
    assert list(folder.iterdir()) == []
    assert path.is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("--from", "--delete", "--retokenize", "is required", "runoff index --help")),
        (("--from", "notes.jsonl", "--delete", "a"), ("--delete", "not allowed with", "--from")),
        (
            ("--from", "notes.jsonl", "--columns", "id=a,words=b"),
            ("columns for id, text and title, got words",),
        ),
        (("--from", "notes.jsonl", "--columns", "id"), ("expected NAME=VALUE", "got 'id'")),
        (("--from", "notes.jsonl", "--types", "year=date"), ("int, float and bool, got date",)),
        (("--from", "notes.jsonl", "--passages", "0"), ("1 or more, got '0'",)),
        (("--from", "notes.jsonl", "--bad-rows", "no/bad.jsonl"), ("cannot write bad rows to no/bad.jsonl",)),
        (
            ("--from", "notes.jsonl", "--no-tokens", "--language", "klingon"),
            ("expected a language", "got 'klingon'"),
        ),
        (("--delete", "a"), ("expected a Runoff index at new.index", "found nothing", "--from")),
        (("--optimize",), ("expected a Runoff index at new.index", "found nothing")),
    ],
)
def test_what_cannot_be_meant_is_refused_and_makes_no_index(
    shell: Shell, notes: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    shell("index", "new.index", *words).check_refused(2, *said)
    assert not notes.with_name("new.index").exists()


def test_bad_rows_are_never_written_over_the_documents(shell: Shell, notes: Path) -> None:
    before = notes.read_bytes()
    answer = shell("index", "new.index", "--from", notes, "--no-tokens", "--bad-rows", notes)
    answer.check_refused(2, "is among the documents of", "write it somewhere else")
    assert notes.read_bytes() == before


def test_somebody_elses_folder_and_files_are_left_alone(shell: Shell, notes: Path, tiny: Tiny) -> None:
    before = notes.read_bytes()
    model = ("--model", tiny("bert"))
    shell("index", notes, "--from", notes, *model).check_refused(2, "expected a folder", "is a file")
    shell("index", notes.parent, "--from", notes, *model).check_refused(2, "is not empty (", "a new folder")
    assert [each.name for each in notes.parent.iterdir()] == ["notes.jsonl"]
    assert notes.read_bytes() == before
