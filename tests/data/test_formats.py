"""Documents and queries from every kind of file, with the place of each record and the fault of each bad one."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from runoff.contracts import BadRow, Document, InputError, Query
from runoff.data.formats import Columns, PassageRule, read_documents, read_queries


def documents(path: Path, **options: object) -> list[Document]:
    records = list(read_documents(path, **options))  # type: ignore[arg-type]
    assert all(isinstance(each, Document) for each in records), records
    return records  # type: ignore[return-value]


def bad_rows(path: Path, **options: object) -> list[str]:
    return [str(each) for each in read_documents(path, **options) if isinstance(each, BadRow)]  # type: ignore[arg-type]


# --- jsonl -----------------------------------------------------------------------------------------------


def test_a_beir_folder_gives_its_corpus_with_the_title_in_front(tmp_path: Path) -> None:
    record = {"_id": "7", "title": "On Rivers", "text": "They flow.", "metadata": {"year": 1999}}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "where do rivers flow"}\n')
    source = str(tmp_path / "corpus.jsonl")
    expected = Document("7", "On Rivers They flow.", "On Rivers", source, "line 1", {"year": 1999})
    assert documents(tmp_path) == [expected]
    assert read_queries(tmp_path) == [Query("where do rivers flow", "q")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
def test_json_lines_under_any_usual_name_and_with_usual_fields(tmp_path: Path, name: str) -> None:
    content = '\ufeff{"doc_id": 5, "contents": "body", "lang": "en"}\n\n{"doc_id": "6", "contents": "more"}\n'.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = documents(tmp_path / name)
    assert [(each.id, each.text, each.place, dict(each.metadata)) for each in found] == [
        ("5", "body", "line 1", {"lang": "en"}),
        ("6", "more", "line 3", {}),
    ]


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"key": "k", "abstract": "words", "name": "T", "id": 3}\n')
    named = {"id": "key", "text": "abstract", "title": "name"}
    found = documents(tmp_path / "a.jsonl", columns=named)
    assert found[0] == Document("k", "T words", "T", str(tmp_path / "a.jsonl"), "line 1", {"id_": 3})
    assert documents(tmp_path / "a.jsonl", columns=Columns(**named)) == found


def test_a_record_that_says_where_it_comes_from_keeps_that(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a#1", "text": "t", "source": "a.pdf", "place": "page 3"}\n')
    assert [(each.source, each.place) for each in documents(tmp_path / "a.jsonl")] == [("a.pdf", "page 3")]


def test_bad_lines_are_named_by_file_line_and_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": "a", "text": "caf\xe9"}\n{"id": \n[1]\n{"id": "a"}\n'
        b'{"id": true, "text": "t"}\n{"id": "a", "text": 5}\n'
    )
    found = bad_rows(path)
    assert [row.split(": ")[0] for row in found] == [f"{path}:{line}" for line in range(1, 7)]
    signs = [
        "UTF-8, got byte 0xe9",
        "not JSON",
        "got list",
        "no text column",
        "got True",
        "expected text, got 5",
    ]
    for row, sign in zip(found, signs, strict=True):
        assert sign in row
    assert "the columns are id. Name it with" in found[3]


def test_a_json_array_is_not_taken_for_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n{"id": "a", "text": "t"},\n{"id": "b", "text": "t"}\n]')
    assert "expected one object per line" in bad_rows(tmp_path / "a.json")[0]


def test_a_gzip_cut_short_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"id": str(row), "text": f"{row * 7919}"}) + "\n" for row in range(5000)
    ).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    records = list(read_documents(tmp_path / "a.jsonl.gz"))
    assert len(records) > 1000
    assert "cannot be read (any further)" in str(records[-1])
    assert "Was it cut short? Copy it again" in str(records[-1])


def test_a_gzip_damaged_within_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    letters = random.Random(5)
    lines = "".join(
        json.dumps({"id": str(row), "text": letters.randbytes(40).hex()}) + "\n" for row in range(3000)
    )
    damaged = bytearray(gzip.compress(lines.encode()))
    middle = len(damaged) // 2
    damaged[middle : middle + 400] = bytes(400)
    (tmp_path / "a.jsonl.gz").write_bytes(damaged)
    records = list(read_documents(tmp_path / "a.jsonl.gz"))
    assert len(records) > 500
    assert "cannot be read (any further)" in str(records[-1])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz"):
        read_queries(tmp_path / "a.jsonl.gz")


# --- what is not there ---------------------------------------------------------------------------------------


def test_a_missing_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found nothing\. Check the path"):
        read_documents(tmp_path / "nowhere.jsonl")


def test_a_file_of_another_kind_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"ending in \.jsonl"):
        read_documents(tmp_path / "a.docx")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "folder"])
def test_an_empty_corpus_says_what_was_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"no documents found in .*expected records"):
        list(read_documents(tmp_path / name))


def test_records_are_cut_into_passages_only_when_asked(tmp_path: Path) -> None:
    record = {"id": "long", "title": "T", "text": "One two three. Four five six."}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + '\n{"id": "short", "text": "One."}\n')
    assert [each.id for each in documents(tmp_path / "a.jsonl")] == ["long", "short"]
    cut = documents(tmp_path / "a.jsonl", passages=PassageRule(4, 0))
    assert [(each.id, each.text, each.place) for each in cut] == [
        ("long#1", "T One two three.", "line 1, chars 0-16"),
        ("long#2", "T Four five six.", "line 1, chars 17-31"),
        ("short", "One.", "line 2"),
    ]


# --- queries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("q.txt", "first query\n\nsecond query\n", [Query("first query", "1"), Query("second query", "3")]),
        ("q.tsv", "7\tfirst query\n8\tsecond\n", [Query("first query", "7"), Query("second", "8")]),
        ("q.tsv", "qid\tquery\n7\tfirst query\n", [Query("first query", "7")]),
        ("q.csv", "id,text\n7,first query\n", [Query("first query", "7")]),
        ("q.csv", "\nid,text\n7,first query\n", [Query("first query", "7")]),
        ("q.jsonl", '{"query_id": 7, "question": "first query"}\n', [Query("first query", "7")]),
    ],
)
def test_queries_of_every_form(tmp_path: Path, name: str, content: str, expected: list[Query]) -> None:
    (tmp_path / name).write_text(content)
    assert read_queries(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", '{"id": "a", "text": "t"}\nnot json\n', r"q\.jsonl:2: not JSON"),
        ("q.jsonl", '{"id": "a", "words": "t"}\n', r"q\.jsonl:1: .*the fields are id, words"),
        ("q.tsv", "no tab\n", r"q\.tsv:1: expected an id, a tab and a query"),
        ("q.tsv", "1\ta\nq1\t\n", r"q\.tsv:2: expected an id, a tab and a query, got 'q1'"),
        ("q.tsv", "\ta query\n", r"q\.tsv:1: expected an id, a tab and a query"),
        ("q.csv", 'id,"text\n7,a\n', r"q\.csv:1: not a row of csv"),
        ("q.tsv", "1\ta\n1\tb\n", "query id '1' stands there twice"),
        ("q.txt", "", "no queries found"),
    ],
)
def test_a_query_that_cannot_be_used_is_an_error(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_queries(tmp_path / name)


def test_queries_that_are_not_utf8_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"q\.txt:2: expected UTF-8"):
        read_queries(tmp_path / "q.txt")
    with pytest.raises(InputError, match="found none"):
        read_queries(tmp_path / "nowhere.txt")
