"""Samples of folders: each query by its own rows, the same whatever stands beside it, with all columns kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.contracts import FloatArray, InputError, Pair
from runoff.data.sampling import AnchorRule, BandRule
from runoff.data.shards import Shards
from runoff.distill.labels import Parts, label
from runoff.distill.sample import sample
from runoff.distill.teacher import teach
from standin_distil import candidates

pytest.importorskip("pyarrow")

PAIRS = [(f"query {query}", f"document {query}-{number}") for query in range(6) for number in range(50)]
GRADES = [1 if number % 50 == 7 else None for number in range(300)]


class Numbers:
    """A score that falls with the document's number, 0.5 apart for each query."""

    name = "numbers"

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        found = [(query.split()[1], document.rpartition("-")[2]) for query, document in pairs]
        return np.array([int(query) / 2 - int(number) for query, number in found], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = candidates(tmp_path / "cand", PAIRS, shard=100, grades=GRADES)
    teach(made, Numbers(), tmp_path / "scores")
    return tmp_path


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row for _, batch in Shards(folder, kind).batches() for row in batch.to_pylist()]


def test_each_query_is_sampled_by_its_own_scores(folder: Path) -> None:
    heard: list[int] = []
    report = sample(folder / "cand", folder / "out", AnchorRule(12, 4), folder / "scores", heard.append)
    found, whole = rows(folder / "out", "candidates"), rows(folder / "cand", "candidates")
    assert (report.queries, report.positives, len(report.before), len(report.after)) == (6, 6, 300, 72)
    assert sum(heard) == 300
    assert found == [row for row in whole if row in found]  # whole rows, in their order
    for query in range(6):
        numbers = [
            int(row["document"].rpartition("-")[2]) for row in found if row["query"] == f"query {query}"
        ]
        assert len(numbers) == 12
        assert {0, 1, 2, 3, 7} <= set(numbers)
        assert max(numbers) > 40
    assert Shards(folder / "out", "candidates").checked()["counts"] == {
        "queries": 6,
        "pairs": 72,
        "positives": 6,
    }
    assert report.quantiles()["before"][0] == -49.0


def test_a_query_is_sampled_alike_whatever_stands_beside_it(folder: Path) -> None:
    sample(folder / "cand", folder / "all", AnchorRule(12, 4), folder / "scores")
    one = candidates(folder / "one", PAIRS[100:150], shard=50, grades=GRADES[100:150])
    sample(one, folder / "some", AnchorRule(12, 4), folder / "scores")
    wanted = [row["document"] for row in rows(folder / "all", "candidates") if row["query"] == "query 2"]
    assert [row["document"] for row in rows(folder / "some", "candidates")] == wanted


def test_labels_are_sampled_by_their_label(folder: Path) -> None:
    label(folder / "cand", Parts({str(folder / "scores"): 1.0}), folder / "rows")
    report = sample(folder / "rows", folder / "out", BandRule(5, 6, (0.5, 1.0)))
    found = rows(folder / "out", "labels")
    assert (len(found), report.positives) == (66, 6)
    for query in range(6):
        numbers = [
            int(row["document"].rpartition("-")[2]) for row in found if row["query"] == f"query {query}"
        ]
        assert numbers[:5] == [0, 1, 2, 3, 7]
        assert len(numbers[5:]) == 6
        assert min(numbers[5:]) >= 25
    assert [row["label"] for row in found] == [
        int(row["query"].split()[1]) / 2 - int(row["document"].rpartition("-")[2]) for row in found
    ]


def test_what_cannot_be_sampled_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder of candidates or labels, .* is one of scores"):
        sample(folder / "scores", folder / "out", AnchorRule())
    with pytest.raises(InputError, match="name the folder that runoff teach wrote"):
        sample(folder / "cand", folder / "out", AnchorRule())
    more = candidates(folder / "more", [*PAIRS, ("new", "pair")], shard=400)
    with pytest.raises(InputError, match=r"scores has no score for .*row 300"):
        sample(more, folder / "unscored", AnchorRule(), folder / "scores")
    with pytest.raises(InputError, match="not finished"):
        Shards(folder / "unscored", "candidates").checked()
