"""What a worker of a Ray cluster has and does, and how pairs, scores and errors travel: as rows of tables.

Nothing here knows Ray; `spread` gives it out.
"""

from __future__ import annotations

import json
import math
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff import contracts
from runoff.contracts import InputError, RunoffError, ScoreError
from runoff.data.shards import Place, Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill.teacher import KEY_BYTES, KIND, KnownKeys, Row, Teacher, scores_of, unscored, write_scores

if TYPE_CHECKING:
    import pyarrow as pa

BuildTeacher = Callable[[], tuple[Teacher, Mapping[str, Any]]]
"""A teacher, and how it is run (precision, length). It is pickled and called once by each worker."""


class WorkerError(ScoreError):
    """Workers failed at something that is no fault of the input: they crashed, or nothing came from them."""


LOCAL, RUNNING = "local", "auto"
"""Addresses: a cluster of this machine alone, which ends with the command; the one that runs here already."""

BATCH_PAIRS = 512
"""Pairs a worker scores at a time, which is what its death costs. At 20 pairs a second that is 25 seconds."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Where the teacher runs: on which cluster, in how many workers, and what each of them has to itself.

    `count` None: as many as the cluster has room for. `InputError` for what no worker can have.
    """

    address: str = LOCAL
    count: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    batch_pairs: int = BATCH_PAIRS

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"expected 1 worker or more, got {self.count}")
        if self.batch_pairs < 1:
            raise InputError(f"expected 1 pair or more in a batch, got {self.batch_pairs}")
        if not (0 <= self.cpus < math.inf and 0 <= self.gpus < math.inf) or self.cpus == self.gpus == 0:
            raise InputError(
                f"expected a share of CPUs or GPUs for each worker, got {self.cpus:g} and {self.gpus:g}"
            )
        for name, share in (("CPUs", self.cpus), ("GPUs", self.gpus)):
            if share > 1 and share % 1:
                raise InputError(f"expected a part of one or a whole number of {name}, got {share:g}")

    @property
    def needs(self) -> str:
        """What one worker needs, in words."""
        shares = [(self.cpus, "CPU"), (self.gpus, "GPU")]
        return " and ".join(
            f"{share:g} {name}{'s' * (share > 1)}" for share, name in shares if share or name == "CPU"
        )


def unscored_rows(candidates: Path, out: Path, shards: int, batch_pairs: int) -> Iterator[pa.Table]:
    """Batches as tables of one row. The first `shards` files of `out` say what is known: those that are written
    meanwhile do not count, so that a second reading, after this process died, gives the same."""
    import pyarrow as pa

    scores = Shards(out, KIND)
    known = KnownKeys.of(scores, scores.files()[:shards])
    for block in unscored(Shards(candidates, candidate_shards.KIND), batch_pairs, known, lambda _count: None):
        if block.rows:
            rows = block.rows
            known.add([row.key for row in rows])
            columns = {
                "key": pa.array([[row.key for row in rows]], pa.list_(pa.binary(KEY_BYTES))),
                "file": pa.array([[str(row.place.file) for row in rows]], pa.list_(pa.string())),
                "row": pa.array([[row.place.row for row in rows]], pa.list_(pa.int64())),
            }
            for name in ("query_id", "query", "document_id", "document"):
                texts = [[getattr(row, name) for row in rows]]
                columns[name] = pa.array(texts, pa.list_(pa.large_string()))
            yield pa.table(columns)


class Worker:
    """A teacher that is built once and answers batches. What goes wrong is an answer too: Ray would wrap an error
    into pages of its own, and take it for a death."""

    def __init__(self, build: BuildTeacher, identity: Mapping[str, Any]) -> None:
        self._teacher: Teacher | None = None
        answer = json.loads(described(lambda: self._built(build)))
        self._failure = answer.get("failure")
        if self._failure is None and answer["identity"] != identity:
            self._failure = _told(_unlike(identity, answer["identity"]))

    def _built(self, build: BuildTeacher) -> tuple[Teacher, Mapping[str, Any]]:
        self._teacher, about = build()
        return self._teacher, about

    def __call__(self, batches: pa.Table) -> pa.Table:
        import pyarrow as pa

        ids = pa.list_(pa.large_string())
        schema = pa.schema(
            {
                "key": pa.list_(pa.binary(KEY_BYTES)),
                "query_id": ids,
                "document_id": ids,
                "score": pa.list_(pa.float32()),
                "failure": pa.string(),
            }
        )
        return pa.Table.from_pylist([self._answer(batch) for batch in batches.to_pylist()], schema)

    def _answer(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        failure = self._failure
        if self._teacher is not None and failure is None:
            names = ("key", "query_id", "query", "document_id", "document", "file", "row")
            columns = [batch[name] for name in names]
            rows = [
                Row(key, query_id, query, document_id, document, Place(Path(file), row))
                for key, query_id, query, document_id, document, file, row in zip(*columns, strict=True)
            ]
            try:
                found = scores_of(self._teacher, rows).tolist()
                return {name: batch[name] for name in ("key", "query_id", "document_id")} | {"score": found}
            except Exception as error:
                failure = _told(error)
        return {"failure": failure}


def described(build: BuildTeacher) -> str:
    """JSON with the `identity` of the teacher that `build` makes, or the `failure` to make it."""
    try:
        teacher, about = build()
        return json.dumps({"identity": {"teacher": teacher.name, **about}})
    except Exception as error:
        return json.dumps({"failure": _told(error, "could not load the teacher: ")})


def _unlike(first: Mapping[str, Any], here: Mapping[str, Any]) -> InputError:
    names = sorted(name for name in {*first, *here} if first.get(name) != here.get(name))
    shown = ", ".join(f"{name} {here.get(name)!r} and not {first.get(name)!r}" for name in names)
    return InputError(
        f"its teacher has {shown}, as another worker's has, and scores of both do not mix. Say which with --precision "
        "and --max-length, or use machines that are alike"
    )


class Arrivals:
    """Scores as they arrive, each pair once, on their way into whole shards."""

    def __init__(self, scores: Shards, known: KnownKeys, shard_pairs: int) -> None:
        self._scores, self._known, self._shard_pairs = scores, known, shard_pairs
        self._rows: list[tuple[bytes, str, str, float]] = []

    def take(self, answer: Mapping[str, Any]) -> int:
        """How many pairs of a batch are new; raises what the worker says of a batch that failed."""
        if answer["failure"] is not None:
            raise told_error(answer["failure"])
        is_known = self._known.has(answer["key"])
        columns = (answer[name] for name in ("key", "query_id", "document_id", "score"))
        rows = [row for row, has in zip(zip(*columns, strict=True), is_known, strict=True) if not has]
        self._known.add([row[0] for row in rows])
        self._rows += rows
        while len(self._rows) >= self._shard_pairs:
            self._write(self._shard_pairs)
        return len(rows)

    def write(self) -> None:
        """Writes what is not yet in a shard: at the end, and when something goes wrong."""
        if self._rows:
            self._write(len(self._rows))

    def _write(self, count: int) -> None:
        keys, query_ids, document_ids, found = zip(*self._rows[:count], strict=True)
        write_scores(self._scores, keys, query_ids, document_ids, found)
        del self._rows[:count]


# --- errors that travel ------------------------------------------------------------------------------


def _told(error: Exception, doing: str = "") -> str:
    """An error as JSON: its class where it is ours, what it says, where it happened."""
    is_ours = isinstance(error, RunoffError)
    said = str(error) if is_ours else f"{type(error).__name__}: {error}"
    return json.dumps(
        {
            "kind": type(error).__name__,
            "said": f"a worker on {platform.node()} {doing or 'stopped: '}{said}",
            "trace": "".join(traceback.format_exception(error)),
        }
    )


def told_error(told: str) -> Exception:
    """The error that a worker told of, with the worker's traceback as a note (`--debug` shows it)."""
    answer = json.loads(told)
    kind = getattr(contracts, answer["kind"], None)
    is_ours = isinstance(kind, type) and issubclass(kind, RunoffError)
    error: Exception = kind(answer["said"]) if is_ours and kind is not None else WorkerError(answer["said"])
    error.add_note(answer["trace"])
    return error
