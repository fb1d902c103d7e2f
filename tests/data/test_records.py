"""Tables of records: csv, tsv and parquet, with the place of each row and the fault of each bad one."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import BadRow, Document, InputError, Origin
from runoff.data.formats import Columns, PassageRule, read_documents, read_queries


def documents(path: Path, **options: object) -> list[Document]:
    records = list(read_documents(path, **options))  # type: ignore[arg-type]
    assert all(isinstance(each, Document) for each in records), records
    return records  # type: ignore[return-value]


def bad_rows(path: Path, **options: object) -> list[str]:
    return [str(each) for each in read_documents(path, **options) if isinstance(each, BadRow)]  # type: ignore[arg-type]


def test_csv_rows_may_span_lines_and_keep_the_line_they_begin_at(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text,year\n1,"two\nlines, quoted",1999\n2,plain,\n', newline="")
    found = documents(tmp_path / "a.csv", columns=Columns(types={"year": int}))
    assert [(each.id, each.text, each.place, dict(each.metadata)) for each in found] == [
        ("1", "two\nlines, quoted", "line 2", {"year": 1999}),
        ("2", "plain", "line 4", {"year": None}),
    ]


def test_csv_values_are_text_unless_a_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,n,x,b\n1,t,007,1.5,true\n2,t,x,1,0\n")
    assert documents(tmp_path / "a.csv")[0].metadata == {"n": "007", "x": "1.5", "b": "true"}
    typed = Columns(types={"n": int, "x": float, "b": bool})
    records = list(read_documents(tmp_path / "a.csv", columns=typed))
    assert records[0].metadata == {"n": 7, "x": 1.5, "b": True}  # type: ignore[union-attr]
    assert str(records[1]).endswith("a.csv:3: expected int as 'n', got 'x'")


def test_csv_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,a,b\n2,caf\xe9\n3,good\n")
    records = list(read_documents(tmp_path / "a.csv"))
    assert [getattr(each, "line", None) for each in records] == [2, 3, None]
    assert "expected 2 fields as in the header, got 3" in str(records[0])
    assert "UTF-8" in str(records[1])


def test_csv_without_the_columns_needed_lists_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,abstract\n1,words\n")
    assert "no id column: expected one of id, _id" in bad_rows(tmp_path / "a.csv")[0]
    assert "the columns are key, abstract" in bad_rows(tmp_path / "a.csv")[0]
    assert (
        "no id column: expected 'nr'"
        in bad_rows(tmp_path / "a.csv", columns={"id": "nr", "text": "abstract"})[0]
    )


def test_a_csv_column_that_stands_there_twice_spoils_that_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,text\n1,a,b\n")
    (tmp_path / "b.csv").write_text("id,text\n1,good\n")
    bad, good = read_documents(tmp_path)
    assert str(bad) == f"{tmp_path / 'a.csv'}:1: column 'text' stands there twice; give each its own name"
    assert good.text == "good"  # type: ignore[union-attr]
    (tmp_path / "q.csv").write_text("id,text,id\n1,a,b\n")
    with pytest.raises(InputError, match="'id' stands there twice"):
        read_queries(tmp_path / "q.csv")


def test_a_quote_that_is_never_closed_is_named_and_not_read_as_one_long_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,good\n2,"open\n3,swallowed\n')
    good, bad = read_documents(tmp_path / "a.csv")
    assert good.text == "good"  # type: ignore[union-attr]
    assert str(bad).startswith(f"{tmp_path / 'a.csv'}:3: not a row of csv")
    assert "a quote is opened there and never closed" in str(bad)


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"quoted\n2\tplain\n')
    assert [each.text for each in documents(tmp_path / "a.tsv")] == ['"quoted', "plain"]


def test_a_field_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n1,{'long ' * 50_000}\n")
    assert len(documents(tmp_path / "a.csv")[0].text) > 200_000


def test_parquet_keeps_types(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = arrow.table({"id": ["a", "b"], "text": ["one", "two"], "year": [1999, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = documents(tmp_path / "a.parquet")
    assert [(each.id, each.text, each.place, each.metadata["year"]) for each in found] == [
        ("a", "one", "row 1", 1999),
        ("b", "two", "row 2", None),
    ]
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"", b"PAR1 not really", whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "b.parquet").write_bytes(damaged)
        (fault,) = bad_rows(tmp_path / "b.parquet")
        assert "parquet file cannot be read from here on" in fault
        assert "Was it cut short? Copy it again" in fault


def test_a_parquet_value_that_is_not_utf8_is_a_bad_row_among_good_ones(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    bytes_column = arrow.array([b"one", b"caf\xe9", b"three"], arrow.binary())
    texts = bytes_column.view(arrow.string())  # unchecked, as some writers are
    parquet.write_table(arrow.table({"id": ["a", "b", "c"], "text": texts}), tmp_path / "a.parquet")
    first, bad, last = read_documents(tmp_path / "a.parquet")
    assert (first.id, last.id) == ("a", "c")  # type: ignore[union-attr]
    assert str(bad).startswith(f"{tmp_path / 'a.parquet'}:2: expected UTF-8, got byte 0xe9")


@pytest.mark.parametrize("start", ["\n", "\n\r\n", "  \n", "\ufeff\n", ",\n"])
def test_blank_lines_before_the_header_of_a_csv_are_passed_over(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.csv").write_text(f"{start}id,text\n1,words\n", newline="")
    (found,) = documents(tmp_path / "a.csv")
    assert (found.id, found.text, found.place) == ("1", "words", f"line {start.count(chr(10)) + 2}")


def test_a_byte_order_mark_before_a_quoted_header_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeff"id","text"\n1,words\n')
    assert documents(tmp_path / "a.csv")[0].id == "1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('id,"text\n1,words\n2,more\n', "a quote is opened there and never closed"),
        ("id,text\r1,words\r2,more\r", "Lines that end as on an old Mac? Convert them: tr"),
    ],
)
def test_a_header_that_is_no_csv_spoils_that_file_and_no_other(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    (tmp_path / "b.csv").write_text("id,text\n1,good\n")
    bad, good = read_documents(tmp_path)
    assert str(bad).startswith(f"{tmp_path / 'a.csv'}:1: not a row of csv: ")
    assert said in str(bad)
    assert good.text == "good"  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["nanoseconds", "a far year"])
def test_a_parquet_time_that_python_cannot_hold_is_one_bad_row(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    if kind == "nanoseconds":
        times = arrow.array([10**9, 10**9 + 1, 2 * 10**9], arrow.timestamp("ns"))
    else:
        times = arrow.array([0, 10**7, 1], arrow.date32())  # days
    table = arrow.table({"id": ["a", "b", "c"], "text": ["one"] * 3, "at": times})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, bad, last = read_documents(tmp_path / "a.parquet")
    assert (first.id, last.id) == ("a", "c")  # type: ignore[union-attr]
    assert isinstance(first.metadata["at"], (date, datetime))  # type: ignore[union-attr]
    assert str(bad).startswith(f"{tmp_path / 'a.parquet'}:2: a value that Python cannot hold: ")


# --- what is metadata ------------------------------------------------------------------------------------------


def write_record(path: Path, **record: Any) -> Path:
    path.write_text(json.dumps(record) + "\n")
    return path


def test_a_column_that_another_takes_the_place_of_is_kept_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,sku,text,about,title,id_\n1,k1,short,long words,T,taken\n")
    (found,) = documents(tmp_path / "a.csv", columns={"id": "sku", "text": "about", "title": "title"})
    assert (found.id, found.text, found.title) == ("k1", "T long words", "T")
    assert found.metadata == {"id__": "1", "text_": "short", "id_": "taken"}


def test_a_source_or_place_that_is_no_text_is_metadata_and_not_lost(tmp_path: Path) -> None:
    path = write_record(tmp_path / "a.jsonl", id="a", text="t", place=3, source={"u": 1})
    (found,) = documents(path)
    assert (found.source, found.place) == (str(path), "line 1")
    assert found.metadata == {"place_": 3, "source_": {"u": 1}}
    (found,) = documents(write_record(path, id="a", text="t", place=None, source=""))
    assert (found.source, found.place, found.metadata) == (str(path), "line 1", {})


def test_nested_metadata_named_as_a_part_of_the_document_is_kept_too(tmp_path: Path) -> None:
    (found,) = documents(
        write_record(tmp_path / "a.jsonl", id="a", text="t", metadata={"source": "web", "n": 1})
    )
    assert found.metadata == {"source_": "web", "n": 1}


def test_a_document_knows_the_file_and_line_that_it_was_read_from(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"id": "a", "text": "One two. Three four.", "source": "web", "place": "page 9"}\n')
    assert [each.origin for each in documents(path)] == [Origin(str(path), 2)]
    cut = documents(path, passages=PassageRule(2, 0))
    assert [(each.id, each.origin) for each in cut] == [
        ("a#1", Origin(str(path), 2)),
        ("a#2", Origin(str(path), 2)),
    ]
    (tmp_path / "b.txt").write_text("One two. Three four.")
    cut = documents(tmp_path / "b.txt", passages=PassageRule(2, 0))
    assert [each.origin for each in cut] == [Origin(str(tmp_path / "b.txt"), None, 2)] * 2
