"""A teacher on a real Ray cluster: the scores of one machine, each pair once, whatever dies on the way."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import CheckpointNotFoundError, InputError, ScoreError
from runoff.data.shards import Shards
from runoff.distill.spread import teach_spread
from runoff.distill.teacher import pair_key, teach
from runoff.distill.worker import WorkerError, Workers
from standin_cluster import (
    MACHINE,
    WORKER_PATH,
    Faulty,
    Lengths,
    LengthTeacher,
    length_scores,
    started_cluster,
)
from standin_distil import candidates, many

pytest.importorskip("ray")

SCRIPT = Path(__file__).with_name("killed_spread.py")
SECONDS = 180  # that a process of its own may take on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two machines of one CPU; who takes one away puts another in its place."""
    with started_cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def refuse_network() -> None:
    """Instead of the one in conftest: a cluster's processes talk to each other at this machine's own address."""


def scores(folder: Path) -> dict[bytes, float]:
    rows = [row for _, batch in Shards(folder, "scores").batches() for row in batch.to_pylist()]
    found = {row["key"]: row["score"] for row in rows}
    assert len(found) == len(rows), "a pair stands there twice"
    return found


def wanted(pairs: list[tuple[str, str]]) -> dict[bytes, float]:
    return dict(zip((pair_key(*pair) for pair in pairs), length_scores(pairs).tolist(), strict=True))


def once(count: int, happen: Callable[[], object]) -> Callable[[int], None]:
    """An `advance` that lets something happen when `count` pairs are scored."""
    state = {"heard": 0}

    def advance(pairs: int) -> None:
        before, state["heard"] = state["heard"], state["heard"] + pairs
        if before < count <= state["heard"]:
            happen()

    return advance


def test_every_pair_is_scored_once_by_both_machines(cluster: Any, tmp_path: Path) -> None:
    pairs, heard = many(300) + many(40), []
    folder, build = candidates(tmp_path / "cand", pairs, shard=77), Lengths(tmp_path / "log", seconds=0.2)
    workers = Workers(cluster.address, batch_pairs=16)
    report = teach_spread(
        folder, build, tmp_path / "out", workers=workers, shard_pairs=100, advance=heard.append
    )
    assert scores(tmp_path / "out") == wanted(many(300))
    assert (report.pairs, report.scored, report.known, sum(heard)) == (340, 300, 40, 340)
    assert len(set(build.processes())) == 2
    alone = teach(folder, LengthTeacher(tmp_path / "log"), tmp_path / "alone", about={"precision": "fp32"})
    assert scores(tmp_path / "alone") == scores(tmp_path / "out")
    assert (report.mean, report.deviation) == pytest.approx((alone.mean, alone.deviation))
    identities = [Shards(tmp_path / name, "scores").checked()["identity"] for name in ("out", "alone")]
    assert identities == [{"teacher": "lengths", "precision": "fp32"}] * 2
    rows = [batch.num_rows for _, batch in Shards(tmp_path / "out", "scores").batches()]
    assert rows == [100, 100, 100]


def test_one_machine_and_a_cluster_go_on_with_each_others_work(cluster: Any, tmp_path: Path) -> None:
    pairs = many(120)
    out, log, whole = tmp_path / "out", tmp_path / "log", candidates(tmp_path / "cand", pairs)
    few = candidates(tmp_path / "few", pairs[:50])
    teach(few, LengthTeacher(log), out, about={"precision": "fp32"}, shard_pairs=20)
    workers = Workers(cluster.address, batch_pairs=10)
    with pytest.raises(ScoreError, match="d99"):
        teach_spread(whole, Faulty("nan", pairs[99][1]), out, workers=workers, shard_pairs=20)
    kept = len(scores(out))
    assert 50 <= kept < 120
    report = teach_spread(whole, Lengths(log), out, workers=workers, shard_pairs=20)
    assert (report.scored, report.known) == (120 - kept, kept)
    assert scores(out) == wanted(pairs)
    more = candidates(tmp_path / "more", many(130))
    assert teach(more, LengthTeacher(log), out, about={"precision": "fp32"}).scored == 10
    assert scores(out) == wanted(many(130))
    assert teach_spread(more, Lengths(log), out, workers=workers).scored == 0


# --- what dies ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, killed = many(280), []
    folder, build = candidates(tmp_path / "cand", pairs, shard=100), Lengths(tmp_path / "log", seconds=0.2)

    def kill() -> None:
        killed.append(build.processes()[-1])
        os.kill(killed[0], signal.SIGKILL)

    with caplog.at_level(logging.WARNING, "runoff"):
        report = teach_spread(
            folder,
            build,
            tmp_path / "out",
            workers=Workers(cluster.address, batch_pairs=8),
            shard_pairs=40,
            advance=once(100, kill),
        )
    assert scores(tmp_path / "out") == wanted(pairs)
    assert report.scored == 280
    assert len(set(build.processes()) - set(killed)) >= 2
    assert "have no score yet: a worker or its machine died" in caplog.text


@pytest.mark.slow
def test_a_machine_lost_in_the_middle_is_done_without_and_another_may_join(
    cluster: Any, tmp_path: Path
) -> None:
    pairs = many(280)
    folder, build = candidates(tmp_path / "cand", pairs, shard=100), Lengths(tmp_path / "log", seconds=0.2)

    def lose() -> None:
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    def join() -> None:
        cluster.add_node(**MACHINE)

    lost, joined = once(60, lose), once(180, join)
    report = teach_spread(
        folder,
        build,
        tmp_path / "out",
        workers=Workers(cluster.address, batch_pairs=8),
        shard_pairs=40,
        advance=lambda count: (lost(count), joined(count)),
    )
    assert scores(tmp_path / "out") == wanted(pairs)
    assert report.scored == 280
    cluster.wait_for_nodes()


@pytest.mark.slow
def test_the_command_killed_in_the_middle_goes_on_where_it_was(cluster: Any, tmp_path: Path) -> None:
    pairs = many(300)
    folder, out, log = candidates(tmp_path / "cand", pairs, shard=64), tmp_path / "out", tmp_path / "log"
    command = [sys.executable, str(SCRIPT), *map(str, (folder, out, log)), cluster.address]
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": WORKER_PATH}, "text": True}
    with subprocess.Popen(command, **options) as process:
        deadline = time.monotonic() + SECONDS
        while len(list(out.glob("part-*.parquet"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with pytest.raises(InputError, match="not finished"):
        Shards(out, "scores").checked()
    kept = len(scores(out))
    assert 70 <= kept < 300
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=SECONDS, **options)
    assert done.stdout.split() == ["300", str(300 - kept)]
    assert scores(out) == wanted(pairs)


@pytest.mark.slow
def test_pairs_that_kill_every_worker_are_told_and_the_others_are_kept(cluster: Any, tmp_path: Path) -> None:
    pairs = many(60)
    folder, build = candidates(tmp_path / "cand", pairs), Faulty("crash", pairs[33][1])
    with pytest.raises(
        WorkerError, match=r"died whenever they scored what is left, 8 pairs\. .*--max-length"
    ):
        teach_spread(folder, build, tmp_path / "out", workers=Workers(cluster.address, 1, batch_pairs=8))
    assert scores(tmp_path / "out") == wanted(pairs[:32] + pairs[40:])


# --- refused -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_worker_refuses_is_said_in_its_own_words(cluster: Any, tmp_path: Path) -> None:
    pairs = many(60)
    folder, out = candidates(tmp_path / "cand", pairs), tmp_path / "out"
    workers = Workers(cluster.address, batch_pairs=20)
    refused: list[tuple[Faulty, type[Exception], str]] = [
        (
            Faulty("absent"),
            CheckpointNotFoundError,
            r"could not load the teacher: no model of that name here",
        ),
        (Faulty("unlike"), InputError, r"its teacher has precision '\d+' and not '\d+'"),
        (
            Faulty("nan", pairs[33][1]),
            ScoreError,
            r"gave nan for .*part-00003\.parquet, row 3 \(query 'qquery 3",
        ),
        (Faulty("raise", pairs[33][1]), WorkerError, r"RuntimeError: no more memory on this card"),
    ]
    for build, kind, said in refused:
        with pytest.raises(kind, match=said) as raised:
            teach_spread(folder, build, out.with_name(build.fault), workers=workers)
        assert "\n" not in str(raised.value)
    assert not out.with_name("absent").exists()


def test_a_cluster_that_is_too_small_or_not_there_is_told(cluster: Any, tmp_path: Path) -> None:
    folder, build, out = candidates(tmp_path / "cand", many(12)), Lengths(tmp_path / "log"), tmp_path / "out"
    for workers, said in (
        (Workers(cluster.address, 3), r"room for 3 workers of 1 CPU each, found room for 2 on .* 3 machines"),
        (Workers(cluster.address, gpus=0.5), r"1 workers of 1 CPU and 0\.5 GPU each, found room for 0"),
        (Workers("ray://somewhere:1"), r"cluster that this machine is part of, got ray://"),
        (Workers("nonsense"), r"expected a Ray cluster at 'nonsense'"),
    ):
        with pytest.raises(InputError, match=said):
            teach_spread(folder, build, out, workers=workers)
    assert not out.exists()


def test_an_empty_text_and_a_constant_score_are_refused_as_on_one_machine(
    cluster: Any, tmp_path: Path
) -> None:
    workers, build = Workers(cluster.address), Lengths(tmp_path / "log")
    empty = candidates(tmp_path / "empty", [*many(12), ("query", " ")])
    with pytest.raises(InputError, match=r"part-00001\.parquet, row 2: expected a text as document"):
        teach_spread(empty, build, tmp_path / "none", workers=workers)
    same = candidates(tmp_path / "same", [("query", f"text {number}") for number in range(9)])
    with pytest.raises(InputError, match="lengths gave every pair the same score"):
        teach_spread(same, build, tmp_path / "out", workers=workers)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "1 worker or more"),
        ({"batch_pairs": 0}, "1 pair or more"),
        ({"cpus": 0.0}, "a share of CPUs or GPUs"),
        ({"gpus": -1.0}, "a share of CPUs or GPUs"),
        ({"gpus": 1.5}, "a part of one or a whole number of GPUs, got 1.5"),
    ],
)
def test_a_worker_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Workers(**given)
