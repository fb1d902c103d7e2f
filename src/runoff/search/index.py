"""Index: documents on disk, found by words, by vectors and by filters, with their token ids beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runoff.contracts import (
    BadRow,
    Document,
    FloatArray,
    Hit,
    IndexStoreError,
    InputError,
    Scorer,
    TextEmbedder,
    TokenizerMismatchError,
)
from runoff.search.checks import check_free, check_same, tokenizer_name
from runoff.search.ingest import Ingest, IngestOptions, IngestReport
from runoff.search.rows import (
    documents_of,
    hits_of,
    shown_columns,
    table_schema,
    token_array,
    tokens_field,
)
from runoff.search.settings import (
    SETTINGS_FILE,
    EmbedderName,
    Settings,
    State,
    TokenizerName,
    checked_language,
    clear_drafts,
    load_settings,
)
from runoff.search.table import Table, id_filters, preload, read_errors, store_errors, writer_lock

__all__ = ["Index", "IndexInfo", "IngestOptions", "IngestReport", "preload"]

RETOKENIZE_ROWS = 2048


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What `Index.info` tells: `unindexed` documents are found too, but by reading them all."""

    path: str
    documents: int
    unindexed: int
    state: State
    bytes_on_disk: int
    tokenizer: str | None
    embedder: str | None
    language: str | None
    columns: dict[str, str]


class Index:
    """A folder with a Lance table of documents. Make one with `Index.create` or `Index.open`.

    Reading is thread-safe and needs no lock; one process writes at a time. Every batch is one commit:
    whatever happens, the index opens at its last whole batch. Needs the extra `search`.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        table: Table,
        tokenizer: Scorer | None,
        embedder: TextEmbedder | None,
    ) -> None:
        self.path = path
        self.settings = settings
        self._table = table
        self._tokenizer = tokenizer
        self._embedder = embedder
        table.on_moved = self.refresh

    # --- create and open -----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        tokenizer: Scorer | None = None,
        embedder: TextEmbedder | None = None,
        language: str | None = "english",
        exist_ok: bool = False,
    ) -> Index:
        """A new, empty index in the folder `path`.

        `tokenizer` (a reranker) has its token ids stored beside every text; `embedder` its vectors.
        `language` sets stemming and stop words; None indexes words as they stand, in any script.
        With `exist_ok` an index that is there is opened, if it was made with the same settings.
        """
        folder = Path(path)
        settings = Settings(
            tokenizer=tokenizer_name(tokenizer),
            embedder=EmbedderName(embedder.name, embedder.dimension) if embedder else None,
            language=checked_language(language),
        )
        if (folder / SETTINGS_FILE).exists():
            return cls._open_as(folder, settings, tokenizer, embedder, exist_ok)
        with store_errors("create an index", folder):
            check_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
        with writer_lock(folder):
            # Another process may have made it since the first look, and even filled it.
            is_new = not (folder / SETTINGS_FILE).exists()
            if is_new:
                table, settings = _create_table(folder, settings)
        if not is_new:
            return cls._open_as(folder, settings, tokenizer, embedder, exist_ok)
        return cls(folder, settings, table, tokenizer, embedder)

    @classmethod
    def open(
        cls, path: str | Path, tokenizer: Scorer | None = None, embedder: TextEmbedder | None = None
    ) -> Index:
        """The index at `path`. `tokenizer` and `embedder` are needed for adding, not for reading, and
        must be the ones the index was made with."""
        folder = Path(path)
        with read_errors(folder):
            settings = load_settings(folder)
        check_same(folder, settings, tokenizer, embedder)
        if settings.state == "creating":
            with writer_lock(folder):
                # Read again under the lock: only now is it certain that no living process is creating it.
                settings = load_settings(folder)
                if settings.state == "creating":
                    # The one that did was killed between its two files; there are no documents yet.
                    _, settings = _create_table(folder, settings)
        return cls(folder, settings, Table.open(folder), tokenizer, embedder)

    @classmethod
    def _open_as(
        cls,
        folder: Path,
        asked: Settings,
        tokenizer: Scorer | None,
        embedder: TextEmbedder | None,
        exist_ok: bool,
    ) -> Index:
        index = cls.open(folder, tokenizer, embedder)
        if not exist_ok:
            raise IndexStoreError(
                f"there is an index at {folder} already, with {len(index)} documents. Open it to add to it "
                "(Index.open, or exist_ok=True), or choose another folder."
            )
        if asked.tokenizer is not None and index.settings.tokenizer is None:
            raise TokenizerMismatchError(
                f"the index at {folder} stores no token ids; asked was to store those of "
                f"{asked.tokenizer.name!r}. Either leave tokenizer out, or have them stored: "
                f"runoff index {folder} --retokenize --model {asked.tokenizer.name}"
            )
        if asked.language != index.settings.language:
            raise IndexStoreError(
                f"the index at {folder} was made with language={index.settings.language!r}, asked was "
                f"{asked.language!r}. Pass the same language, or choose another folder."
            )
        return index

    # --- writing -------------------------------------------------------------------------------------

    def add(
        self, documents: Iterable[Document | BadRow], options: IngestOptions | None = None
    ) -> IngestReport:
        """What became of `documents`, which are streamed: added, unchanged (skipped) or bad.

        An id that is stored with equal content is skipped, so running the same command again completes a
        run that was cut short; with other content it is a bad row. Bad rows that a reader passes on are
        counted too. Raises `InputError` where nothing usable came, `IndexStoreError` for the disk.
        """
        return self._ingest(documents, options, replaces=False)

    def upsert(
        self, documents: Iterable[Document | BadRow], options: IngestOptions | None = None
    ) -> IngestReport:
        """As `add`, but a document replaces the stored one of its id where anything differs.

        Of a file that the reader cut into passages, those stored beyond what it has now are removed, at the
        end. What came from a bad row, or from a file that is gone, stays.
        """
        return self._ingest(documents, options, replaces=True)

    def _ingest(
        self, documents: Iterable[Document | BadRow], options: IngestOptions | None, replaces: bool
    ) -> IngestReport:
        self._check_can_add()
        with writer_lock(self.path):
            self._see_others()
            # Of an index without documents, the first ingest has yet to end.
            state_before = self.settings.state if self.count() else "incomplete"
            self._set_state("incomplete")
            tokenizer = self._tokenizer if self.settings.tokenizer else None
            ingest = Ingest(self._table, tokenizer, self._embedder, replaces, options or IngestOptions())
            try:
                report = ingest.run(documents)
            except BaseException:
                if not ingest.report.written:
                    # On a full disk this fails as well; the first error says so already.
                    with suppress(IndexStoreError):
                        self._set_state(state_before)
                raise
            self._table.optimize(self.settings.language)
            self._set_state("complete")
        return report

    def delete(self, ids: Sequence[str] | None = None, where: str | None = None) -> int:
        """Number of documents deleted: those with these `ids`, or those that match the filter `where`."""
        if (ids is None) == (where is None) or where == "" or isinstance(ids, str):
            raise InputError(
                f"expected a list of ids or a filter, one of the two, got ids={ids!r}, where={where!r}. "
                'To delete everything say so: where="true".'
            )
        with writer_lock(self.path):
            self._table.refresh()
            return self._table.delete(where) if where else self._table.delete_ids(ids or [])

    def optimize(self) -> None:
        """Brings the BM25 index up to date, joins small files and frees the disk of old versions.

        `add` and `upsert` end with it; it is needed after a run that was cut short, or many deletes.
        """
        with writer_lock(self.path):
            self._table.refresh()
            self._table.optimize(self.settings.language)

    def retokenize(self, tokenizer: Scorer | None) -> None:
        """Replaces the stored token ids by those of `tokenizer`; None takes them away.

        Killed midway, the index has no stored tokens and queries tokenise texts until it is run again.
        """
        named = tokenizer_name(tokenizer)
        with writer_lock(self.path):
            self.refresh()
            self._save(Settings(None, self.settings.embedder, self.settings.language, self.settings.state))

            def compute(texts: list[str]) -> object:
                assert tokenizer is not None
                return token_array(tokenizer.tokenize(texts))

            field = tokens_field() if tokenizer else None
            self._table.replace_column("tokens", field, compute, RETOKENIZE_ROWS)
            self._save(Settings(named, self.settings.embedder, self.settings.language, self.settings.state))
            self._table.optimize(self.settings.language)
        self._tokenizer = tokenizer

    # --- reading -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.count()

    def count(self, where: str | None = None) -> int:
        """Number of documents, or of those that match the filter `where`."""
        return self._table.count(where)

    def documents(self, where: str | None = None) -> Iterator[Document]:
        """All documents (or those that match), streamed in the order they were stored."""
        for batch in self._table.batches(shown_columns(self._table.schema, with_tokens=False), where):
            yield from documents_of(batch)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents of these ids, by id, in the order asked; an id that is not there is absent."""
        return {
            id: Document(id, hit.text or "", hit.title, hit.source, hit.place, hit.metadata)
            for id, hit in self.candidates(ids).items()
        }

    def candidates(self, ids: Sequence[str]) -> dict[str, Hit]:
        """As `get`, but as hits with their stored tokens, score 0 and rank 0: to be scored elsewhere."""
        columns = shown_columns(self._table.schema, with_tokens=self.tokenizer is not None)
        found: dict[str, Hit] = {}
        for where in id_filters(ids):
            rows = self._table.rows(columns, where)
            for hit in hits_of(rows, "retrieve", [0.0] * rows.num_rows):
                found[hit.id] = hit
        return {id: found[id] for id in ids if id in found}

    def match_text(self, query: str, k: int, where: str | None = None) -> list[Hit]:
        """At most `k` unordered hits by BM25; `runoff.search.retrieve.BM25` orders them."""
        columns = shown_columns(self._table.schema, with_tokens=self.tokenizer is not None)
        rows = self._table.match_text(query, k, where, columns)
        return hits_of(rows.drop_columns(["_score"]), "bm25", rows.column("_score").to_pylist())

    def nearest(self, vector: FloatArray, k: int, where: str | None = None) -> list[Hit]:
        """At most `k` unordered hits by exact cosine similarity; `retrieve.Dense` orders them."""
        if self.settings.embedder is None:
            raise IndexStoreError(
                f"the index at {self.path} has no vectors. Make it anew with embedder=..., or search by bm25."
            )
        columns = shown_columns(self._table.schema, with_tokens=self.tokenizer is not None)
        rows = self._table.nearest(vector, k, where, columns)
        similarity = [1.0 - distance for distance in rows.column("_distance").to_pylist()]
        return hits_of(rows.drop_columns(["_distance"]), "dense", similarity)

    def refresh(self) -> None:
        """Sees what other processes have written since this index was opened."""
        with read_errors(self.path):
            found = None
            # Until both files are of one time: token ids must not be read under another tokenizer's name.
            while self.settings != found:
                self.settings = load_settings(self.path)
                self._table.refresh()
                found = load_settings(self.path)

    @property
    def tokenizer(self) -> TokenizerName | None:
        """Whose token ids are stored; None: none are."""
        return self.settings.tokenizer

    @property
    def version(self) -> int:
        """Another number after every write."""
        return int(self._table.dataset.version)

    def info(self) -> IndexInfo:
        """Counts, sizes and settings."""
        return IndexInfo(
            path=str(self.path),
            documents=self.count(),
            unindexed=self._table.bm25_rows()[1],
            state=self.settings.state,
            bytes_on_disk=self._table.bytes_on_disk(),
            tokenizer=self.settings.tokenizer.name if self.settings.tokenizer else None,
            embedder=self.settings.embedder.name if self.settings.embedder else None,
            language=self.settings.language,
            columns={field.name: str(field.type) for field in self._table.schema},
        )

    # --- inside --------------------------------------------------------------------------------------

    def _see_others(self) -> None:
        """Refreshes, under the lock, what will be written back: another process may have retokenised."""
        with store_errors("write to the index", self.path):
            clear_drafts(self.path)
        self.refresh()
        check_same(self.path, self.settings, self._tokenizer, self._embedder)
        self._check_can_add()

    def _set_state(self, state: State) -> None:
        self._save(self.settings.with_state(state))

    def _save(self, settings: Settings) -> None:
        with store_errors("write to the index", self.path):
            self.settings = settings.saved_in(self.path)

    def _check_can_add(self) -> None:
        """An index with tokens or vectors needs their maker for every document it takes."""
        for stored, given, option in (
            (self.settings.tokenizer, self._tokenizer, "tokenizer"),
            (self.settings.embedder, self._embedder, "embedder"),
        ):
            if stored is not None and given is None:
                raise IndexStoreError(
                    f"the index at {self.path} stores what {stored.name!r} makes of every document, so "
                    f"adding needs it: Index.open(path, {option}=...) with that model."
                )


def _create_table(folder: Path, settings: Settings) -> tuple[Table, Settings]:
    """The empty table and its settings, both on the disk. Call it under `writer_lock`."""
    with store_errors("create an index", folder):
        settings = settings.with_state("creating").saved_in(folder)
        table = Table.create(folder, table_schema(settings), settings.language)
        return table, settings.with_state("complete").saved_in(folder)
