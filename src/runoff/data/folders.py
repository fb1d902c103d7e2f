"""Which files of a folder are read, and what several folders are called to be told apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from runoff.contracts import BadRow

# The file that makes a folder an index of ours: what lies beside it are no documents.
INDEX_MARK = "runoff-index.json"


def visible_files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path | BadRow]:
    """Files under `folder`, sorted by name within each folder, without hidden ones and those of an index.

    `above`: the real paths of the folders on the way down, which a link would lead round to for ever.
    """
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield BadRow(str(folder), None, f"the folder cannot be read: {error.strerror or error}")
        return
    if folder / INDEX_MARK in entries:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from visible_files(entry, above | {real})
        elif entry.is_file():
            yield entry
        else:
            yield BadRow(str(entry), None, "not a file that can be read (a broken link, a pipe or a device)")


def names_apart(paths: Sequence[Path]) -> list[str]:
    """A name for each path: as much of its end as no other has ("notes"; "home/notes" and "work/notes")."""
    whole = [PurePath(os.path.abspath(path)).parts for path in paths]
    return [_name_apart(own, {other for other in whole if other != own}) for own in whole]


def _name_apart(own: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    length = 1
    while length < len(own) and any(other[-length:] == own[-length:] for other in others):
        length += 1
    return PurePath(*own[-length:]).as_posix()
