"""Rows for training: checked with file and row, split and dealt by the seed alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from runoff.contracts import InputError
from runoff.distill.recipe import Recipe
from runoff.distill.rows import Deal, checked_rows, runs, split
from standin_distil import labelled

STARTS = np.array([0, 3, 4, 9, 15, 16], np.int64)


def edited(folder, shard, change):
    """One shard with one column changed by a function from its values."""
    path = folder / f"part-{shard:05d}.parquet"
    table = parquet.read_table(path)
    name, edit = change
    place = table.schema.get_field_index(name)
    values = table.column(name).to_pylist()
    edit(values)
    table = table.set_column(
        place, pa.field(name, table.schema.field(name).type), pa.array(values, table.schema.field(name).type)
    )
    parquet.write_table(table, path)


def set_to(row, value):
    return lambda values: values.__setitem__(row, value)


def a_recipe(**changes):
    return Recipe("backbone", **{"learning_rate": 1e-3, "global_batch": 8, **changes})


def test_rows_are_counted_and_queries_found_over_shards(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 45, 7, shard_queries=20))
    assert (rows.count, rows.queries, rows.positives) == (315, 45, 45)
    assert rows.starts.tolist() == list(range(0, 316, 7))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_label_that_is_no_number_is_named_with_file_and_row(tmp_path, value):
    folder = labelled(tmp_path / "rows", 45, 7, shard_queries=20)
    edited(folder, 1, ("label", set_to(3, value)))
    with pytest.raises(InputError, match=r"part-00001\.parquet, row 3: expected a number"):
        checked_rows(folder)


@pytest.mark.parametrize("name", ["query", "document"])
@pytest.mark.parametrize("value", ["", "  \n"])
def test_an_empty_text_is_named_with_file_and_row(tmp_path, name, value):
    folder = labelled(tmp_path / "rows", 45, 7, shard_queries=20)
    edited(folder, 2, (name, set_to(5, value)))
    with pytest.raises(InputError, match=rf"part-00002\.parquet, row 5: expected a text as {name}"):
        checked_rows(folder)


def test_one_constant_label_is_refused(tmp_path):
    folder = labelled(tmp_path / "rows", 4, 3)
    edited(folder, 0, ("label", lambda values: values.__setitem__(slice(None), [2.0] * len(values))))
    with pytest.raises(InputError, match="all 12 labels are 2"):
        checked_rows(folder)


def test_a_missing_column_is_named(tmp_path):
    folder = labelled(tmp_path / "rows", 4, 3)
    path = folder / "part-00000.parquet"
    parquet.write_table(parquet.read_table(path).drop(["label"]), path)
    with pytest.raises(InputError, match="it lacks label"):
        checked_rows(folder)


def test_rows_that_are_not_finished_are_refused(tmp_path):
    folder = labelled(tmp_path / "rows", 4, 3)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(InputError, match="is not finished"):
        checked_rows(folder)


def test_held_out_queries_are_not_trained_on_and_depend_on_the_seed_alone(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 40, 3))
    first = split(rows, 10, a_recipe())
    assert not set(first.train) & set(first.held_out)
    assert sorted([*first.train, *first.held_out]) == list(range(40))
    assert np.array_equal(split(rows, 10, a_recipe()).held_out, first.held_out)
    assert not np.array_equal(split(rows, 10, a_recipe(seed=13)).held_out, first.held_out)


def test_a_subset_is_part_of_what_is_trained_on_and_holds_out_the_same(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 40, 3))
    whole, part = split(rows, 10, a_recipe()), split(rows, 10, a_recipe(subset=0.2))
    assert len(part.train) == 6
    assert set(part.train) <= set(whole.train)
    assert np.array_equal(part.held_out, whole.held_out)


def test_holding_out_everything_is_refused(tmp_path):
    rows = checked_rows(labelled(tmp_path / "rows", 4, 3))
    with pytest.raises(InputError, match="fewer than the 4 queries"):
        split(rows, 4, a_recipe())


@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_an_epoch_deals_each_row_of_the_queries_once_but_for_an_unfilled_batch(group):
    deal = Deal(STARTS, np.array([0, 2, 3], np.int64), pairs=max(group, 2), group=group, seed=5)
    rows = [row for batch in deal.batches(0) for row in batch]
    assert len(rows) == len(set(rows))
    assert set(rows) <= {0, 1, 2, *range(4, 9), *range(9, 15)}
    assert 14 - len(rows) <= deal.left_out < max(group, 2) * group
    assert len(list(deal.batches(0))) == len(deal)


def test_batches_hold_whole_groups_of_one_query():
    owner = np.repeat(np.arange(5), np.diff(STARTS))
    deal = Deal(STARTS, np.arange(5), pairs=6, group=3, seed=5)
    for epoch in range(3):
        for batch in deal.batches(epoch):
            edges = runs([str(owner[row]) for row in batch], 3)
            for start, end in pairwise(edges):
                assert len({owner[row] for row in batch[start:end]}) == 1
                assert end - start <= 3


def test_epochs_differ_and_a_seed_repeats_them():
    deal, again = (Deal(STARTS, np.arange(5), 4, 2, seed=5) for _ in range(2))
    assert list(deal.batches(0)) == list(again.batches(0))
    assert list(deal.batches(0)) != list(deal.batches(1))


def test_runs_end_where_the_query_changes_and_where_a_group_is_full():
    assert runs(["a", "a", "a", "b", "c", "c"], 2).tolist() == [0, 2, 3, 4, 6]
    assert runs(["a", "a"], 1).tolist() == [0, 1, 2]
