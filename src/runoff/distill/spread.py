"""A teacher's scores from the machines of a Ray cluster, in the same shards as from one machine.

The machine that runs the command reads the candidates and writes the scores: workers see texts and no files, and need
Runoff, the model and nothing else. A batch of pairs travels as one row of a Ray dataset, and its scores come back in
any order. What a worker or a machine takes with it when it dies is found missing and given out again.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.contracts import InputError, MissingExtraError
from runoff.data.shards import Shards
from runoff.distill.teacher import (
    KIND,
    SHARD_PAIRS,
    KnownKeys,
    TeachReport,
    checked_source,
    finished,
    unscored,
)
from runoff.distill.worker import (
    LOCAL,
    RUNNING,
    Arrivals,
    BuildTeacher,
    Worker,
    WorkerError,
    Workers,
    described,
    told_error,
    unscored_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

BATCHES_PER_WORKER = 8
"""So that the workers end at about the same time, small jobs are cut finer."""
BATCHES_ALONE = 4
"""Tried one by one before workers are said to die of whatever they score."""
IN_FLIGHT_BYTES = 512 << 20
"""Texts and scores under way at most: beyond it the candidates are not read on."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told that Ray is used
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what its C++ part prints on this machine's stderr
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that it will become the default
}
JOIN_SETTINGS = {
    "RAY_gcs_server_port_wait_time_s": "1",  # one try: Ray's own 20 tries take 14 minutes
    "RAY_py_gcs_connect_timeout_s": "10",
}
"""Where nothing answers at an address, this is told after 20 s."""


def teach_spread(
    candidates: str | Path,
    build: BuildTeacher,
    out: str | Path,
    *,
    workers: Workers | None = None,
    shard_pairs: int = SHARD_PAIRS,
    advance: Callable[[int], object] = lambda _count: None,
) -> TeachReport:
    """What `teacher.teach` does, with one teacher in each worker of a Ray cluster.

    A folder that was begun on one machine is gone on with here, and the reverse. Raises what `teach` raises, what
    `build` raises in a worker, `InputError` where there is no cluster or too little of it, `MissingExtraError`
    without Ray, and `WorkerError` where workers die again and again at the same pairs.
    """
    workers = workers or Workers()
    source, scores = checked_source(candidates, shard_pairs), Shards(out, KIND)
    with _cluster(workers.address) as renew:
        room = _room(workers)
        identity = _described(build, workers)
        scores.begin(identity)
        known = KnownKeys.of(scores)
        pairs, fresh = _counted(source, known, advance)
        size = min(workers.batch_pairs, shard_pairs, math.ceil(fresh / (room * BATCHES_PER_WORKER)) or 1)
        count = min(room, math.ceil(fresh / size))
        job = _Job(source, scores, build, identity, workers, count, size)
        _teach_all(job, Arrivals(scores, known, shard_pairs), fresh, advance, renew)
    return finished(scores, str(identity["teacher"]), pairs, fresh, known.count)


def _counted(source: Shards, known: KnownKeys, advance: Callable[[int], object]) -> tuple[int, int]:
    """How many pairs the candidates have, and how many of them have no score; checks every text on the way."""
    seen = known.copy()
    pairs = fresh = 0
    for block in unscored(source, SHARD_PAIRS, seen, advance):
        pairs += block.seen
        fresh += len(block.rows)
        seen.add([row.key for row in block.rows])
    return pairs, fresh


@dataclass(frozen=True, slots=True)
class _Job:
    """What every round of giving out pairs needs."""

    source: Shards
    scores: Shards
    build: BuildTeacher
    identity: Mapping[str, Any]
    workers: Workers
    count: int
    batch_pairs: int


def _teach_all(
    job: _Job,
    arrivals: Arrivals,
    missing: int,
    advance: Callable[[int], object],
    renew: Callable[[], None],
) -> None:
    """Gives out what has no score, and again what was lost on the way, until nothing is missing.

    A round bears any number of deaths. Behind one that brought nothing, batches go out one by one, since what kills a
    worker takes those along that wait for it; when several of them bring nothing, the error is told. `renew` takes the
    last round's workers away.
    """
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayActorError, RayError

    alone: int | None = None  # the batch that goes out by itself, counted among those that are left
    while missing:
        before, failure = missing, None
        try:
            for answer in _answers(job, alone):
                taken = arrivals.take(answer)
                missing -= taken
                advance(taken)
        except ExecutionTimeoutError as error:
            raise WorkerError(
                f"no worker gave a score for a long time, and {missing:,} pairs have none yet. Does the cluster still "
                f"have {job.workers.needs} for a worker? The same command goes on"
            ) from error
        except RayError as error:
            failure = error
        finally:
            arrivals.write()
        if missing < before:
            alone = None
        elif alone is None:
            alone = 0
        elif alone + 1 < min(BATCHES_ALONE, math.ceil(missing / job.batch_pairs)):
            alone += 1
        else:
            cause = "" if isinstance(failure, RayActorError) else f" ({_first_line(failure)})"
            raise WorkerError(
                f"workers died whenever they scored what is left, {missing:,} pairs{cause}. Is it their memory? "
                "Give each more of a machine (--worker-cpus, --worker-gpus), or fewer tokens (--max-length)"
            ) from failure
        if missing:
            logger.warning(
                "%s pairs have no score yet: a worker or its machine died with some. They are given out again",
                f"{missing:,}",
            )
            failure = None  # its frames would keep the workers
            renew()


# --- the cluster -------------------------------------------------------------------------------------


@contextmanager
def _cluster(address: str) -> Iterator[Callable[[], None]]:
    """Connects Ray, quietly, and gives a function that ends all that this program has running there.

    A connection that the program made before stays as it is, and workers go when nothing refers to them any more.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("a teacher on a cluster needs Ray: pip install 'runoff[ray]'") from error
    if address.startswith("ray://"):
        raise InputError(
            f"expected the address of a cluster that this machine is part of, got {address}. Run the command on one "
            f"of the cluster's machines, with --ray {RUNNING}"
        )
    with _settings(SETTINGS if address == LOCAL else SETTINGS | JOIN_SETTINGS), _quiet():
        is_ours = not ray.is_initialized()

        def renew() -> None:
            if is_ours:
                ray.shutdown()
                _connect(address)
            else:
                gc.collect()

        if is_ours:
            _connect(address)
        try:
            yield renew
        finally:
            if is_ours:
                ray.shutdown()


def _connect(address: str) -> None:
    import ray

    options = {"include_dashboard": False} if address == LOCAL else {}
    try:
        with _muted_stderr():
            ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        raise InputError(
            f"expected a Ray cluster at {address!r} that this machine is part of: {_first_line(error)}. Start one "
            "with `ray start --head`, join it with `ray start --address`, or give --ray without an address"
        ) from error


@contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Ray's settings for as long as it runs; what the environment says already stands."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Ray's C++ part greets on the process's own stderr, whatever the level of its log."""
    try:
        kept = os.dup(2)
    except OSError:  # closed by the shell
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own words go to its log files and not to stderr."""
    handlers = [
        handler
        for name in ("ray", "ray.data")
        for handler in logging.getLogger(name).handlers
        if type(handler).__module__.startswith("ray.") and isinstance(handler, logging.StreamHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _room(workers: Workers) -> int:
    """How many workers there will be; `InputError` where the cluster is too small for one, or for as many as asked."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for machine in machines:
        asked = [(workers.cpus, machine.get("CPU", 0.0)), (workers.gpus, machine.get("GPU", 0.0))]
        room += min(math.floor(has / share + 1e-6) for share, has in asked if share)
    if room < (workers.count or 1):
        found = ", ".join(
            f"{machine.get('CPU', 0.0):g} CPUs and {machine.get('GPU', 0.0):g} GPUs" for machine in machines
        )
        raise InputError(
            f"expected room for {workers.count or 1} workers of {workers.needs} each, found room for {room} on the "
            f"cluster's {len(machines)} machines ({found}). Ask for less (--workers, --worker-cpus, --worker-gpus), or "
            "add machines"
        )
    return workers.count or room


def _described(build: BuildTeacher, workers: Workers) -> Mapping[str, Any]:
    """The teacher as the first worker has it: its name and how it is run. Raises what the worker says."""
    import ray

    ask = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_calls=1, max_retries=3)(described)
    try:
        answer = json.loads(ray.get(ask.remote(build)))
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"a worker could not load the teacher: {_first_line(error)}. Every machine needs this release of Runoff "
            "and the model, and a worker the memory for it"
        ) from error
    if failure := answer.get("failure"):
        raise told_error(failure)
    return dict(answer["identity"])


def _answers(job: _Job, alone: int | None) -> Iterator[Mapping[str, Any]]:
    """What the workers say of each batch of pairs without a score (or of one alone), as it comes.

    Ray starts a worker that died again wherever there is room. Its batches fail instead of waiting for that, which may
    take for ever where a machine is gone.
    """
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, read_datasource
    from ray.runtime_context import get_runtime_context

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: every row, which is a batch, is a block of its own
    context.max_errored_blocks = -1 if alone is None else 0
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=IN_FLIGHT_BYTES)
    here = {"ray.io/node-id": get_runtime_context().get_node_id()}
    with DataContext.current(context), warnings.catch_warnings():
        # Ray 2.64 will take no max_restarts any more; pyproject.toml has the limit.
        warnings.filterwarnings("ignore", ".*ray_remote_args")
        batches = read_datasource(_source(job, alone), override_num_blocks=1, num_cpus=0, label_selector=here)
        answers = batches.map_batches(
            Worker,
            fn_constructor_args=(job.build, job.identity),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=job.count),
            num_cpus=job.workers.cpus,
            num_gpus=job.workers.gpus,
            max_restarts=-1,
            max_task_retries=0,
        )
    for table in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield from table.to_pylist()


def _source(job: _Job, alone: int | None) -> Any:
    """The pairs without a score as a Ray data source of one stream, read on this machine as fast as it is used up."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    candidates, out = job.source.folder.resolve(), job.scores.folder.resolve()
    shards, batch_pairs = len(job.scores.files()), job.batch_pairs

    def read() -> Iterator[pa.Table]:
        rows = unscored_rows(candidates, out, shards, batch_pairs)
        return rows if alone is None else islice(rows, alone, alone + 1)

    class UnscoredPairs(Datasource):  # type: ignore[misc]  # Ray counts as untyped
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, nothing_known)]

    return UnscoredPairs()


def _first_line(error: Exception | None) -> str:
    """What an error says, without the pages that Ray puts behind it."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0].rstrip(".")
