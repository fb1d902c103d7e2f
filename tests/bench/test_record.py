"""Result lines: kept, replaced, compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff.bench.compare import changes
from runoff.bench.record import agreement, read_rows, record, same_run
from runoff.contracts import InputError
from standin_race import MACHINE, race_row


def test_a_line_takes_the_place_of_one_with_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "race.jsonl"
    record(file, [race_row("17m", "st-fp32", 10.0), race_row("32m", "st-fp32", 5.0)])
    record(file, [race_row("17m", "st-fp32", 20.0)])
    found = [(row["settings"]["model"], row["pairs_a_second"]) for row in read_rows(file)]
    assert found == [("32m", 5.0), ("17m", 20.0)]


def test_a_line_of_another_machine_stays(tmp_path: Path) -> None:
    file = tmp_path / "race.jsonl"
    record(file, [race_row("17m", "st-fp32", 10.0)])
    record(file, [race_row("17m", "st-fp32", 20.0, machine={**MACHINE, "cpu": "Other"})])
    assert [row["pairs_a_second"] for row in read_rows(file)] == [10.0, 20.0]


def test_what_is_no_result_line_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"settings": {}}\nnonsense\n')
    with pytest.raises(InputError, match=r"x\.jsonl:2: expected a result line"):
        read_rows(tmp_path / "x.jsonl")


def test_lines_of_one_run_share_machine_and_settings() -> None:
    like = race_row("17m", "st-fp32", 1.0)
    rows = [
        race_row("32m", "runoff-int8", 2.0),
        race_row("17m", "st-fp32", 3.0, settings={"threads": 1}),
        race_row("17m", "st-fp32", 4.0, settings={"max_length": 8192}),
        race_row("17m", "st-fp32", 5.0, machine={**MACHINE, "cores": 4}),
    ]
    assert [row["pairs_a_second"] for row in same_run(rows, like)] == [2.0]


def test_tied_scores_share_the_mean_of_their_ranks() -> None:
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: covariance 4.5 of standard deviations sqrt(4.5) and sqrt(5).
    found = agreement([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    assert found == {"spearman": pytest.approx(4.5 / (4.5 * 5) ** 0.5, abs=1e-6), "max_difference": 1.0}


def test_agreement_is_over_as_many_as_both_have() -> None:
    assert agreement([1.0, 2.0, 9.0], [1.0, 2.5]) == {"spearman": 1.0, "max_difference": 0.5}


def test_without_a_reference_nothing_is_claimed() -> None:
    assert agreement([1.0], None) == {"spearman": None, "max_difference": None}


def test_equal_scores_throughout_have_no_correlation() -> None:
    assert agreement([1.0, 1.0], [1.0, 2.0])["spearman"] is None


def test_a_comparison_names_ratios_and_what_else_differs() -> None:
    old = [race_row("17m", "st-fp32", 10.0), race_row("17m", "runoff-int8", 50.0)]
    new = [
        race_row("17m", "st-fp32", 20.0, machine={**MACHINE, "cpu": "Other"}, versions={"runoff": "2"}),
        race_row("17m", "runoff-int8", 60.0),
        race_row("17m", "ort-int8", 1.0),
    ]
    found = [(each.engine, each.ratio, each.differences) for each in changes(old, new)]
    assert found == [("st-fp32", 2.0, ("hardware", "versions")), ("runoff-int8", 1.2, ())]


def test_a_comparison_prefers_the_earlier_line_of_the_same_circumstances() -> None:
    old = [race_row("17m", "st-fp32", 10.0), race_row("17m", "st-fp32", 40.0, settings={"threads": 8})]
    (found,) = changes(old, [race_row("17m", "st-fp32", 20.0)])
    assert (found.old, found.differences) == (10.0, ())
