"""What is scored: lengths as of natural-questions, the true pairs where they can be had, and the user's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from runoff.bench.pairs import (
    CAP,
    MEAN,
    MEDIAN,
    NATURAL_QUESTIONS,
    PairSet,
    drawn_lengths,
    first_pairs,
    made_pairs,
    made_request,
    natural_questions,
    token_counts,
)
from runoff.bench.prose import prose
from runoff.checkpoint.hub import HubDatasets
from runoff.contracts import InputError


def test_drawn_lengths_have_the_mean_and_median_of_natural_questions() -> None:
    lengths = np.minimum(drawn_lengths(2000), CAP)
    assert (abs(lengths.mean() - MEAN) < 1, abs(np.median(lengths) - MEDIAN) < 1) == (True, True)


def test_made_pairs_have_the_tokens_that_were_drawn(small_model: Path) -> None:
    counts = token_counts(small_model, made_pairs(small_model, 40), limit=4 * CAP)
    np.testing.assert_allclose(counts, drawn_lengths(40), atol=2)


def test_made_pairs_are_the_same_every_time(small_model: Path) -> None:
    assert made_pairs(small_model, 5) == made_pairs(small_model, 5)


def test_a_request_has_one_query_and_lengths_within_a_fifth(small_model: Path) -> None:
    request = made_request(small_model, 30, 100, seed=3)
    counts = token_counts(small_model, request)
    assert len({query for query, _ in request}) == 1
    assert 78 <= counts.min() <= counts.max() <= 122


def test_the_prose_does_not_depend_on_what_was_imported() -> None:
    """transformers adds methods to `logging.Logger` and typing_extensions replaces functions of `typing`."""
    script = (
        "from hashlib import sha256; from runoff.bench.prose import prose; "
        "print(sha256(repr(prose()).encode()).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", first + script], capture_output=True, text=True, check=True
        ).stdout
        for first in ("", "import transformers.utils.logging, typing_extensions, logging.handlers; ")
    ]
    assert digests[0] == digests[1]
    assert len(prose()) > 1000


@pytest.fixture
def questions(tmp_path: Path) -> HubDatasets:
    """A copy of natural-questions with five rows in two files."""
    for number, rows in enumerate((3, 2)):
        names = [f"{number}-{row}" for row in range(rows)]
        columns = {"query": [f"q{name}" for name in names], "answer": [f"a{name}" for name in names]}
        (tmp_path / "pair").mkdir(exist_ok=True)
        parquet.write_table(pa.table(columns), tmp_path / "pair" / f"train-{number:05}.parquet")
    return HubDatasets({NATURAL_QUESTIONS: tmp_path})


def test_natural_questions_are_read_in_their_order(questions: HubDatasets) -> None:
    found = natural_questions(4, questions)
    expected = [("q0-0", "a0-0"), ("q0-1", "a0-1"), ("q0-2", "a0-2"), ("q1-0", "a1-0")]
    assert (found.pairs, found.obstacle) == (expected, "")


def test_natural_questions_out_of_reach_say_why() -> None:
    found = natural_questions(4, HubDatasets())
    assert found.pairs == []
    assert "cannot be reached" in found.obstacle


def test_too_few_pairs_of_one_s_own_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"mine\.tsv holds 1 pairs, 3 were asked for: give more, or --count 1"
    ):
        first_pairs([("q", "d")], 3, "mine.tsv")


def test_sets_of_other_pairs_have_other_digests() -> None:
    assert PairSet([("q", "d")], "x").digest != PairSet([("q", "e")], "x").digest
