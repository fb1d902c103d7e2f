"""TREC runs and judgements: what is written is read back, and what is not one is named by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.contracts import InputError
from runoff.data.trec import read_qrels, read_trec_run, write_trec_run


def test_a_run_comes_back_with_every_digit(tmp_path: Path) -> None:
    run = {"q1": [("d2", 1 / 3), ("d1", 0.1 + 0.2), ("d3", -4.0)], "q2": [("d9", 5.0), ("d8", 5.0)]}
    write_trec_run(tmp_path / "a.run", run, tag="mine")
    assert read_trec_run(tmp_path / "a.run") == run
    assert (tmp_path / "a.run").read_text().splitlines()[0] == "q1 Q0 d2 1 0.3333333333333333 mine"


def test_a_runs_order_is_by_score_and_ties_stay_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q Q0 b 1 1.0 t\nq Q0 a 2 1.0 t\n\nq\tQ0\tc\t3\t2e0\tt\n")
    assert read_trec_run(tmp_path / "a.run") == {"q": [("c", 2.0), ("b", 1.0), ("a", 1.0)]}


def test_a_run_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_trec_run(tmp_path / "a.run", {"q": [("d", 1.0)]})
    with pytest.raises(InputError, match="'has blank'"):
        write_trec_run(tmp_path / "a.run", {"q": [("fine", 1.0), ("has blank", 1.0)]})
    assert read_trec_run(tmp_path / "a.run") == {"q": [("d", 1.0)]}
    assert [each.name for each in tmp_path.iterdir()] == ["a.run"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q Q0 d 1 1.0 t\nq Q0 d 1\n", r"a\.run:2: expected 6 fields"),
        (b"q Q0 d 1 high t\n", r"a\.run:1: expected a number, got 'high'"),
        (b"q Q0 caf\xe9 1 1.0 t\n", r"a\.run:1: expected UTF-8"),
    ],
)
def test_what_is_no_run_is_named_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.run").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_trec_run(tmp_path / "a.run")
    with pytest.raises(InputError, match="found nothing"):
        read_trec_run(tmp_path / "nowhere.run")


def test_judgements_of_trec_and_of_beir_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n"
    )
    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    assert read_qrels(tmp_path / "a.qrels") == expected
    assert read_qrels(tmp_path) == read_qrels(tmp_path / "qrels" / "test.tsv") == expected
    with pytest.raises(InputError, match=r"dev\.tsv"):
        read_qrels(tmp_path, split="dev")


def test_judgements_of_another_form_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text("q1 0 d1 2 extra\n")
    with pytest.raises(InputError, match=r"a\.qrels:1: expected 4 fields"):
        read_qrels(tmp_path / "a.qrels")
