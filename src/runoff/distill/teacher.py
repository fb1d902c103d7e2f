"""A teacher's scores of candidates: in shards, each pair scored once, whenever and however often it is stopped.

A pair is known by its texts, not by its ids: a document that stands in many lists, under several ids, or in candidates
that were collected anew is scored once by each teacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from runoff.contracts import FloatArray, InputError, Pair, ScoreError, TextEmbedder
from runoff.data.shards import Place, Shards
from runoff.distill import candidates as candidate_shards
from runoff.text.vectors import KeptVectors

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "scores"
SHARD_PAIRS = 8192
"""Pairs of a shard: what a kill can cost. At 20 pairs a second (a large teacher on a CPU) that is 7 minutes."""
KEY_BYTES = 16
"""128 bits: of the 143 million pairs of the published mixture, two have the same key with a chance of 1e-22."""

Keys = npt.NDArray[np.bytes_]


class Teacher(Protocol):
    """Raw scores [N] of pairs, higher is more relevant. `name` tells teachers apart in files."""

    @property
    def name(self) -> str: ...

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray: ...


class Predictor(Protocol):
    """A reranker as sentence-transformers has it: `CrossEncoder` is one."""

    @property
    def name(self) -> str: ...

    @property
    def num_labels(self) -> int: ...

    def predict(self, inputs: Any, **options: Any) -> Any: ...


class RerankerTeacher:
    """A reranker's logits, before any activation, as the Ettin recipe takes them."""

    def __init__(self, model: Predictor) -> None:
        if model.num_labels != 1:
            raise InputError(f"a teacher needs one label, {model.name} has {model.num_labels}")
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        scores = self._model.predict(list(pairs), activation_fn="identity", show_progress_bar=False)
        return np.asarray(scores, np.float32).reshape(-1)


KEPT_BYTES = 512 << 20
"""Vectors that an embedder's teacher keeps: 350,000 of 384 numbers. A document stands in the lists of many queries:
15,000 questions with 60 candidates each met every one of 26,000 passages 34 times."""


class SimilarityTeacher:
    """An embedder's cosine of query and document; a text is embedded once as long as its vector is kept."""

    def __init__(self, model: TextEmbedder, kept_bytes: int = KEPT_BYTES) -> None:
        self._model = model
        self._queries = KeptVectors(
            lambda texts: [model.encode_query(text) for text in texts], kept_bytes // 4
        )
        self._documents = KeptVectors(model.encode_document, kept_bytes - kept_bytes // 4)

    @property
    def name(self) -> str:
        return self._model.name

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        left = self._queries.of([query for query, _ in pairs])
        right = self._documents.of([document for _, document in pairs])
        scores: FloatArray = np.einsum("nd,nd->n", left, right, dtype=np.float32)
        return scores


@dataclass(frozen=True, slots=True)
class TeachReport:
    """How many pairs the candidates have, how many were scored now, and how many had been before or stand there twice.

    `teacher` is its name; `mean` and `deviation` are of all scores of the folder.
    """

    teacher: str
    pairs: int
    scored: int
    known: int
    mean: float
    deviation: float


def schema() -> pa.Schema:
    """One row a pair: its key, the ids under which it was first met, and the teacher's raw score."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.binary(KEY_BYTES), nullable=False),
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    )


def pair_key(query: str, document: str) -> bytes:
    """What a pair is known by: a digest of both texts, the query's length in front so that no two pairs read alike."""
    first, second = query.encode(), document.encode()
    return hashlib.blake2b(len(first).to_bytes(8, "little") + first + second, digest_size=KEY_BYTES).digest()


def teach(
    candidates: str | Path,
    teacher: Teacher,
    out: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    shard_pairs: int = SHARD_PAIRS,
    advance: Callable[[int], object] = lambda _count: None,
) -> TeachReport:
    """Scores what the folder of `candidates` holds and `out` does not know yet.

    `out` belongs to one teacher (`about` says how it was run: precision, length): another is refused. A shard
    is written whole when its pairs are scored; a kill costs that of the moment. `advance` hears of pairs, known ones
    too. Raises `InputError` with file and row for a text that is empty, `ScoreError` with the same for a score that
    is not a finite number, and `InputError` where all scores are one and the same: nothing can be learned from them.
    """
    source = checked_source(candidates, shard_pairs)
    scores = Shards(out, KIND)
    scores.begin({"teacher": teacher.name, **(about or {})})
    known = KnownKeys.of(scores)
    pairs = scored = 0
    for block in unscored(source, shard_pairs, known, advance):
        pairs += block.seen
        if not block.rows:
            continue
        found = scores_of(teacher, block.rows)
        keys = [row.key for row in block.rows]
        write_scores(
            scores,
            keys,
            [row.query_id for row in block.rows],
            [row.document_id for row in block.rows],
            found,
        )
        known.add(keys)
        scored += len(keys)
        advance(len(keys))
    return finished(scores, teacher.name, pairs, scored, known.count)


def checked_source(candidates: str | Path, shard_pairs: int) -> Shards:
    """The candidates, once they are known to be complete; `InputError` where they or the shards' size cannot be."""
    source = Shards(candidates, candidate_shards.KIND)
    source.checked()
    if shard_pairs < 1:
        raise InputError(f"expected 1 pair or more in a shard, got {shard_pairs}")
    return source


def write_scores(
    scores: Shards, keys: Sequence[bytes], query_ids: Sequence[str], document_ids: Sequence[str], found: Any
) -> None:
    """A new shard behind the last one; all arguments are [N]."""
    columns = {"key": keys, "query_id": query_ids, "document_id": document_ids, "score": found}
    scores.write(scores.next_number(), columns, schema())


def finished(scores: Shards, teacher: str, pairs: int, scored: int, known: int) -> TeachReport:
    """The report of a folder that has all its scores and is marked so; `InputError` where they are one and the same."""
    mean, deviation = score_moments(scores)
    if pairs > 1 and deviation == 0.0:
        raise InputError(
            f"{teacher} gave every pair the same score ({mean:g}): nothing can be learned from it. Is it a "
            "reranker (or an embedder) at all, and were its weights found?"
        )
    scores.finish({"counts": {"pairs": known}, "mean": mean, "deviation": deviation})
    return TeachReport(teacher, pairs, scored, pairs - scored, mean, deviation)


def score_moments(scores: Shards) -> tuple[float, float]:
    """Mean and standard deviation of all scores of a folder."""
    all_scores = Moments()
    for _, batch in scores.batches(["score"]):
        all_scores.add(batch.column("score").to_numpy(zero_copy_only=False))
    return all_scores.mean, all_scores.deviation


class Moments:
    """Count, mean and standard deviation of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Chan, Golub and LeVeque's update: exact for parts of any sizes, also where the mean is far from 0."""
        if not len(values):
            return
        part = values.astype(np.float64)
        total = self.count + len(part)
        difference = float(part.mean()) - self.mean
        self._squares += float(((part - part.mean()) ** 2).sum())
        self._squares += difference**2 * self.count * len(part) / total
        self.mean += difference * len(part) / total
        self.count = total

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self._squares / self.count)) if self.count else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether several numbers came and all were the same, but for rounding."""
        return self.count > 1 and not self.deviation > 1e-9 * max(abs(self.mean), 1e-30)


class KnownKeys:
    """Keys of pairs, 16 bytes each, in a few sorted arrays."""

    def __init__(self) -> None:
        self._sorted: list[Keys] = []

    @classmethod
    def of(cls, scores: Shards, files: Sequence[Path] | None = None) -> KnownKeys:
        """The keys of all pairs that the folder (or those of its files alone) has scores of."""
        known = cls()
        for _, batch in scores.batches(["key"], files=files):
            known.add(batch.column("key").to_pylist())
        return known

    def copy(self) -> KnownKeys:
        """The same keys; what is added to the one is not in the other."""
        known = KnownKeys()
        known._sorted = list(self._sorted)
        return known

    @property
    def count(self) -> int:
        return sum(map(len, self._sorted))

    def add(self, keys: Sequence[bytes]) -> None:
        """Keys that are not there yet. Arrays of like sizes are merged, so that there are never many."""
        if not keys:
            return
        self._sorted.append(np.sort(as_keys(keys)))
        while len(self._sorted) > 1 and len(self._sorted[-2]) <= 2 * len(self._sorted[-1]):
            last = self._sorted.pop()
            self._sorted[-1] = np.sort(np.concatenate([self._sorted[-1], last]))

    def has(self, keys: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Which of the keys are known, [N]."""
        asked = as_keys(keys)
        found = np.zeros(len(asked), bool)
        for known in self._sorted:
            found |= located(known, asked)[1]
        return found


def as_keys(keys: Sequence[bytes]) -> Keys:
    """Keys [N] as an array that sorts and compares."""
    return np.array(keys, dtype=f"S{KEY_BYTES}")


def located(known: Keys, asked: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """(the place of each asked key among the sorted known ones, whether it is there), both [N]."""
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return places, known[places] == asked


# --- blocks ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A pair to score, its key, and where it stands."""

    key: bytes
    query_id: str
    query: str
    document_id: str
    document: str
    place: Place


@dataclass(slots=True)
class Block:
    """Pairs to score, and how many rows were looked at to find them."""

    rows: list[Row]
    seen: int = 0


def unscored(
    source: Shards, size: int, known: KnownKeys, advance: Callable[[int], object]
) -> Iterator[Block]:
    """Blocks of `size` pairs that `known` does not have, each pair once; the caller adds their keys to `known`.

    The last block may be empty. `advance` hears of each pair that is passed over. Raises `InputError` with file and
    row for a text that is empty.
    """
    block = Block([])
    for first, batch in source.batches(["query_id", "query", "document_id", "document"], size):
        rows = _read(first, batch)
        is_known = known.has([row.key for row in rows])
        # Blocks yielded during this batch are not in `is_known`, so what they took counts to the batch's end.
        taken = {row.key for row in block.rows}
        for row, was_scored in zip(rows, is_known, strict=True):
            block.seen += 1
            if was_scored or row.key in taken:
                advance(1)
                continue
            taken.add(row.key)
            block.rows.append(row)
            if len(block.rows) == size:
                yield block
                block = Block([])
    yield block


def _read(first: Place, batch: pa.RecordBatch) -> list[Row]:
    columns = [batch.column(name).to_pylist() for name in ("query_id", "query", "document_id", "document")]
    rows = []
    for number, (query_id, query, document_id, document) in enumerate(zip(*columns, strict=True)):
        place = Place(first.file, first.row + number)
        for name, text in (("query", query), ("document", document)):
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"{place}: expected a text as {name}, got {text!r}. Collect the candidates anew."
                )
        rows.append(Row(pair_key(query, document), query_id, query, document_id, document, place))
    return rows


def scores_of(teacher: Teacher, rows: Sequence[Row]) -> FloatArray:
    """The teacher's scores of the rows, each a finite number; an error says which rows."""
    among = f"among {len(rows)} pairs from {rows[0].place} to {rows[-1].place}; nothing of them was written"
    try:
        scores = teacher.score_pairs([(row.query, row.document) for row in rows])
    except ScoreError as error:
        raise ScoreError(f"{error} ({among})") from error
    if scores.shape != (len(rows),):
        raise ScoreError(f"{teacher.name} gave scores of shape {scores.shape} {among}")
    if (bad := np.flatnonzero(~np.isfinite(scores))).size:
        row = rows[int(bad[0])]
        raise ScoreError(
            f"{teacher.name} gave {scores[bad[0]]} for {row.place} (query {row.query_id!r}, document "
            f"{row.document_id!r}), one of {len(bad)} scores that are not finite {among}. Try precision fp32."
        )
    return scores
