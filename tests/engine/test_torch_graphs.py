"""Recording and replaying of forwards: when it begins, and what happens where it cannot."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from runoff.engine.torch_graphs import MOST_GRAPHS, RUNS_WHEN_FULL, Graphs
from runoff.engine.torch_staging import Shape

SHAPE = Shape(128, 8, 0, 128)
SHAPE_OF_MANY = Shape(65_536, 1_024, 0, 128)
CPU = torch.device("cpu")


def doubled(numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
    return 2 * numbers


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    graphs = Graphs(doubled, CPU)
    counts = []
    for value in (1, 2, 3):
        assert graphs(torch.tensor([value]), SHAPE).item() == 2 * value
        counts.append(len(graphs))
    assert counts == [0, 1, 1]


def test_a_thread_records_nothing_in_its_first_run() -> None:
    """cuBLAS makes a handle for each thread, and that cannot be recorded."""
    graphs = Graphs(doubled, CPU)
    graphs(torch.tensor([1]), SHAPE)
    counts: list[int] = []

    def run_twice() -> None:
        for value in (2, 3):
            counts.append(int(graphs(torch.tensor([value]), SHAPE).item()))
            counts.append(len(graphs))

    thread = threading.Thread(target=run_twice)
    thread.start()
    thread.join()
    assert counts == [4, 0, 6, 1]


def test_where_nothing_can_be_recorded_every_forward_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    runs = []

    def run(numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
        runs.append(int(numbers.item()))
        if len(runs) == 2:  # the first one that is recorded
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return 2 * numbers

    graphs = Graphs(run, CPU)
    with caplog.at_level(logging.WARNING):
        found = [graphs(torch.tensor([value]), SHAPE).item() for value in (1, 2, 3, 4)]
    assert found == [2, 4, 6, 8]
    assert runs == [1, 2, 2, 3, 4]
    assert len(graphs) == 0
    assert caplog.text.count("cannot be recorded as CUDA graphs") == 1


def test_a_lack_of_memory_while_recording_leaves_plain_runs_and_another_try_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runoff.engine.torch_graphs.RUNS_BEFORE_ANOTHER_TRY", 2)
    runs = []

    def run(numbers: torch.Tensor, shape: Shape) -> torch.Tensor:
        runs.append(1)
        if len(runs) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * numbers

    graphs = Graphs(run, CPU)
    found = [graphs(torch.tensor([value]), SHAPE).item() for value in (1, 2, 3, 4)]
    assert found == [2, 4, 6, 8]
    assert len(graphs) == 0
    assert [graphs(torch.tensor([value]), SHAPE).item() for value in (5, 6)] == [10, 12]
    assert len(graphs) == 1


def test_where_enough_graphs_are_kept_only_a_shape_that_comes_often_takes_a_place() -> None:
    graphs = Graphs(doubled, CPU)
    shapes = [Shape(128 * number, 8, 0, 128) for number in range(1, MOST_GRAPHS + 1)]
    for shape in shapes * 2:
        graphs(torch.tensor([1]), shape)
    assert len(graphs) == MOST_GRAPHS
    for _ in range(RUNS_WHEN_FULL):
        graphs(torch.tensor([1]), SHAPE_OF_MANY)
    assert SHAPE_OF_MANY not in graphs._recorded
    assert graphs(torch.tensor([4]), SHAPE_OF_MANY).item() == 8
    assert SHAPE_OF_MANY in graphs._recorded
    assert shapes[0] not in graphs._recorded
    assert len(graphs) == MOST_GRAPHS
