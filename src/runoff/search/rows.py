"""Documents <-> rows of the table: the columns, the metadata types, the hashes, and hits read back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runoff.contracts import DOCUMENT_TEXTS, Document, FloatArray, Hit, InputError, TokenIds
from runoff.search.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED = frozenset(
    (*DOCUMENT_TEXTS, "content_hash", "place_hash", "tokens", "vector", "_score", "_distance")
)
"""Column names that metadata cannot have, besides those that begin as Lance's own row numbers do."""

LANCE_OWN = "_row"

INT64_LIMIT = 2**63
# Up to here a double holds every whole number, and Arrow takes no other.
DOUBLE_LIMIT = 2**53


class Hashes(NamedTuple):
    """What a re-run compares: `content` is text, title and metadata; `place` is source and place.

    A jsonl file that gains a line moves every later place, which must not make all content new.
    """

    content: int
    place: int


def hashes_of(document: Document) -> Hashes:
    """64 bits each, equal on every machine and run."""
    metadata = json.dumps(_plain(document.metadata), sort_keys=True)
    return Hashes(_hash64(document.text, document.title, metadata), _hash64(document.source, document.place))


def _hash64(*parts: str | None) -> int:
    joined = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


def id_key(id: str) -> bytes:
    """16 bytes that stand for an id: among a million ids, two collide with probability 1e-27."""
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- columns ---------------------------------------------------------------------------------------


def table_schema(settings: Settings) -> pa.Schema:
    """The columns of a new table; metadata columns join when the first document brings them."""
    import pyarrow as pa

    fields = [pa.field(name, pa.string()) for name in DOCUMENT_TEXTS]
    fields += [pa.field("content_hash", pa.uint64()), pa.field("place_hash", pa.uint64())]
    if settings.tokenizer:
        fields.append(tokens_field())
    if settings.embedder:
        fields.append(vector_field(settings.embedder.dimension))
    return pa.schema(fields)


def tokens_field() -> pa.Field:
    import pyarrow as pa

    return pa.field("tokens", pa.list_(pa.int32()))


def vector_field(dimension: int) -> pa.Field:
    import pyarrow as pa

    return pa.field("vector", pa.list_(pa.float32(), dimension))


def token_array(tokens: Sequence[TokenIds]) -> pa.Array:
    """The ids of N texts as one Arrow list array."""
    import pyarrow as pa

    offsets = np.zeros(len(tokens) + 1, dtype=np.int32)
    np.cumsum([len(ids) for ids in tokens], out=offsets[1:])
    values = np.concatenate(tokens).astype(np.int32, copy=False) if tokens else np.zeros(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def vector_array(vectors: FloatArray, dimension: int) -> pa.Array:
    """N vectors as one Arrow array; `InputError` where the embedder broke its word."""
    import pyarrow as pa

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension or not np.isfinite(vectors).all():
        raise InputError(
            f"expected finite vectors of shape [N, {dimension}] from the embedder, got shape "
            f"{list(vectors.shape)}, finite: {bool(np.isfinite(vectors).all())}. Check the embedder."
        )
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)


# --- metadata --------------------------------------------------------------------------------------


class MetadataTypes:
    """Which metadata columns the table has and which a batch is about to bring, with their types.

    A type is set by the first value seen: "string", "int64", "double" or "bool". Whole numbers up to 2^53
    fit a "double" column; within the batch that brings a column, they give way to fractions.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.stored = {field.name: str(field.type) for field in schema if field.name not in RESERVED}
        self.arriving: dict[str, str] = {}
        # Arriving columns with a whole number that no double holds.
        self.wide: set[str] = set()

    def fault(self, metadata: Mapping[str, Any]) -> str | None:
        """Why this metadata cannot be stored, or None; then its new columns count as arriving."""
        arriving, wide = dict(self.arriving), set(self.wide)
        for key, value in metadata.items():
            if (name_fault := _name_fault(key)) is not None:
                return name_fault
            if value is None:
                continue
            kind = _kind(value)
            known = self.stored.get(key) or arriving.get(key)
            if kind == "int64" and not -INT64_LIMIT <= value < INT64_LIMIT:
                return f"metadata {key!r} must fit 64 bits, got {value}; give it as text"
            if kind == "int64" and abs(value) > DOUBLE_LIMIT:
                if known == "double":
                    return (
                        f"metadata {key!r} is of type double since its first value, which holds whole numbers "
                        f"up to 2^53, got {value}; give all its values as text"
                    )
                wide.add(key)
            gives_way = known == "int64" and kind == "double" and key in arriving and key not in wide
            if known is None or gives_way:
                arriving[key] = kind
            elif known != kind and not (known == "double" and kind == "int64"):
                return (
                    f"metadata {key!r} is of type {known} since its first value, got {value!r} ({kind}); "
                    "give all its values one type"
                )
        self.arriving, self.wide = arriving, wide
        return None

    def settle(self) -> pa.Schema:
        """The arriving columns, which count as stored from now on."""
        import pyarrow as pa

        types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
        fields = [pa.field(key, types[kind]) for key, kind in self.arriving.items()]
        self.stored |= self.arriving
        self.arriving, self.wide = {}, set()
        return pa.schema(fields)


def _name_fault(key: str) -> str | None:
    if not isinstance(key, str):
        return f"metadata names must be text, got {key!r}"
    if key in RESERVED or key.startswith(LANCE_OWN):
        return f"metadata {key!r} is a column that Runoff keeps for itself; rename it"
    if not key or "." in key or "`" in key:
        return f"metadata {key!r} cannot be a column name (empty, or has a dot or a backtick); rename it"
    return None


def _kind(value: Any) -> str:
    # bool first: it is an int in Python.
    for kind, types in (("bool", bool), ("int64", int), ("double", float)):
        if isinstance(value, types):
            return kind
    return "string"


def stored_value(value: Any) -> Any:
    """A metadata value as its column holds it: null, text, a number or bool; lists and objects as JSON text."""
    plain = _plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (list, dict)) else plain


def _plain(value: Any) -> Any:
    """`value` in the types of JSON: dates in ISO form, NaN and infinities (which JSON lacks) as null, and what
    else there is (times, decimals, UUIDs) as its text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value)


def rows_of(
    documents: Sequence[Document],
    schema: pa.Schema,
    tokens: Sequence[TokenIds] | None,
    vectors: FloatArray | None,
) -> pa.Table:
    """The rows of N documents under `schema`; keys that a document lacks are null."""
    import pyarrow as pa

    hashes = [hashes_of(document) for document in documents]
    columns: list[pa.Array] = []
    for field in schema:
        if field.name == "tokens":
            columns.append(pa.nulls(len(documents), field.type) if tokens is None else token_array(tokens))
        elif field.name == "vector":
            assert vectors is not None
            columns.append(vector_array(vectors, field.type.list_size))
        elif field.name in DOCUMENT_TEXTS:
            columns.append(pa.array([getattr(each, field.name) for each in documents], field.type))
        elif field.name in ("content_hash", "place_hash"):
            columns.append(pa.array([getattr(each, field.name[:-5]) for each in hashes], field.type))
        else:
            values = [stored_value(each.metadata.get(field.name)) for each in documents]
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


# --- reading back ------------------------------------------------------------------------------------


def shown_columns(schema: pa.Schema, with_tokens: bool) -> list[str]:
    """The columns a hit is made of."""
    hidden = {"content_hash", "place_hash", "vector"} | (set() if with_tokens else {"tokens"})
    return [name for name in schema.names if name not in hidden]


def documents_of(batch: pa.RecordBatch) -> Iterator[Document]:
    for row in batch.to_pylist():
        metadata = {key: value for key, value in row.items() if key not in RESERVED and value is not None}
        yield Document(**{name: row[name] for name in DOCUMENT_TEXTS}, metadata=metadata)


def hits_of(rows: pa.Table, stage: str, score: Sequence[float]) -> list[Hit]:
    """Unordered hits (rank 0) of `rows`, each with its raw score of `stage`."""
    tokens = _tokens_of(rows) if "tokens" in rows.column_names else [None] * rows.num_rows
    named = [name for name in rows.column_names if name != "tokens"]
    hits = []
    for row, value, ids in zip(rows.select(named).to_pylist(), score, tokens, strict=True):
        metadata = {key: each for key, each in row.items() if key not in RESERVED and each is not None}
        texts = {name: row[name] for name in DOCUMENT_TEXTS}
        hits.append(Hit(**texts, score=value, rank=0, metadata=metadata, scores={stage: value}, tokens=ids))
    return hits


def _tokens_of(rows: pa.Table) -> list[TokenIds | None]:
    column = rows.column("tokens").combine_chunks()
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    missing = column.is_null().to_numpy(zero_copy_only=False)
    return [None if missing[row] else values[offsets[row] : offsets[row + 1]] for row in range(len(column))]
