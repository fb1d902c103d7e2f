"""A folder of parquet shards with a manifest: written shard by shard, each whole or not at all, read as a stream.

    FOLDER/manifest.json        what the rows are, and made from what: `identity`; `complete` and counts at the end
    FOLDER/part-00000.parquet   the first rows, and so on

A shard that a kill cut short has a draft's name and is never read.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runoff.contracts import InputError, MissingExtraError
from runoff.data.atomic import new_file, replace_file
from runoff.data.disk import disk_remedy

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"


class Place(NamedTuple):
    """Where a row stands: its shard's file and its number there, from 0."""

    file: Path
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


class Shards:
    """The shards of one folder, of one kind ("candidates", "scores", "labels")."""

    def __init__(self, folder: str | Path, kind: str) -> None:
        self.folder = Path(folder)
        self.kind = kind

    @classmethod
    def found(cls, folder: str | Path, kinds: Sequence[str]) -> Shards:
        """The shards of a folder that is one of these kinds; `InputError` for any other."""
        shards = cls(folder, " or ".join(kinds))
        kind = str(shards._read().get("kind"))
        if kind not in kinds:
            shards._refused(kind)
        return cls(folder, kind)

    # --- manifest ------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """What the folder's manifest says. `InputError` where there is none, or of another kind."""
        found = self._read()
        if found.get("kind") != self.kind:
            self._refused(found.get("kind"))
        return found

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"expected a folder of {self.kind} at {self.folder}, found none (no {MANIFEST} in it)"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}. Make the folder anew.") from error
        return found if isinstance(found, dict) else {}

    def _refused(self, kind: object) -> NoReturn:
        raise InputError(
            f"expected a folder of {self.kind}, {self.folder} is one of {kind or 'nothing known'}"
        )

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a folder that is begun, or gone on with if it was begun with the same `identity`.

        Raises `InputError` for a folder that holds something else, or the same made otherwise.
        """
        if (self.folder / MANIFEST).exists():
            found = self.manifest()
            wanted = json.loads(json.dumps(identity))
            before = found.get("identity", {})
            differing = sorted(name for name in {*wanted, *before} if wanted.get(name) != before.get(name))
            if differing:
                shown = ", ".join(
                    f"{name} {before.get(name)!r}, now {wanted.get(name)!r}" for name in differing
                )
                raise InputError(
                    f"{self.folder} was begun with {shown}. Give the same again to go on, or another folder."
                )
            return found
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"expected an empty or new folder at {self.folder}, found other files in it")
        manifest = {"kind": self.kind, "identity": dict(identity), "complete": False}
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._write(manifest)
        return manifest

    def note(self, facts: Mapping[str, Any]) -> None:
        """Writes facts down in the manifest of a folder that is not complete yet."""
        self._write({**self.manifest(), "complete": False, **facts})

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Marks the folder as complete, with its counts."""
        self._write({**self.manifest(), "complete": True, **counts})

    def checked(self) -> dict[str, Any]:
        """The manifest of a folder that is complete; `InputError` for one that is not."""
        manifest = self.manifest()
        if not manifest.get("complete"):
            raise InputError(
                f"{self.folder} is not finished: run the command that makes it again, it goes on"
            )
        return manifest

    def _write(self, manifest: Mapping[str, Any]) -> None:
        with _disk(self.folder):
            replace_file(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    # --- shards --------------------------------------------------------------------------------------

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def files(self) -> list[Path]:
        """The whole shards, in order."""
        return sorted(self.folder.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))

    def next_number(self) -> int:
        """The number behind the last shard's, also where one between was deleted."""
        files = self.files()
        return int(files[-1].stem.removeprefix("part-")) + 1 if files else 0

    def write(self, number: int, columns: Mapping[str, Any], schema: pa.Schema) -> None:
        """Shard `number` in one step; the disk has it when this returns."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        path = self.path(number)
        with _disk(path), new_file(path) as draft:
            parquet.write_table(pa.table(dict(columns), schema=schema), draft, compression="zstd")

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 8192, files: Sequence[Path] | None = None
    ) -> Iterator[tuple[Place, pa.RecordBatch]]:
        """Each shard's rows (or those of `files` alone) in batches of at most `rows`, with the place of the first.

        `InputError` names the shard that cannot be read, or lacks a column.
        """
        parquet = parquet_module()
        import pyarrow as pa

        for file in self.files() if files is None else files:
            first = 0
            try:
                with parquet.ParquetFile(file) as opened:
                    names = opened.schema_arrow.names
                    if missing := [name for name in columns or () if name not in names]:
                        raise InputError(
                            f"{file}: expected the columns {', '.join(columns or ())}; it lacks "
                            f"{', '.join(missing)} and has {', '.join(names)}"
                        )
                    for batch in opened.iter_batches(rows, columns=list(columns) if columns else None):
                        yield Place(file, first), batch
                        first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"{file} cannot be read (from row {first} on): {error}. Delete it and run the command that makes "
                    "the folder again."
                ) from error


def parquet_module() -> Any:
    """pyarrow.parquet; `MissingExtraError` where it is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("distilling needs pyarrow: pip install 'runoff[search]'") from error
    return parquet


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Names the file in what a disk refuses, which pyarrow leaves out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and disk_remedy(str(error)):
            raise OSError(error.errno or errno.EIO, str(error.strerror or error), str(path)) from error
        raise
