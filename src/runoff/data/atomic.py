"""Files that are either the old ones or the new ones, whole, whenever the process dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) in the place of `path` in one step, and waits until the disk has it."""
    with new_file(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file's name to write to, which takes the place of `path`, whole and on the disk, when all went well, and is
    gone otherwise."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path`, whole, when all went well, and is gone otherwise."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    draft.mkdir(parents=True)
    try:
        yield draft
        sync_folder(draft)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(draft, path)
        except BaseException:
            if old.exists():
                os.rename(old, path)
            raise
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Waits until the folder's own entries (a rename is one) are on the disk; a no-op on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
