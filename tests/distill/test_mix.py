"""Mixing: exact counts, whole queries, the same rows however they are read, and nothing half-made taken for whole."""

from __future__ import annotations

import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import runoff
from runoff.checkpoint.hub import HubDatasets
from runoff.contracts import InputError
from runoff.data.mixture import Mixture, RowColumns, Subset, find_mixture
from runoff.data.sampling import BandRule
from runoff.data.shards import Shards
from runoff.distill.labels import Parts, label
from runoff.distill.mix import mix
from runoff.distill.mixed import MixReport
from runoff.distill.sample import sample
from runoff.distill.teacher import teach
from standin_distil import candidates
from standin_mixture import DATASET, Row, many_rows, write_dataset, write_jsonl, write_mixture, write_parquet

pa = pytest.importorskip("pyarrow")

HERE = Path(__file__).parent


def mixed(folder: Path) -> list[Row]:
    return [row for _, batch in Shards(folder, "labels").batches() for row in batch.to_pylist()]


def one(tmp_path: Path, rows: Sequence[Row] | None = None, **keys: Any) -> Mixture:
    """A mixture of one subset, its rows in one parquet file (None: it lies there already)."""
    if rows is not None:
        write_parquet(tmp_path / "a" / "rows.parquet", rows)
    return Mixture("ours", (Subset("a", folder="a", **keys),), base=tmp_path)


def labels_of(folder: Path) -> list[int]:
    return [int(row["label"]) for row in mixed(folder)]


def refused(mixture: Mixture, out: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        mix(mixture, out)
    with pytest.raises(InputError):
        Shards(out, "labels").checked()


@pytest.fixture
def two(tmp_path: Path) -> Mixture:
    """Two subsets of several files: 100 rows of 4 a query in parquet and jsonl, 70 in csv and gzipped jsonl."""
    first = many_rows(100, "a", group=4)
    write_parquet(tmp_path / "a" / "1.parquet", first[:40])
    write_jsonl(tmp_path / "a" / "2.jsonl", first[40:50])
    write_parquet(tmp_path / "a" / "3" / "more.parquet", first[50:])
    second = many_rows(70, "b")
    lines = [
        "query,document,label",
        *(f"{row['query']},{row['document']},{row['label']}" for row in second[:30]),
    ]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with gzip.open(tmp_path / "b" / "2.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in second[30:])
    path = write_mixture(
        tmp_path / "two.json",
        [
            {"name": "a", "folder": "a", "cap": 41, "weight": 2.5, "licence": "mit"},
            {"name": "b", "folder": "b", "weight": 0.5, "held_out": 9, "remark": "its tail is held out"},
        ],
    )
    return find_mixture(path)


# --- what is taken -----------------------------------------------------------------------------------------


def test_counts_are_exact_and_the_manifest_tells_them(two: Mixture, tmp_path: Path) -> None:
    heard: list[int] = []
    report = mix(two, tmp_path / "out", advance=heard.append)
    assert [(each.name, each.seen, each.taken, each.held_out, each.licence) for each in report.subsets] == [
        ("a", 100, 103, 0, "mit"),  # 41 x 2.5 = 102.5
        ("b", 70, 31, 9, None),  # (70 - 9) / 2 = 30.5
    ]
    assert (report.pairs, report.held_out, sum(heard)) == (134, 9, 134)
    rows = mixed(tmp_path / "out")
    assert [row["subset"] for row in rows] == ["a"] * 103 + ["b"] * 31
    times = Counter(row["document"] for row in rows if row["subset"] == "a")
    assert sorted(times.values()) == [2] * 20 + [3] * 21
    assert max(Counter(row["document"] for row in rows if row["subset"] == "b").values()) == 1
    assert all(row["grade"] is None and row["rank"] is None for row in rows)
    manifest = Shards(tmp_path / "out", "labels").checked()
    assert manifest["counts"] == {"pairs": 134, "held_out": 9}
    assert manifest["columns"] == [
        "query_id",
        "query",
        "document_id",
        "document",
        "grade",
        "rank",
        "label",
        "subset",
    ]
    assert manifest["mixture"]["subsets"][1]["remark"] == "its tail is held out"
    files = manifest["subsets"]["a"]["files"]
    assert [each["file"] for each in files] == ["1.parquet", "2.jsonl", "3/more.parquet"]
    content = (tmp_path / "a" / "2.jsonl").read_bytes()
    assert files[1] == {
        "file": "2.jsonl",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert manifest["mean"] == pytest.approx(report.mean)
    assert report.mean == pytest.approx(sum(row["label"] for row in rows) / 134)


def test_the_tail_is_held_out_in_a_folder_of_its_own(two: Mixture, tmp_path: Path) -> None:
    mix(two, tmp_path / "out")
    held = mixed(tmp_path / "out" / "held-out")
    assert [row["label"] for row in held] == list(range(61, 70))
    assert {row["subset"] for row in held} == {"b"}
    trained = {row["document"] for row in mixed(tmp_path / "out") if row["subset"] == "b"}
    assert not trained & {row["document"] for row in held}
    assert Shards(tmp_path / "out" / "held-out", "labels").checked()["counts"] == {"pairs": 9}


def test_a_mixture_that_holds_nothing_out_has_no_such_folder(tmp_path: Path) -> None:
    mix(one(tmp_path, many_rows(5)), tmp_path / "out")
    assert not (tmp_path / "out" / "held-out").exists()
    assert labels_of(tmp_path / "out") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_the_same_rows_whatever_is_read_at_a_time(two: Mixture, tmp_path: Path, batch: int) -> None:
    mix(two, tmp_path / "whole", shard_rows=16)
    mix(two, tmp_path / "parts", shard_rows=16, batch_rows=batch)
    assert mixed(tmp_path / "parts") == mixed(tmp_path / "whole")
    assert len(Shards(tmp_path / "parts", "labels").files()) == len(
        Shards(tmp_path / "whole", "labels").files()
    )


@pytest.mark.parametrize(
    ("cap", "weight", "count"), [(None, 1.0, 50), (20, 1.0, 20), (99, 1.0, 50), (None, 0.1, 5)]
)
def test_caps_and_fractions_draw_exactly(tmp_path: Path, cap: int | None, weight: float, count: int) -> None:
    mix(one(tmp_path, many_rows(50), cap=cap, weight=weight), tmp_path / "out")
    found = labels_of(tmp_path / "out")
    assert found == sorted(set(found))  # in their order, each once
    assert len(found) == count


def test_a_weight_of_2_takes_every_row_twice_under_two_query_ids(tmp_path: Path) -> None:
    mix(one(tmp_path, many_rows(6, group=3), weight=2.0), tmp_path / "out")
    rows = mixed(tmp_path / "out")
    assert [row["label"] for row in rows] == [0, 1, 2, 3, 4, 5] * 2
    assert len({row["query_id"] for row in rows}) == 4
    assert len({row["document_id"] for row in rows}) == 6


def test_another_seed_draws_others_and_the_same_the_same(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "rows.parquet", many_rows(200))
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        mixture = Mixture("ours", (Subset("a", folder="a", cap=50),), seed=seed, base=tmp_path)
        mix(mixture, tmp_path / f"out{number}")
        drawn.append(labels_of(tmp_path / f"out{number}"))
    assert drawn[0] == drawn[1] != drawn[2]


# --- queries -------------------------------------------------------------------------------------------------


def test_a_query_stays_in_one_shard(tmp_path: Path) -> None:
    mix(one(tmp_path, many_rows(100, group=7)), tmp_path / "out", shard_rows=10, batch_rows=4)
    shards = Shards(tmp_path / "out", "labels")
    whole = [
        [row["query_id"] for _, batch in shards.batches(files=[file]) for row in batch.to_pylist()]
        for file in shards.files()
    ]
    assert [len(ids) for ids in whole] == [14] * 7 + [2]
    assert sum(len(set(ids)) for ids in whole) == len({id for ids in whole for id in ids}) == 15


@pytest.mark.parametrize(
    ("cap", "weight", "count"), [(30, 1.0, 28), (None, 0.5, 49), (30, 1.5, 42), (6, 1.0, 0)]
)
def test_whole_queries_can_be_drawn(tmp_path: Path, cap: int | None, weight: float, count: int) -> None:
    mixture = one(tmp_path, many_rows(100, group=7), cap=cap, weight=weight, draw="queries", held_out=2)
    if not count:
        refused(mixture, tmp_path / "out", r"of its 98 rows, a cap of 6 .* take none \(drawing queries\)")
        return
    mix(mixture, tmp_path / "out", batch_rows=5)
    rows = mixed(tmp_path / "out")
    assert len(rows) == count
    assert set(Counter(row["query_id"] for row in rows).values()) == {7}


def test_a_query_longer_than_any_list_is_cut(tmp_path: Path) -> None:
    mix(one(tmp_path, many_rows(100, group=100)), tmp_path / "out", shard_rows=10)
    shards = Shards(tmp_path / "out", "labels")
    assert [sum(batch.num_rows for _, batch in shards.batches(files=[file])) for file in shards.files()] == [
        40,
        40,
        20,
    ]


def test_ids_are_the_source_s_with_the_subset_in_front(tmp_path: Path) -> None:
    rows = [{**row, "query_id": 7, "document_id": f"d{number}"} for number, row in enumerate(many_rows(3))]
    mix(one(tmp_path, rows), tmp_path / "out")
    assert [(row["query_id"], row["document_id"]) for row in mixed(tmp_path / "out")] == [
        ("a/7", "a/d0"),
        ("a/7", "a/d1"),
        ("a/7", "a/d2"),
    ]


def test_columns_of_other_names_and_types_are_read(tmp_path: Path) -> None:
    rows = [
        {"asked": row["query"], "text": row["document"], "similarity": int(row["label"])}
        for row in many_rows(4)
    ]
    mix(one(tmp_path, rows, columns=RowColumns(query="asked")), tmp_path / "out")
    assert labels_of(tmp_path / "out") == [0, 1, 2, 3]


class Lengths:
    name = "lengths"

    def score_pairs(self, pairs: Any) -> Any:
        import numpy as np

        return np.array([len(query) + len(document) / 7 for query, document in pairs], np.float32)


def test_what_label_wrote_is_mixed_with_grades_and_sampled_with_its_subset(tmp_path: Path) -> None:
    pairs = [(f"query {number // 10}", "word " * (number % 10 + 1)) for number in range(40)]
    grades = [1 if number % 10 == 3 else None for number in range(40)]
    candidates(tmp_path / "cand", pairs, shard=20, grades=grades)
    teach(tmp_path / "cand", Lengths(), tmp_path / "scores")
    label(tmp_path / "cand", Parts({str(tmp_path / "scores"): 1.0}), tmp_path / "rows")
    write_parquet(tmp_path / "a" / "rows.parquet", many_rows(6, group=3))
    subsets = (Subset("own", folder="rows"), Subset("a", folder="a"))
    mix(Mixture("ours", subsets, base=tmp_path), tmp_path / "out")
    rows = mixed(tmp_path / "out")
    source = mixed(tmp_path / "rows")
    assert [(row["grade"], row["rank"], row["label"]) for row in rows[:40]] == [
        (row["grade"], row["rank"], row["label"]) for row in source
    ]
    report = sample(tmp_path / "out", tmp_path / "few", BandRule(2, 1))
    assert (report.queries, report.positives) == (6, 4)
    few = mixed(tmp_path / "few")
    assert [row for row in rows if row in few] == few
    assert {row["subset"] for row in few} == {"own", "a"}
    assert sample(tmp_path / "few", tmp_path / "fewer", BandRule(1, 0)).queries == 6
    assert {row["subset"] for row in mixed(tmp_path / "fewer")} == {"own", "a"}


# --- bad input -----------------------------------------------------------------------------------------------


def changed(row: int, **values: Any) -> list[Row]:
    rows = many_rows(30)
    rows[row] = {**rows[row], **values}
    return rows


BAD = [
    (changed(7, label=float("nan")), r"row 7: expected a finite number as the label, got not a number"),
    (changed(8, label=None), "row 8: expected a finite number as the label, got none"),
    (changed(9, label=1e300), r"row 9: expected a finite number as the label, got inf \(as float32\)"),
    (changed(10, document=" \n"), r"row 10: expected a text as the document, got ' \\n'"),
    (changed(11, query=""), "row 11: expected a text as the query, got ''"),
    (changed(12, document=None), "row 12: expected a text as the document, got None"),
]


@pytest.mark.parametrize(("rows", "match"), BAD, ids=[match.split(":")[0] for _, match in BAD])
def test_a_bad_row_of_parquet_is_named(tmp_path: Path, rows: list[Row], match: str) -> None:
    refused(one(tmp_path, rows), tmp_path / "out", rf"subset a: .*rows\.parquet, {match}")


BAD_LINES = [
    ('{"query": "q", "document": "d", "label": "high"}', "line 4: expected a number as 'label', got 'high'"),
    ('{"query": "q", "document": "d", "label": true}', "line 4: expected a number as 'label', got True"),
    ('{"query": "q", "document": "d", "label": NaN}', "line 4: expected a finite number .* got not a number"),
    (
        '{"query": "q", "document": "d"}',
        "line 4: no column 'label', which the first has; it has query, document",
    ),
    ('{"query": "q", "document": 3, "label": 1}', "line 4: expected text as 'document', got 3"),
    ('{"query": "q", "document": "\\ud800", "label": 1}', "line 4: half a character"),
    ('{"query": "q", "document": "", "label": 1}', "line 4: expected a text as the document, got ''"),
    ("not json", "line 4: not JSON"),
]


@pytest.mark.parametrize(("line", "match"), BAD_LINES, ids=[match for _, match in BAD_LINES])
def test_a_bad_line_is_named(tmp_path: Path, line: str, match: str) -> None:
    good = [json.dumps(row) for row in many_rows(3)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rows.jsonl").write_text("\n".join([*good, line]) + "\n", encoding="utf-8")
    refused(one(tmp_path), tmp_path / "out", rf"subset a: .*rows\.jsonl, {match}")


def test_a_file_without_a_column_is_named_also_where_another_has_it(tmp_path: Path) -> None:
    rows = many_rows(4)
    write_parquet(tmp_path / "a" / "1.parquet", rows)
    write_parquet(tmp_path / "a" / "2.parquet", [{"query": "q", "label": 3.0}])
    refused(
        one(tmp_path),
        tmp_path / "out",
        r"2\.parquet: no column for the document: .* the file has query, label",
    )
    write_parquet(tmp_path / "a" / "2.parquet", [{**rows[0], "label": "much"}])
    refused(one(tmp_path), tmp_path / "other", r"2\.parquet: the column 'label' holds string, expected float")


def test_nothing_is_learned_from_one_label(tmp_path: Path) -> None:
    rows = [{**row, "label": 2.5} for row in many_rows(9)]
    refused(one(tmp_path, rows), tmp_path / "out", r"rows.parquet: all 9 labels of the subset.* are 2.5")
    assert not Shards(tmp_path / "out", "labels").files()


def test_a_subset_without_rows_or_place_is_named(tmp_path: Path) -> None:
    refused(one(tmp_path), tmp_path / "1", r"subset a: no folder .*a\. Mend the path")
    (tmp_path / "a").mkdir()
    refused(one(tmp_path), tmp_path / "2", "subset a: .* has no parquet, jsonl or csv file")
    (tmp_path / "a" / "rows.jsonl").touch()
    refused(one(tmp_path), tmp_path / "3", "rows.jsonl: no row in it, nor in any other file")
    few = many_rows(4)
    refused(
        one(tmp_path, few, held_out=4), tmp_path / "4", "it has 4 rows and 4 are to be held out: none is left"
    )
    refused(
        one(tmp_path, few, weight=0.1),
        tmp_path / "5",
        "of its 4 rows, a cap of 4 and a weight of 0.1 take none",
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    mixture = one(tmp_path, many_rows(100))
    path = tmp_path / "a" / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    refused(mixture, tmp_path / "out", r"rows\.parquet cannot be read from row 0 on: .*Copy it again")
    write_parquet(tmp_path / "a" / "x-00001-of-00003.parquet", many_rows(3))
    refused(
        mixture, tmp_path / "other", r"of the 3 files x-...-of-00003, 2 are missing, the first is number 0"
    )


def test_a_folder_of_candidates_or_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    candidates(tmp_path / "a", [("q", "d")])
    refused(one(tmp_path), tmp_path / "out", "expected a folder of labels, .* is one of candidates")
    begun = Shards(tmp_path / "b", "labels")
    begun.begin({})
    mixture = Mixture("ours", (Subset("b", folder="b"),), base=tmp_path)
    refused(mixture, tmp_path / "other", "subset b: .* is not finished")


# --- stopped and gone on with ----------------------------------------------------------------------------------


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.rglob("part-*"))}


def test_what_is_finished_is_not_made_again(two: Mixture, tmp_path: Path) -> None:
    first = mix(two, tmp_path / "out", shard_rows=20)
    before = times(tmp_path / "out")
    assert mix(two, tmp_path / "out", shard_rows=20) == first
    assert times(tmp_path / "out") == before


def test_a_subset_that_fails_leaves_those_before_it_and_goes_on_when_mended(
    two: Mixture, tmp_path: Path
) -> None:
    good = (tmp_path / "b" / "2.jsonl.gz").read_bytes()
    (tmp_path / "b" / "2.jsonl.gz").write_bytes(good[:-30])
    refused(two, tmp_path / "out", r"subset b: .*2\.jsonl\.gz cannot be read .*Was it cut short")
    before = times(tmp_path / "out")
    assert before
    (tmp_path / "b" / "2.jsonl.gz").write_bytes(good)
    with pytest.raises(
        InputError, match=r"subset b: 1 of its files are not as they were .* first is 2.jsonl.gz"
    ):
        mix(two, tmp_path / "out")
    mix(two, tmp_path / "new")
    assert times(tmp_path / "out") == before


def test_a_shard_that_was_deleted_is_made_again_alone(two: Mixture, tmp_path: Path) -> None:
    mix(two, tmp_path / "out", shard_rows=20)
    rows, before = mixed(tmp_path / "out"), times(tmp_path / "out")
    Shards(tmp_path / "out", "labels").path(2).unlink()
    mix(two, tmp_path / "out", shard_rows=20)
    assert mixed(tmp_path / "out") == rows
    assert [name for name, time in times(tmp_path / "out").items() if before[name] != time] == [
        "part-00002.parquet"
    ]


def test_another_mixture_seed_or_source_is_not_gone_on_with(two: Mixture, tmp_path: Path) -> None:
    mix(two, tmp_path / "out")
    with pytest.raises(InputError, match="was begun with mixture"):
        mix(two.only(["a"]), tmp_path / "out")
    write_jsonl(tmp_path / "a" / "2.jsonl", many_rows(10, "c"))
    with pytest.raises(
        InputError, match=r"subset a: 1 of its files are not as they were .* the first is 2.jsonl"
    ):
        mix(two, tmp_path / "out")


def test_a_killed_run_goes_on_and_makes_the_same(two: Mixture, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(HERE / "killed_mixer.py"),
        str(tmp_path / "two.json"),
        str(tmp_path / "out"),
    ]
    place = {"PYTHONPATH": str(Path(runoff.__file__).parents[1]), "PATH": ""}
    killed = 0
    for shards in (1, 4, 6):
        run = subprocess.Popen(command, env=place, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("part-*.parquet"))) < shards and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        with pytest.raises(InputError, match=r"not finished.*goes on"):
            Shards(tmp_path / "out", "labels").checked()
    assert killed == 3
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
    assert done.stdout == "134 9\n"
    mix(two, tmp_path / "whole", shard_rows=20)
    for folder in ("", "held-out"):
        assert mixed(tmp_path / "out" / folder) == mixed(tmp_path / "whole" / folder)
    assert len(Shards(tmp_path / "out", "labels").files()) == len(
        Shards(tmp_path / "whole", "labels").files()
    )


def peak_of_mixing(tmp_path: Path, count: int) -> int:
    """Bytes of arrows and of Python at most while so many rows of 1 KB are mixed."""
    rows = [{**row, "document": "word " * 200 + str(row["label"])} for row in many_rows(count)]
    write_parquet(tmp_path / str(count) / "rows.parquet", rows)
    del rows
    pool, seen = pa.default_memory_pool(), [0]
    base = pool.bytes_allocated()

    def look(_count: int) -> None:
        seen.append(pool.bytes_allocated() - base)

    mixture = Mixture("ours", (Subset("a", folder=str(count)),), base=tmp_path)
    tracemalloc.start()
    mix(mixture, tmp_path / f"out{count}", shard_rows=1000, batch_rows=500, advance=look)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(seen) + peak


def test_memory_does_not_grow_with_a_subset(tmp_path: Path) -> None:
    peak_of_mixing(tmp_path, 1000)  # what is imported and kept on a first call
    few, many = (peak_of_mixing(tmp_path, count) for count in (4_000, 16_000))
    assert many < 1.3 * few  # of 4 and 16 MB


# --- the hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A dataset in the hub's layout: quora in two files with a split to hold out, npr in one."""
    quora = many_rows(20, "quora")
    return write_dataset(
        tmp_path / "copy",
        {
            "quora": {"train": [quora[:12], quora[12:]], "validation": [many_rows(5, "held")]},
            "npr": {"train": [many_rows(8, "npr")]},
        },
    )


def of_the_hub(*subsets: Subset, **keys: Any) -> Mixture:
    return Mixture("ours", subsets, **keys)


def report_of(mixture: Mixture, out: Path, copy: Path) -> MixReport:
    return mix(mixture, out, HubDatasets({DATASET: copy}))


def test_a_dataset_s_own_split_is_held_out_instead_of_the_tail(tmp_path: Path, copy: Path) -> None:
    quora = Subset("quora", dataset=DATASET, held_out=5, held_out_split="validation")
    report = report_of(of_the_hub(quora), tmp_path / "out", copy)
    assert [(each.seen, each.taken, each.held_out, each.licence) for each in report.subsets] == [
        (25, 20, 5, "apache-2.0")
    ]
    assert {row["document"][:4] for row in mixed(tmp_path / "out" / "held-out")} == {"held"}
    for path in (copy / "quora").glob("validation*"):
        path.unlink()
    report = report_of(of_the_hub(quora), tmp_path / "tail", copy)
    assert [(each.seen, each.taken, each.held_out) for each in report.subsets] == [(20, 15, 5)]
    assert [row["label"] for row in mixed(tmp_path / "tail" / "held-out")] == [15, 16, 17, 18, 19]


def test_a_split_of_another_size_or_none_is_refused(tmp_path: Path, copy: Path) -> None:
    for name, keys, match in (
        ("quora", {"held_out": 6}, "the split 'validation' has 5 rows, expected 6 to hold out"),
        ("npr", {}, "has no split 'validation' to hold out; it has train"),
    ):
        subset = Subset(name, dataset=DATASET, held_out_split="validation", **keys)
        with pytest.raises(InputError, match=rf"subset {name}: .*{match}"):
            report_of(of_the_hub(subset), tmp_path / name, copy)


def test_a_dataset_must_have_what_the_mixture_names_and_no_more(tmp_path: Path, copy: Path) -> None:
    quora, npr, other = (Subset(name, dataset=DATASET) for name in ("quora", "npr", "other"))
    for subsets, match in (
        ((quora,), "has 2 configurations and the mixture 'ours' names 1: the dataset also has npr"),
        ((quora, npr, other), "names 3: the dataset lacks other"),
    ):
        mixture = of_the_hub(*subsets, complete_of=DATASET)
        with pytest.raises(InputError, match=match):
            report_of(mixture, tmp_path / "out", copy)
        assert not (tmp_path / "out").exists()
    with pytest.raises(
        InputError, match=r"subset other: org/mixed has no configuration 'other'; it has npr, quora"
    ):
        report_of(of_the_hub(other), tmp_path / "other", copy)
    assert report_of(of_the_hub(quora, npr, complete_of=DATASET), tmp_path / "out", copy).pairs == 28


def test_the_published_mixture_is_mixed_from_a_copy(tmp_path: Path) -> None:
    mixture = find_mixture("ettin-v1")
    configs = {each.name: {"train": [many_rows(3, each.name)]} for each in mixture.subsets}
    configs["quora"]["validation"] = [many_rows(5000, "held")]
    copy = write_dataset(tmp_path / "copy", configs)
    report = mix(mixture, tmp_path / "out", HubDatasets({"cross-encoder/ettin-reranker-v1-data": copy}))
    assert (len(report.subsets), report.pairs, report.held_out) == (39, 117, 5000)
    assert [row["subset"] for row in mixed(tmp_path / "out")][::3] == [each.name for each in mixture.subsets]


def test_offline_the_subset_is_named_and_what_to_do(tmp_path: Path) -> None:
    mixture = of_the_hub(Subset("quora", dataset=DATASET))
    with pytest.raises(
        InputError, match=r"subset quora: the dataset org/mixed .*HF_HUB_OFFLINE.*--copy org/mixed="
    ):
        mix(mixture, tmp_path / "out", HubDatasets())
    with pytest.raises(InputError, match="subset quora: org/mixed is a dataset of the hub: give mix"):
        mix(mixture, tmp_path / "other")
