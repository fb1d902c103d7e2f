"""The Lance table behind an index: one atomic commit per batch. The only module that imports lance."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from runoff.contracts import FloatArray, IndexStoreError, InputError, MissingExtraError, RunoffError
from runoff.data.disk import disk_remedy

if TYPE_CHECKING:
    import pyarrow as pa

Answer = TypeVar("Answer")

TABLE_FOLDER = "documents.lance"
LOCK_FILE = "writer.lock"
BM25_INDEX = "bm25"
ID_INDEX = "by_id"

# Lance's own defaults are 6 GiB and 1 GiB, which a search of a laptop's documents must not claim.
INDEX_CACHE_BYTES = 512 << 20
METADATA_CACHE_BYTES = 128 << 20
# Ceiling for building the full text index, MiB (Lance's default is 2 GiB per worker).
BM25_BUILD_MIB = 512
# Compaction changes row addresses, so the indices are remapped: worth it only when fragments are many.
FRAGMENTS_WORTH_COMPACTING = 16
ROWS_PER_FRAGMENT = 1 << 18
# An SQL "IN" list of this many ids parses in a few milliseconds.
IDS_PER_FILTER = 500
# More rows than a table has, fewer than the 64 bits that Lance counts with.
MOST_ROWS = 1 << 40
# What Lance says of a filter that it cannot parse, or that fails over a row.
FILTER_SIGNS = ("Invalid user input: ", "Error applying filter expression")

NOTHING_LOST = "The index still opens and holds every batch committed before this."
UNREADABLE = (
    "Nothing was changed. Check that you may read the folder; if its files are damaged or gone, restore them "
    "from a copy, or make the index anew from its sources in another folder."
)


def import_lance() -> Any:
    """The `lance` package; `MissingExtraError` where it is not installed. 0.3 s warm, 1 s cold."""
    try:
        import lance
        import lance.query
    except ImportError as error:
        raise MissingExtraError(
            f"a search index needs the package pylance ({error}). Install it: pip install 'runoff[search]'"
        ) from error
    return lance


def preload() -> None:
    """Starts importing lance in the background, for callers that have something else to load meanwhile."""

    def load() -> None:
        # Whoever opens the index gets the error, with its message.
        with suppress(MissingExtraError):
            import_lance()

    threading.Thread(target=load, name="runoff-preload-lance", daemon=True).start()


@contextmanager
def store_errors(action: str, folder: Path) -> Iterator[None]:
    """Turns what Lance and the disk raise while something is written into `IndexStoreError`."""
    with _translated(action, folder, _remedy):
        yield


@contextmanager
def read_errors(folder: Path) -> Iterator[None]:
    """Turns what Lance and the disk raise while the index is read into `IndexStoreError`."""
    with _translated("read the index", folder, lambda _said: UNREADABLE):
        yield


@contextmanager
def _translated(action: str, folder: Path, advice: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RunoffError):
            raise
        said = re.sub(r",? ?(location: )?/\S+\.rs:\d+:\d+", "", str(error)).strip()
        raise IndexStoreError(f"could not {action} at {folder}: {said}. {advice(said)}") from error


def _remedy(said: str) -> str:
    return f"{disk_remedy(said) or ''} {NOTHING_LOST}".lstrip()


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Holds the index for writing; the system lets go of it when the process dies, however it dies.

    One writer at a time is what makes it safe to clear away the files of a batch that a killed process
    left behind. Readers need no lock. Without `fcntl` (Windows) nothing is held.
    """
    try:
        file = _locked_file(folder)
    except ModuleNotFoundError:
        yield
        return
    # Not inside `store_errors`: what the caller's own work raises is not the disk's fault.
    with file:
        yield


def _locked_file(folder: Path) -> TextIO:
    import fcntl

    with store_errors("write to the index", folder):
        file = (folder / LOCK_FILE).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise IndexStoreError(
                f"another process is writing to the index at {folder}. Wait until it is done, then run the "
                "same command again; reading is possible meanwhile."
            ) from error
        return file


def id_filters(ids: Sequence[str]) -> Iterator[str]:
    """SQL filters that together match these ids."""
    for start in range(0, len(ids), IDS_PER_FILTER):
        quoted = ("'" + id.replace("'", "''") + "'" for id in ids[start : start + IDS_PER_FILTER])
        yield f"id IN ({', '.join(quoted)})"


class Table:
    """One Lance dataset, at the version last opened or written."""

    def __init__(self, folder: Path, dataset: Any) -> None:
        self.folder = folder
        self.dataset = dataset
        # What a reader does when its version's files are gone: its owner has more to read anew than this.
        self.on_moved: Callable[[], None] = self.refresh

    @classmethod
    def create(cls, folder: Path, schema: pa.Schema, language: str | None) -> Table:
        """An empty table with its full text index, which carries the analyzer from the first row on."""
        lance = import_lance()
        with store_errors("create the table", folder):
            path = folder / TABLE_FOLDER
            # What is there already is what a killed `create` left: a table with no documents.
            mode = "overwrite" if path.exists() else "create"
            dataset = lance.write_dataset(schema.empty_table(), str(path), mode=mode)
            table = cls(folder, dataset)
            table.build_bm25(language)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Table:
        lance = import_lance()
        with read_errors(folder):
            dataset = lance.dataset(
                str(folder / TABLE_FOLDER),
                index_cache_size_bytes=INDEX_CACHE_BYTES,
                metadata_cache_size_bytes=METADATA_CACHE_BYTES,
            )
        return cls(folder, dataset)

    @property
    def schema(self) -> pa.Schema:
        return self.dataset.schema

    def refresh(self) -> None:
        """Moves to the newest version, which another process may have written."""
        with read_errors(self.folder):
            self.dataset.checkout_latest()

    # --- writing -----------------------------------------------------------------------------------

    def append(self, rows: pa.Table) -> None:
        """Adds `rows` in one commit: all of them or, if anything goes wrong, none."""
        lance = import_lance()
        with store_errors("add a batch", self.folder):
            self.dataset = lance.write_dataset(rows, self.dataset, mode="append")

    def put(self, rows: pa.Table) -> tuple[int, int]:
        """Replaces the rows whose id exists and adds the others, in one commit: (added, updated)."""
        with store_errors("update a batch", self.folder):
            counts = (
                self.dataset.merge_insert("id")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(rows)
            )
            self.refresh()
        return counts["num_inserted_rows"], counts["num_updated_rows"]

    def delete_ids(self, ids: Sequence[str]) -> int:
        """Number of rows deleted; a commit per 500 ids."""
        return sum(self.delete(where) for where in id_filters(ids))

    def delete(self, where: str) -> int:
        """Number of rows deleted, in one commit."""
        with store_errors("delete documents", self.folder), self.filter_errors(where):
            return int(self.dataset.delete(where)["num_deleted_rows"])

    def add_columns(self, schema: pa.Schema) -> None:
        with store_errors("add metadata columns", self.folder):
            self.dataset.add_columns(schema)

    def replace_column(self, name: str, field: pa.Field | None, compute: Any, batch_rows: int) -> None:
        """Drops column `name`, then, where `field` is given, fills it anew: `compute(texts)` -> array."""
        lance = import_lance()
        import pyarrow as pa

        with store_errors(f"rewrite the column {name}", self.folder):
            if name in self.schema.names:
                self.dataset.drop_columns([name])
            if field is None:
                return

            def filled(batch: pa.RecordBatch) -> pa.RecordBatch:
                return pa.record_batch([compute(batch.column("text").to_pylist())], schema=pa.schema([field]))

            transform = lance.batch_udf(output_schema=pa.schema([field]))(filled)
            self.dataset.add_columns(transform, read_columns=["text"], batch_size=batch_rows)

    # --- upkeep ------------------------------------------------------------------------------------

    def build_bm25(self, language: str | None) -> None:
        """Builds the full text index from nothing. No language: ICU word boundaries and words as they are."""
        analyzed = language is not None
        self.dataset.create_scalar_index(
            "text",
            "INVERTED",
            name=BM25_INDEX,
            replace=True,
            with_position=False,
            base_tokenizer="simple" if analyzed else "icu/split",
            language=(language or "english").capitalize(),
            stem=analyzed,
            remove_stop_words=analyzed,
            memory_limit=BM25_BUILD_MIB,
        )

    def optimize(self, language: str | None) -> None:
        """Joins small files, brings the indices up to date, and clears away what no version needs.

        Call it under `writer_lock`: files of no version are then leftovers of a killed writer.
        """
        with store_errors("optimise the index", self.folder):
            if len(self.dataset.get_fragments()) >= FRAGMENTS_WORTH_COMPACTING:
                self.dataset.optimize.compact_files(
                    target_rows_per_fragment=ROWS_PER_FRAGMENT,
                    compaction_mode="try_binary_copy",
                    num_threads=1,
                    batch_size=1024,
                )
            indexed, unindexed = self.bm25_rows()
            if unindexed > indexed:
                self.build_bm25(language)
            elif unindexed:
                self.dataset.optimize.optimize_indices(index_names=[BM25_INDEX])
            self._index_ids()
            self.dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def bm25_rows(self) -> tuple[int, int]:
        """(rows in the full text index, rows searched without it: correct, but slowly)."""
        facts = self._read(lambda: self.dataset.stats.index_stats(BM25_INDEX))
        return int(facts["num_indexed_rows"]), int(facts["num_unindexed_rows"])

    def _index_ids(self) -> None:
        if ID_INDEX in {each.name for each in self.dataset.describe_indices()}:
            if self.dataset.stats.index_stats(ID_INDEX)["num_unindexed_rows"]:
                self.dataset.optimize.optimize_indices(index_names=[ID_INDEX])
        else:
            self.dataset.create_scalar_index("id", "BTREE", name=ID_INDEX)

    # --- reading -----------------------------------------------------------------------------------

    @contextmanager
    def filter_errors(self, where: str | None) -> Iterator[None]:
        """Turns what Lance says of a filter it cannot use into `InputError` with the columns there are."""
        try:
            yield
        except (OSError, ValueError) as error:
            if where is None or not any(sign in str(error) for sign in FILTER_SIGNS):
                raise
            said = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error)).replace("Invalid user input: ", "")
            columns = ", ".join(f"{field.name} ({field.type})" for field in self.schema)
            raise InputError(
                f"expected a filter in SQL, such as \"year > 2020 AND lang = 'en'\", over the columns "
                f"{columns}; got {where!r}: {said}"
            ) from error

    def _read(self, action: Callable[[], Answer], where: str | None = None) -> Answer:
        """What `action` reads, with the filter `where` if any, from the version that is open.

        A file that has gone means that another process compacted the table: the newest version has it.
        """
        try:
            with self.filter_errors(where):
                return action()
        except (OSError, ValueError, RuntimeError) as error:
            with read_errors(self.folder):
                if "Not found: " not in str(error):
                    raise
        self.on_moved()
        with read_errors(self.folder), self.filter_errors(where):
            return action()

    def rows(self, columns: Sequence[str], where: str | None = None, **scan: Any) -> pa.Table:
        """The rows that match `where`, and what `scan` (Lance's scanner options) asks for."""
        names = list(columns)
        return self._read(lambda: self.dataset.scanner(columns=names, filter=where, **scan).to_table(), where)

    def batches(self, columns: Sequence[str], where: str | None = None) -> Iterator[pa.RecordBatch]:
        """All rows that match, in insertion order, a batch at a time."""
        options = {"batch_size": 2048, "batch_readahead": 2, "scan_in_order": True}

        def begun() -> tuple[pa.RecordBatch | None, Iterator[pa.RecordBatch]]:
            batches = self.dataset.scanner(columns=list(columns), filter=where, **options).to_batches()
            return next(batches, None), batches

        first, others = self._read(begun, where)
        if first is not None:
            yield first
        with read_errors(self.folder), self.filter_errors(where):
            yield from others

    def count(self, where: str | None = None) -> int:
        return self._read(lambda: int(self.dataset.count_rows(filter=where)), where)

    def match_text(self, query: str, k: int, where: str | None, columns: Sequence[str]) -> pa.Table:
        """Up to `k` rows by BM25, with `_score`: any word of `query` may match; it has no operators."""
        match = import_lance().query.MatchQuery(query, "text")
        return self.rows(
            [*columns, "_score"], where, full_text_query=match, limit=min(k, MOST_ROWS), prefilter=True
        )

    def nearest(self, vector: FloatArray, k: int, where: str | None, columns: Sequence[str]) -> pa.Table:
        """Up to `k` rows by exact cosine similarity, with `_distance` (1 - cosine)."""
        nearest = {"column": "vector", "q": vector, "k": min(k, MOST_ROWS)}
        nearest |= {"metric": "cosine", "use_index": False}
        return self.rows([*columns, "_distance"], where, nearest=nearest, prefilter=True)

    def bytes_on_disk(self) -> int:
        return sum(map(_size, self.folder.rglob("*")))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # Another process has just cleared it away.
        return 0
