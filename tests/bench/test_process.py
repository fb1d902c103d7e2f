"""Engines in processes of their own: what they answer, and what is said when they die or memory runs out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.bench import child
from runoff.bench.pairs import made_pairs
from runoff.bench.process import Peer, Places, environment_with, environments, obstacle
from runoff.bench.protocol import Result, Rules, Timed, Turns, Work, _only_gets_slower, sizes_of, sweep
from runoff.bench.random_weights import random_checkpoint
from runoff.bench.specs import (
    ABLATION_ENGINES,
    DEFAULT_ENGINES,
    ENGINES,
    OutOfMemoryError,
    Settings,
    UnavailableError,
)
from standin_race import small_shape

SETTINGS = Settings(1, 128)


def started(engine: str, model: Path, cache: Path, settings: Settings = SETTINGS) -> Peer:
    peer = Peer(engine, model, settings, Places(cache))
    peer.load()
    return peer


def test_a_process_scores_as_the_reranker_does(small_model: Path, tmp_path: Path) -> None:
    pairs = made_pairs(small_model, 6)
    with (
        started("runoff-fp32", small_model, tmp_path) as one,
        started("runoff-reference", small_model, tmp_path) as two,
    ):
        for peer in (one, two):
            peer.keep("all", pairs)
        np.testing.assert_allclose(one.score("all")["scores"], two.score("all")["scores"], atol=1e-4)


def test_token_ids_score_as_their_texts(small_model: Path, tmp_path: Path) -> None:
    with started("runoff-fp32", small_model, tmp_path) as peer:
        peer.keep("texts", made_pairs(small_model, 6))
        assert peer.keep_ids("ids", "texts")
        np.testing.assert_allclose(
            peer.score("ids", 256)["scores"], peer.score("texts", 256)["scores"], atol=1e-5
        )


def test_a_killed_process_is_told_as_out_of_memory(small_model: Path, tmp_path: Path) -> None:
    with started("runoff-fp32", small_model, tmp_path) as peer:
        os.kill(peer._process.pid, signal.SIGKILL)
        with pytest.raises(OutOfMemoryError, match="killed its process, as it does when memory runs out"):
            peer.keep("all", [("q", "d")])


def test_a_crashed_process_is_told_with_its_code(small_model: Path, tmp_path: Path) -> None:
    with started("runoff-fp32", small_model, tmp_path) as peer:
        os.kill(peer._process.pid, signal.SIGSEGV)
        os.kill(peer._process.pid, signal.SIGCONT)
        with pytest.raises(UnavailableError, match=r"ended with -11"):
            peer.keep("all", [("q", "d")])


def test_an_engine_that_dies_is_left_out_and_the_others_go_on(small_model: Path, tmp_path: Path) -> None:
    pairs = made_pairs(small_model, 8)
    work = Work(pairs, pairs, pairs[:2], 1000, 1000)
    peers = {name: started(name, small_model, tmp_path) for name in ("runoff-fp32", "runoff-reference")}
    os.kill(peers["runoff-fp32"]._process.pid, signal.SIGKILL)
    try:
        results = Turns(peers, lambda name: started(name, small_model, tmp_path), work, Rules("cpu")).run(
            print
        )
    finally:
        for peer in peers.values():
            peer.close()
    assert "killed" in results["runoff-fp32"].left_out
    best = results["runoff-reference"].best
    assert best is not None
    assert len(best.seconds) == 3


def peak_mib(peer: Peer) -> int:
    """The most address space that the process has had."""
    found = re.search(r"VmPeak:\s+(\d+) kB", Path(f"/proc/{peer._process.pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


def test_a_process_without_memory_says_so(small_model: Path, tmp_path: Path) -> None:
    with started("runoff-fp32", small_model, tmp_path) as peer:
        peer.keep("short", [("q", "word")])
        peer.score("short")
        limited = Settings(1, 128, memory_mib=peak_mib(peer) + 100)
    with started("runoff-fp32", small_model, tmp_path, limited) as peer:
        peer.keep("short", [("q", "word")])
        peer.score("short")
        with pytest.raises(OutOfMemoryError):
            peer.keep("long", [("q", "word " * 40_000_000)])  # 200 MB


@pytest.mark.slow
def test_a_sweep_ends_where_memory_does_with_the_best_so_far(tmp_path: Path) -> None:
    model = random_checkpoint(small_shape("17m", hidden=256, heads=4, intermediate=384), tmp_path / "made")
    pairs = [(f"query {n}", "word " * 600) for n in range(64)]
    work = Work(pairs, pairs, pairs[:8], 64 * 512, 64 * 512)
    with started("st-fp32", model, tmp_path, Settings(1, 512)) as peer:
        peer.keep("few", pairs[:8])
        peer.score("few", 8)
        # Enough for a batch of 8; one activation of 64 pairs of 512 tokens is 34 MB, and a layer makes a dozen.
        limited = Settings(1, 512, memory_mib=peak_mib(peer) + 40)
    with started("st-fp32", model, tmp_path, limited) as peer:
        result = Result()
        work.give(peer)
        sweep(peer, work, Rules("cpu", has_all_sizes=True), result)
    assert re.match(r"out of memory at \d+ pairs: ", result.ended)
    assert result.sizes[0].size == 8
    assert result.choose() in [each.size for each in result.sizes]


# --- other environments ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has numpy and nothing of ours."""
    folder = tmp_path_factory.mktemp("peers") / "bare"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for source in {Path(np.__file__).parents[1] / name for name in ("numpy", "numpy.libs")}:
        if source.exists():
            (packages / source.name).symlink_to(source)
    for about in Path(np.__file__).parents[1].glob("numpy-*.dist-info"):
        (packages / about.name).symlink_to(about)
    return folder / "bin" / "python"


def test_an_environment_without_runoff_can_run_the_engines_code(bare_python: Path) -> None:
    folder = str(Path(child.__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import child; child.use_package(False)\n"
        "import runoff.bench.engines, runoff.bench.exports; print('runoff.crossencoder' in sys.modules, *sys.path)"
    )
    done = subprocess.run([bare_python, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False ")
    assert folder not in done.stdout.split()


def test_other_environments_are_found_with_their_versions(bare_python: Path) -> None:
    peers = bare_python.parents[2]
    found = environments(peers)
    assert [each.python for each in found] == [sys.executable, str(bare_python)]
    assert found[1].versions["numpy"] == np.__version__


def test_what_no_environment_has_is_named(bare_python: Path) -> None:
    with pytest.raises(UnavailableError, match="not installed: no-such-package"):
        environment_with(("numpy", "no-such-package"), bare_python.parents[2])


# --- what may run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "settings", "family", "why"),
    [
        ("runoff-fp32", Settings(), "bert", None),
        ("runoff-fp32", Settings(), "deberta-v2", "hands such models to sentence-transformers"),
        ("runoff-torch-fp8-triton", Settings(), "bert", "runs on cuda only"),
        ("ort-int8", Settings(device="cuda"), "bert", "runs on cpu only"),
        ("st-bf16", Settings(), "bert", "this processor has none of"),
    ],
)
def test_an_obstacle_is_known_before_anything_starts(
    engine: str, settings: Settings, family: str, why: str | None, tmp_path: Path
) -> None:
    found = obstacle(engine, settings, Places(tmp_path), (), family)
    assert (found is None) if why is None else (found is not None and why in found)


def test_what_is_raced_by_default_runs_on_that_device() -> None:
    for device, engines in (*DEFAULT_ENGINES.items(),):
        assert [name for name in engines if device not in ENGINES[name].devices] == []


def test_an_ablation_has_every_precision_with_every_attention() -> None:
    assert len({name for name in ABLATION_ENGINES["cuda"] if name.startswith("runoff-torch")}) == 20


@pytest.mark.parametrize(
    ("engine", "kind", "sizes"),
    [
        ("st-fp32", "cpu", [8, 16, 32]),
        ("runoff-fp32", "cpu", [512, 1024, 2048, 4096]),
        ("runoff-bf16", "cuda", [4096]),
        ("runoff-reference", "cpu", [None]),
        ("flashrank-way", "cpu", [None]),
    ],
)
def test_sizes_double_up_to_one_batch_of_everything(engine: str, kind: str, sizes: list[int | None]) -> None:
    assert sizes_of(engine, kind, pairs=20, tokens=3000) == sizes


@pytest.mark.parametrize(
    ("rates", "ends"),
    [((10, 20, 19.5, 19), False), ((10, 20, 18.9, 18), True), ((20, 18), False), ((20, 18, 20.5), False)],
)
def test_doubling_ends_after_two_slower_sizes(rates: tuple[float, ...], ends: bool) -> None:
    timed = [Timed(size, 100, [100 / rate]) for size, rate in enumerate(rates)]
    assert _only_gets_slower(timed) is ends


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (ValueError("shapes differ"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, is_memory: bool) -> None:
    assert child.refused(error)["is_memory"] is is_memory


def test_paths_of_this_machine_become_names(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache", tmp_path / "peers")
    text = places.without_paths(f"{tmp_path}/cache/x {tmp_path}/peers/y {sys.prefix}/lib")
    assert text == "CACHE/x PEERS/y PYTHON/lib"


def test_versions_are_those_of_this_python() -> None:
    done = subprocess.run(
        [sys.executable, child.__file__, "--versions"], capture_output=True, text=True, check=True
    )
    versions: dict[str, Any] = json.loads(done.stdout)
    assert versions["numpy"] == np.__version__
