"""`runoff teach --ray`: a real reranker in the workers of a real Ray cluster, and what is said where that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.data.shards import Shards
from standin_cluster import started_cluster
from standin_distil import candidates, many

pytest.importorskip("ray")

Shell = Callable[..., Any]
Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with two machines of one CPU."""
    with started_cluster() as cluster:
        yield cluster.address


@pytest.fixture(autouse=True)
def refuse_network() -> None:
    """Instead of the one in conftest: a cluster's processes talk to each other at this machine's own address."""


def scores(folder: str) -> dict[bytes, float]:
    return {
        row["key"]: row["score"]
        for _, batch in Shards(folder, "scores").batches()
        for row in batch.to_pylist()
    }


@pytest.mark.slow
def test_a_reranker_and_an_embedder_teach_on_a_cluster_as_on_one_machine(
    shell: Shell, tiny: Tiny, address: str, tmp_path: Path
) -> None:
    candidates(tmp_path / "cand", many(90))
    candidates(tmp_path / "more", many(120))
    for name, role in (("bert", "reranker"), ("static", "similarity")):
        words = ("--model", tiny(name), "--as", role, "--json")
        alone = shell("teach", "cand", f"{name}-1", *words).json
        spread = shell("teach", "cand", f"{name}-2", *words, "--ray", address, "--workers", 2).json
        assert {**spread, "out": ""} == pytest.approx({**alone, "out": ""}, abs=1e-5)
        assert scores(f"{name}-2") == pytest.approx(scores(f"{name}-1"), abs=1e-5)
        identities = [Shards(f"{name}-{i}", "scores").checked()["identity"] for i in (1, 2)]
        assert identities[0] == identities[1]
    on = shell("teach", "more", "bert-1", "--model", tiny("bert"), "--ray", address)
    assert (on.code, on.err) == (0, "")
    assert "30 now; 90 were known" in on.out
    shell("teach", "cand", "bert-1", "--model", tiny("ettin"), "--ray", address).check_refused(
        2, "bert-1 was begun with ", "teacher", "Give the same again to go on, or another folder"
    )


def test_a_model_that_a_worker_cannot_load_is_told_in_the_workers_words(
    shell: Shell, tiny: Tiny, address: str, tmp_path: Path
) -> None:
    candidates(tmp_path / "cand", many(20))
    shell("teach", "cand", "s", "--model", "no-such/model", "--ray", address).check_refused(
        2, "a worker on ", " could not load the teacher: ", "no-such/model"
    )
    shell("teach", "cand", "s", "--model", tiny("bert"), "--ray", address, "--workers", 3).check_refused(
        2, "expected room for 3 workers of 1 CPU each, found room for 2", "Ask for less (--workers"
    )
    assert not Path("s").exists()


def test_without_ray_or_a_cluster_it_says_what_to_do(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(tmp_path / "cand", many(20))
    shell("teach", "cand", "s", "--workers", 2).check_refused(2, "--workers is of a cluster: give --ray too")
    shell("teach", "cand", "s", "--worker-gpus", 1.5, "--ray").check_refused(
        2, "whole number of GPUs, got 1.5"
    )
    shell("teach", "cand", "s", "--ray", "nonsense").check_refused(
        2, "expected a Ray cluster at 'nonsense'", "ray start --head"
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    shell("teach", "cand", "s", "--ray").check_refused(2, "pip install 'runoff[ray]'")
    assert not Path("s").exists()
