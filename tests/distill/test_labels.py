"""Labels: one teacher's scores as they are, several parts on one scale, and what would teach the wrong thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff.contracts import FloatArray, InputError, Pair
from runoff.data.shards import Shards
from runoff.distill.labels import Parts, label
from runoff.distill.teacher import teach
from standin_distil import candidates, many

pytest.importorskip("pyarrow")

PAIRS = many(60)
GRADES = [2 if number % 10 == 0 else 0 if number % 10 == 1 else None for number in range(60)]
JUDGED = np.array([grade == 2 for grade in GRADES])
BM25 = [None if number % 7 == 3 else 30.0 - number % 10 + number // 10 for number in range(60)]


class Fixed:
    """The score of PAIRS[i] is values[i]."""

    def __init__(self, name: str, values: FloatArray) -> None:
        self.name = name
        self._values = dict(zip(PAIRS, values.tolist(), strict=True))

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        return np.array([self._values[pair] for pair in pairs], np.float32)


def drawn(seed: int) -> FloatArray:
    """Scores that put judged answers in front."""
    noise = np.random.default_rng(seed).standard_normal(60)
    values: FloatArray = (7 + 3 * seed * noise + 4 * seed * JUDGED).astype(np.float32)
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cand, and the scores of two teachers in one and two."""
    made = candidates(tmp_path / "cand", PAIRS, grades=GRADES, bm25=BM25)
    for seed, name in enumerate(("one", "two"), start=1):
        teach(made, Fixed(name, drawn(seed)), tmp_path / name, shard_pairs=13)
    return tmp_path


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for _, batch in Shards(folder, "labels").batches() for row in batch.to_pylist()]


def labels(folder: Path) -> list[float]:
    return [row["label"] for row in rows(folder)]


def standardised(values: Any) -> Any:
    return (values - np.mean(values)) / np.std(values)


def test_one_teachers_scores_stay_as_they_are(folder: Path) -> None:
    report = label(folder / "cand", Parts({str(folder / "one"): 1.0}), folder / "out")
    found = rows(folder / "out")
    assert [(row["query"], row["document"]) for row in found] == PAIRS
    assert [row["grade"] for row in found] == GRADES
    assert labels(folder / "out") == drawn(1).tolist()
    assert (report.pairs, report.mean) == (60, pytest.approx(drawn(1).mean()))
    assert report.parts[str(folder / "one")] == pytest.approx(
        (drawn(1)[JUDGED].mean(), drawn(1)[~JUDGED].mean())
    )
    manifest = Shards(folder / "out", "labels").checked()
    assert manifest["identity"]["raw"]
    assert manifest["identity"]["scores"] == [{"folder": "one", "weight": 1.0, "teacher": "one"}]


def test_several_parts_are_brought_to_one_scale(folder: Path) -> None:
    """By hand: z of each teacher, z of BM25's share of the query's best (0 where it found nothing), the bonus."""
    parts = Parts({str(folder / "one"): 1.0, str(folder / "two"): 0.5}, {"bm25": 0.25}, positive_bonus=1.5)
    report = label(folder / "cand", parts, folder / "out")
    best = {
        query: max(b for b, pair in zip(BM25, PAIRS, strict=True) if b and pair[0] == query)
        for query, _ in PAIRS
    }
    share = [
        0.0 if value is None else value / best[query] for value, (query, _) in zip(BM25, PAIRS, strict=True)
    ]
    wanted = standardised(drawn(1).astype(float)) + 0.5 * standardised(drawn(2).astype(float))
    wanted = wanted + 0.25 * standardised(share) + 1.5 * JUDGED
    np.testing.assert_allclose(labels(folder / "out"), wanted, rtol=1e-5, atol=1e-6)
    assert report.deviation == pytest.approx(np.std(wanted))


def test_labels_can_be_made_again(folder: Path) -> None:
    parts = Parts({str(folder / "one"): 1.0})
    label(folder / "cand", parts, folder / "out")
    before = rows(folder / "out")
    heard: list[int] = []
    label(folder / "cand", parts, folder / "out", heard.append)
    assert (rows(folder / "out"), sum(heard)) == (before, 60)
    with pytest.raises(InputError, match=r"begun with positive_bonus 0\.0, now 1\.0"):
        label(folder / "cand", Parts({str(folder / "one"): 1.0}, positive_bonus=1.0), folder / "out")


def test_a_pair_without_a_score_is_named(folder: Path) -> None:
    more = candidates(folder / "more", [*PAIRS, ("new", "pair"), ("new", "one")])
    with pytest.raises(InputError, match=r"one has no score for .*part-00006\.parquet, row 0 and 1 more "):
        label(more, Parts({str(folder / "one"): 1.0}), folder / "out")
    assert not (folder / "out").exists()


def test_a_teacher_that_disagrees_in_sign_is_refused_unless_its_weight_does_too(
    folder: Path, tmp_path: Path
) -> None:
    grades = [2 if number % 2 else None for number in range(60)]
    made = candidates(tmp_path / "judged", PAIRS, grades=grades)
    distance = np.array([1.0 if grade else 5.0 for grade in grades], np.float32) + drawn(1) / 10
    teach(made, Fixed("distance", distance), tmp_path / "distance")
    parts = {str(tmp_path / "distance"): 1.0}
    with pytest.raises(
        InputError, match=r"distance gives judged answers .*taught as the worse ones.*weight of -1"
    ):
        label(made, Parts(parts), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    label(made, Parts({name: -weight for name, weight in parts.items()}), tmp_path / "out")
    assert np.corrcoef(labels(tmp_path / "out"), [bool(grade) for grade in grades])[0, 1] > 0.9


def test_a_column_that_says_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="dense: all candidates have the same score"):
        label(folder / "cand", Parts({str(folder / "one"): 1.0}, {"dense": 1.0}), folder / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scores": {}}, "a label needs scores"),
        ({"scores": {"one": 0.0}}, "weight that is a number other than 0 for one"),
        ({"scores": {"one": float("nan")}}, "weight that is a number other than 0 for one, got nan"),
        (
            {"scores": {"one": 1.0}, "columns": {"colour": 1.0}},
            "columns among bm25, dense, fusion, got 'colour'",
        ),
        ({"scores": {"one": 1.0}, "positive_bonus": float("inf")}, "for the bonus, got inf"),
    ],
)
def test_parts_that_make_no_label_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Parts(**arguments)
