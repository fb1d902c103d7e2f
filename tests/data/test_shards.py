"""Folders of parquet shards: whole shards or none, one kind, one identity, and errors that name the file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runoff.contracts import InputError
from runoff.data.shards import Place, Shards
from standin_disk import mounted_disk

pa = pytest.importorskip("pyarrow")

SCHEMA = pa.schema([pa.field("name", pa.string()), pa.field("number", pa.int32())])


def filled(folder: Path, counts: tuple[int, ...] = (3, 2)) -> Shards:
    shards = Shards(folder, "things")
    shards.begin({"from": "here"})
    row = 0
    for number, count in enumerate(counts):
        rows = range(row, row + count)
        shards.write(number, {"name": [f"n{i}" for i in rows], "number": list(rows)}, SCHEMA)
        row += count
    return shards


def test_rows_come_back_in_order_with_their_places(tmp_path: Path) -> None:
    shards = filled(tmp_path / "out")
    read = [
        (place, batch.column("number").to_pylist()) for place, batch in shards.batches(["number"], rows=2)
    ]
    first, second = shards.files()
    assert read == [(Place(first, 0), [0, 1]), (Place(first, 2), [2]), (Place(second, 0), [3, 4])]
    assert str(Place(first, 2)).endswith("part-00000.parquet, row 2")


def test_a_folder_is_complete_only_when_it_says_so(tmp_path: Path) -> None:
    shards = filled(tmp_path / "out")
    with pytest.raises(InputError, match=r"not finished.*goes on"):
        shards.checked()
    shards.finish({"counts": {"rows": 5}})
    assert shards.checked()["counts"] == {"rows": 5}


def test_a_draft_that_a_kill_left_is_not_read(tmp_path: Path) -> None:
    shards = filled(tmp_path / "out")
    (tmp_path / "out" / ".part-00002.parquet.77.draft").write_bytes(b"half")
    assert len(shards.files()) == 2


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    shards = filled(tmp_path / "out")
    assert shards.begin({"from": "here"})["identity"] == {"from": "here"}
    with pytest.raises(InputError, match="begun with from 'here', now 'there'"):
        shards.begin({"from": "there"})
    with pytest.raises(InputError, match=r"expected a folder of others, .* is one of things"):
        Shards(tmp_path / "out", "others").manifest()


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(InputError, match=r"empty or new folder .* other files"):
        Shards(tmp_path, "things").begin({})
    with pytest.raises(InputError, match=r"expected a folder of things .* found none"):
        Shards(tmp_path / "nowhere", "things").manifest()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("damage", ["cut", "other bytes"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    shards = filled(tmp_path / "out")
    path = shards.path(1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"PAR1" + b"x" * 40)
    with pytest.raises(InputError, match=r"part-00001\.parquet cannot be read .*Delete it"):
        list(shards.batches(["name"]))
    with pytest.raises(InputError, match="lacks colour and has name, number"):
        list(shards.batches(["name", "colour"]))


def test_a_full_disk_is_told_and_leaves_no_half_shard(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", mebibytes=1) as disk:
        shards = Shards(disk / "out", "things")
        shards.begin({})
        names = [random.Random(number).randbytes(100).hex() for number in range(20_000)]
        with pytest.raises(OSError, match=r"No space left.*part-00000\.parquet"):
            shards.write(0, {"name": names, "number": range(20_000)}, SCHEMA)
        assert [path.name for path in (disk / "out").iterdir()] == ["manifest.json"]
