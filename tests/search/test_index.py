"""Index: what is put in comes out, found by id, filter and words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runoff.contracts import (
    Document,
    IndexStoreError,
    InputError,
    MissingExtraError,
    Origin,
    Query,
    TokenizerMismatchError,
)
from runoff.search.index import Index
from runoff.search.retrieve import BM25
from runoff.search.settings import TokenizerName
from standin_search import SharedWords, WordHashes, numbered_documents


def found(index: Index, query: str, k: int = 10, where: str | None = None) -> list[str]:
    return [hit.id for hit in BM25(index, where).retrieve(Query(query), k)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index")
    index.add(numbered_documents(100))
    return index


def test_importing_search_imports_neither_lance_nor_arrow() -> None:
    code = (
        "import sys, runoff.search.index, runoff.search.pipeline, runoff.data.formats;"
        "print([name for name in ('lance', 'pyarrow', 'pandas', 'torch', 'tqdm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_documents_come_back_as_they_were_put_in(tmp_path: Path) -> None:
    documents = [
        Document(
            "a", "Title one and text", "Title one", "file.md", "lines 1-3", {"year": 1999, "draft": True}
        ),
        Document("b'; DROP", "quotes \" and ' and ünïcödé 中文", metadata={"price": 2.5}),
        Document("c", "no metadata"),
    ]
    index = Index.create(tmp_path / "index")
    assert index.add(documents).added == 3
    assert list(Index.open(tmp_path / "index").documents()) == documents
    assert index.get(["c", "nope", "b'; DROP"]) == {"c": documents[2], "b'; DROP": documents[1]}


def test_words_are_found_by_their_stems_and_stop_words_are_not(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([Document("a", "the libraries of Alexandria"), Document("b", "a cataloguing rule")])
    assert found(index, "library") == ["a"]
    assert found(index, "catalogues") == ["b"]
    assert found(index, "the of a") == []


def test_without_a_language_words_are_as_they_stand_in_any_script(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", language=None)
    index.add([Document("a", "the libraries 中文分词 测试"), Document("b", "other")])
    assert found(index, "library") == []
    assert found(index, "libraries") == found(index, "the") == found(index, "中文") == ["a"]


def test_adding_again_skips_what_is_there(index: Index) -> None:
    report = index.add(numbered_documents(110))
    assert (report.added, report.unchanged, report.bad) == (10, 100, 0)
    assert len(index) == 110


def test_adding_other_content_under_a_stored_id_is_a_bad_row(index: Index) -> None:
    other = Document("d1", "something else", source="new.jsonl", origin=Origin("new.jsonl", 7))
    report = index.add([other, Document("fresh", "words")])
    assert (report.added, report.bad) == (1, 1)
    assert "upsert" in str(report.bad_rows[0])
    assert str(report.bad_rows[0]).startswith("new.jsonl:7: ")
    assert index.get(["d1"])["d1"].text != "something else"


def test_upsert_replaces_by_id_and_adds_the_rest(index: Index) -> None:
    report = index.upsert([Document("d1", "zebra"), *numbered_documents(3, first=99)])
    assert (report.added, report.updated, report.unchanged) == (2, 1, 1)
    assert len(index) == 102
    assert found(index, "zebra") == ["d1"]
    assert found(index, "number1") == []
    assert index.get(["d1"])["d1"].metadata == {}


def test_upsert_notices_a_place_that_moved_and_add_does_not(index: Index) -> None:
    moved = Document(
        "d0", next(numbered_documents(1)).text, None, "numbers", "line 9", {"year": 2000, "lang": "de"}
    )
    assert index.add([moved]).unchanged == 1
    assert index.upsert([moved]).updated == 1
    assert index.get(["d0"])["d0"].place == "line 9"


def test_delete_by_ids_and_by_filter(index: Index) -> None:
    assert index.delete(ids=["d0", "d1", "nope"]) == 2
    assert index.delete(where="year = 2005") == 10
    assert len(index) == 88
    assert found(index, "number1") == []
    assert found(index, "number2") == ["d2"]


@pytest.mark.parametrize(("ids", "where"), [(None, None), (["a"], "year = 1"), (None, ""), ("d0", None)])
def test_delete_refuses_what_might_mean_everything(index: Index, ids: list[str], where: str) -> None:
    with pytest.raises(InputError, match="one of the two"):
        index.delete(ids=ids, where=where)
    assert len(index) == 100


def test_filters_count_and_narrow_a_search(index: Index) -> None:
    assert index.count("year >= 2005 AND lang = 'en'") == sum(
        each.metadata["year"] >= 2005 and each.metadata["lang"] == "en" for each in numbered_documents(100)
    )
    years = {hit.metadata["year"] for hit in BM25(index, "year = 2009").retrieve(Query("river harbour"), 50)}
    assert years == {2009}


@pytest.mark.parametrize(
    "where",
    [
        "yearr > 2000",
        "year >",
        "year + 1",
        "nonsense(year)",
        "regexp_like(lang, '[')",
        "regexp_match(lang, '(') IS NOT NULL",
        "CAST(lang AS INT) = 1",
    ],
)
def test_a_filter_that_cannot_be_used_names_the_columns(index: Index, where: str) -> None:
    for ask in (
        index.count,
        lambda where: found(index, "river", where=where),
        lambda where: index.delete(where=where),
    ):
        with pytest.raises(InputError, match=r"year \(int64\)"):
            ask(where)


def test_added_documents_are_found_before_the_bm25_index_has_them(index: Index, tmp_path: Path) -> None:
    index._table.append(index._table.rows(index._table.schema.names, "id = 'd5'").slice(0, 1))
    assert index.info().unindexed == 1
    assert found(index, "number5") == ["d5", "d5"]


def test_info_tells_what_there_is(tmp_path: Path) -> None:
    index = Index.create(
        tmp_path / "index", tokenizer=SharedWords(), embedder=WordHashes(), language="german"
    )
    index.add(numbered_documents(20))
    info = index.info()
    assert (info.documents, info.unindexed, info.state) == (20, 0, "complete")
    assert (info.tokenizer, info.embedder, info.language) == ("shared-words", "word-hashes", "german")
    assert info.bytes_on_disk > 1000
    assert info.columns["year"] == "int64"


def test_creating_finds_what_another_process_made_meanwhile_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_by_another(folder: Path) -> None:
        monkeypatch.undo()
        Index.create(folder).add(numbered_documents(7))

    for options in ({"exist_ok": True}, {}):
        monkeypatch.setattr("runoff.search.index.check_free", made_by_another)
        folder = tmp_path / str(len(options))
        if options:
            assert len(Index.create(folder, exist_ok=True)) == 7
        else:
            with pytest.raises(IndexStoreError, match="already, with 7 documents"):
                Index.create(folder)
        assert len(Index.open(folder)) == 7


def test_opening_what_another_process_is_about_to_finish_creating_loses_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = index.settings
    finished.with_state("creating").saved_in(index.path)
    monkeypatch.setattr("runoff.search.index.check_same", lambda folder, *_: finished.saved_in(folder))
    assert len(Index.open(index.path)) == 100


# --- opening what is not what it should be -------------------------------------------------------------


def test_opening_nothing_says_how_to_make_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexStoreError, match="runoff index"):
        Index.open(tmp_path / "nowhere")


def test_creating_over_an_index_is_refused_and_loses_nothing(index: Index) -> None:
    with pytest.raises(IndexStoreError, match=r"already, with 100 documents.*exist_ok"):
        Index.create(index.path)
    assert len(Index.create(index.path, exist_ok=True)) == 100


def test_creating_in_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(IndexStoreError, match=r"not empty \(thesis.docx\)"):
        Index.create(tmp_path)
    with pytest.raises(IndexStoreError, match="is a file"):
        Index.create(tmp_path / "thesis.docx")


def test_only_leftovers_of_our_own_are_passed_over_when_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "writer.lock").touch()
    (tmp_path / ".runoff-index.json.17.draft").touch()
    (tmp_path / "novel.draft").write_text("years of work")
    with pytest.raises(IndexStoreError, match=r"not empty \(novel\.draft\)"):
        Index.create(tmp_path)
    (tmp_path / "novel.draft").unlink()
    assert len(Index.create(tmp_path)) == 0


def test_an_index_of_another_language_is_not_taken_for_the_same(index: Index) -> None:
    with pytest.raises(IndexStoreError, match=r"language='english', asked was 'french'"):
        Index.create(index.path, language="french", exist_ok=True)
    with pytest.raises(InputError, match="english"):
        Index.create(index.path.with_name("other"), language="klingon")


def test_an_index_made_with_another_tokenizer_names_both_and_the_ways_out(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", tokenizer=SharedWords("old", "0001"))
    index.add(numbered_documents(5))
    with pytest.raises(
        TokenizerMismatchError, match=r"(?s)'old'.*'new'.*tokens=\"text\".*--retokenize --model new"
    ):
        Index.open(tmp_path / "index", tokenizer=SharedWords("new", "0002"))
    assert len(Index.open(tmp_path / "index")) == 5


def test_an_index_without_tokens_is_not_taken_for_one_with_them(index: Index) -> None:
    with pytest.raises(
        TokenizerMismatchError,
        match=r"no token ids; asked .*'shared-words'.*--retokenize --model shared-words",
    ):
        Index.create(index.path, tokenizer=SharedWords(), exist_ok=True)
    index.retokenize(SharedWords())
    assert len(Index.create(index.path, tokenizer=SharedWords(), exist_ok=True)) == 100


def test_an_index_with_tokens_takes_no_documents_without_their_tokenizer(tmp_path: Path) -> None:
    Index.create(tmp_path / "index", tokenizer=SharedWords(), embedder=WordHashes()).add(
        numbered_documents(5)
    )
    with pytest.raises(IndexStoreError, match=r"tokenizer=\.\.\."):
        Index.open(tmp_path / "index").add(numbered_documents(9))
    with pytest.raises(IndexStoreError, match=r"embedder=\.\.\."):
        Index.open(tmp_path / "index", tokenizer=SharedWords()).add(numbered_documents(9))


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    Index.create(tmp_path / "index", embedder=WordHashes(dimension=16))
    with pytest.raises(IndexStoreError, match=r"'word-hashes' \[16\].*\[32\]"):
        Index.open(tmp_path / "index", embedder=WordHashes(dimension=32))


def test_a_scorer_of_texts_only_cannot_be_an_index_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes texts only"):
        Index.create(tmp_path / "index", tokenizer=SharedWords(fingerprint=None))


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99, "tokenizer": null}', "not json"])
def test_damaged_settings_are_named_and_the_documents_stay(index: Index, content: str) -> None:
    settings = index.path / "runoff-index.json"
    kept = settings.read_text()
    settings.write_text(content)
    with pytest.raises(IndexStoreError, match=r"runoff-index\.json"):
        Index.open(index.path)
    settings.write_text(kept)
    assert len(Index.open(index.path)) == 100


@pytest.mark.parametrize("damage", ["a data file is cut short", "a data file is gone", "the table is gone"])
def test_a_damaged_table_is_an_error_that_says_what_to_do(index: Index, damage: str) -> None:
    table = index.path / "documents.lance"
    for file in (table / "data").iterdir():
        if damage == "a data file is cut short":
            file.write_bytes(file.read_bytes()[:100])
        else:
            file.unlink()
    if damage == "the table is gone":
        shutil.rmtree(table)
    with pytest.raises(
        IndexStoreError, match=r"could not read the index at .*restore them from a copy, or make"
    ):
        list(Index.open(index.path).documents())


def test_settings_of_a_later_format_are_not_guessed_at(index: Index) -> None:
    settings = index.path / "runoff-index.json"
    settings.write_text(settings.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(IndexStoreError, match="has format 2, this Runoff reads format 1"):
        Index.open(index.path)


def test_without_lance_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'runoff\[search\]'"):
        Index.create(tmp_path / "index")


# --- tokens ----------------------------------------------------------------------------------------------


def test_stored_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    words = SharedWords()
    index = Index.create(tmp_path / "index", tokenizer=words)
    index.add(numbered_documents(30))
    for hit in index.candidates([f"d{row}" for row in range(30)]).values():
        assert hit.tokens is not None
        assert hit.text is not None
        assert hit.tokens.dtype == np.int32
        np.testing.assert_array_equal(hit.tokens, words.tokenize([hit.text])[0])


def test_retokenize_puts_in_other_tokens_and_takes_them_away(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", tokenizer=SharedWords("old", "0001"))
    index.add(numbered_documents(5000))
    index.delete(ids=["d3"])
    new = SharedWords("new", "0002")
    index.retokenize(new)
    reopened = Index.open(index.path, tokenizer=new)
    hits = reopened.candidates([f"d{row}" for row in range(0, 5000, 97)])
    assert len(hits) == 52
    for hit in hits.values():
        np.testing.assert_array_equal(hit.tokens, new.tokenize([hit.text or ""])[0])
    assert found(reopened, "number77") == ["d77"]
    reopened.retokenize(None)
    assert reopened.tokenizer is None
    assert reopened.candidates(["d1"])["d1"].tokens is None


def test_a_writer_whose_tokens_another_process_replaced_is_refused_and_spoils_nothing(tmp_path: Path) -> None:
    old, new = SharedWords("old", "0001"), SharedWords("new", "0002")
    index = Index.create(tmp_path / "index", tokenizer=old)
    index.add(numbered_documents(5))
    Index.open(index.path).retokenize(new)
    with pytest.raises(TokenizerMismatchError, match=r"(?s)'new'.*'old'"):
        index.add(numbered_documents(9))
    reopened = Index.open(index.path, tokenizer=new)
    assert (len(reopened), reopened.tokenizer) == (5, TokenizerName("new", "0002"))


def test_without_stored_tokens_a_tokenizer_given_is_not_asked(tmp_path: Path) -> None:
    Index.create(tmp_path / "index")
    words = SharedWords()
    index = Index.open(tmp_path / "index", tokenizer=words)
    assert index.add(numbered_documents(5)).added == 5
    assert words.texts_tokenised == 0
