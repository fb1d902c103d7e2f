"""Which files of a folder are read, and how several sources keep apart."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runoff.contracts import BadRow, Document, InputError
from runoff.data.folders import names_apart
from runoff.data.formats import read_documents, read_sources


def documents(path: Path) -> list[Document]:
    records = list(read_documents(path))
    assert all(isinstance(each, Document) for each in records), records
    return records  # type: ignore[return-value]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"words of {name}")


def test_a_folder_is_read_deeply_and_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.txt", ".git/config.txt", ".hidden.txt", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"id": "j", "text": "line"}' if name == "c.jsonl" else "words here")
    assert [(each.id, each.source) for each in documents(tmp_path)][:3] == [
        ("a/y.txt#1", "a/y.txt"),
        ("a/z.md#1", "a/z.md"),
        ("b.txt#1", "b.txt"),
    ]
    assert [each.id for each in documents(tmp_path)][3:] == ["j"]


def test_links_in_circles_end_and_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("words")
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    records = list(read_documents(tmp_path))
    assert [each.id for each in records if isinstance(each, Document)] == ["deep/a.txt#1"]
    faults = [str(each) for each in records if isinstance(each, BadRow)]
    assert [fault.split(": ")[0] for fault in faults] == [
        str(tmp_path / "gone.txt"),
        str(tmp_path / "pipe.txt"),
    ]


def test_a_folder_that_may_not_be_read_is_a_bad_row_among_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "open.txt").write_text("words")
    iterdir = Path.iterdir

    def refused(self: Path) -> Iterator[Path]:
        if self.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    bad, good = read_documents(tmp_path)
    assert str(bad) == f"{tmp_path / 'locked'}: the folder cannot be read: Permission denied"
    assert good.id == "open.txt#1"  # type: ignore[union-attr]


def test_folders_that_link_to_each_other_are_read_once_on_every_way_down(tmp_path: Path) -> None:
    write(tmp_path, "a/one.txt", "b/two.txt")
    (tmp_path / "a" / "l").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "l").symlink_to(tmp_path / "a", target_is_directory=True)
    ids = [each.id for each in documents(tmp_path)]
    assert ids == ["a/l/two.txt#1", "a/one.txt#1", "b/l/one.txt#1", "b/two.txt#1"]


def test_an_index_among_the_documents_is_passed_over(tmp_path: Path) -> None:
    write(
        tmp_path, "notes/a.txt", "notes/my.index/runoff-index.json", "notes/my.index/documents.lance/x.lance"
    )
    assert [each.id for each in documents(tmp_path / "notes")] == ["a.txt#1"]


# --- several sources -----------------------------------------------------------------------------------------


def test_files_of_one_name_in_two_sources_keep_apart(tmp_path: Path) -> None:
    write(tmp_path, "p/notes.txt", "q/notes.txt", "q/deep/notes.txt")
    found = list(read_sources([tmp_path / "p", tmp_path / "q"]))
    assert [(each.id, each.source) for each in found if isinstance(each, Document)] == [
        ("p/notes.txt#1", "p/notes.txt"),
        ("q/deep/notes.txt#1", "q/deep/notes.txt"),
        ("q/notes.txt#1", "q/notes.txt"),
    ]
    files = [tmp_path / "p" / "notes.txt", tmp_path / "q" / "notes.txt"]
    assert [each.id for each in read_sources(files) if isinstance(each, Document)] == [
        "p/notes.txt#1",
        "q/notes.txt#1",
    ]


def test_records_keep_their_own_ids_whatever_else_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "own", "text": "words"}')
    write(tmp_path, "b.txt")
    found = read_sources([tmp_path / "a.jsonl", tmp_path / "b.txt"])
    assert [each.id for each in found if isinstance(each, Document)] == ["own", "b.txt#1"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/home/notes", "/home/more"], ["notes", "more"]),
        (["/home/notes", "/office/notes", "/office/x"], ["home/notes", "office/notes", "x"]),
        (["/notes", "/office/notes"], ["/notes", "office/notes"]),
        (["/home/notes", "/home/notes/"], ["notes", "notes"]),
    ],
)
def test_a_name_is_as_much_of_the_end_of_a_path_as_tells_it_apart(paths: list[str], names: list[str]) -> None:
    assert names_apart([Path(path) for path in paths]) == names


def test_the_folder_one_is_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_apart([Path("."), Path("x")]) == [tmp_path.name, "x"]


def test_an_empty_source_among_others_is_a_bad_row_and_all_empty_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty").mkdir()
    empty = [tmp_path / "empty.jsonl", tmp_path / "empty"]
    first, good, last = read_sources([empty[0], tmp_path / "a.txt", empty[1]])
    assert good.id == "a.txt#1"  # type: ignore[union-attr]
    for path, row in zip(empty, (first, last), strict=True):
        assert str(row).startswith(f"{path}: no documents found in it: expected records")
    with pytest.raises(InputError, match=r"no documents found in .*empty\.jsonl, .*empty: expected records"):
        list(read_sources(empty))


def test_a_source_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    with pytest.raises(InputError, match=r"at .*nowhere, found nothing"):
        read_sources([tmp_path / "a.txt", tmp_path / "nowhere"])
