"""A teacher's scores: each pair once, whatever stops the work, and what cannot be learned from is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runoff
from runoff import CrossEncoder, Embedder
from runoff.contracts import FloatArray, InputError, Pair, ScoreError
from runoff.data.shards import Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill.teacher import (
    KnownKeys,
    RerankerTeacher,
    SimilarityTeacher,
    pair_key,
    score_moments,
    teach,
)
from standin_distil import candidates, many

pytest.importorskip("pyarrow")

SCRIPT = Path(__file__).with_name("killed_teacher.py")


class Lengths:
    """Scores by the lengths of the texts, and counts what it is asked."""

    name = "lengths"

    def __init__(self) -> None:
        self.asked: list[Pair] = []

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        self.asked += pairs
        return np.array([len(query) + len(document) / 7 for query, document in pairs], np.float32)


def scores(folder: Path) -> dict[bytes, float]:
    rows = [row for _, batch in Shards(folder, "scores").batches() for row in batch.to_pylist()]
    found = {row["key"]: row["score"] for row in rows}
    assert len(found) == len(rows), "a pair stands there twice"
    return found


def wanted(pairs: Sequence[Pair]) -> dict[bytes, float]:
    return {pair_key(*pair): float(np.float32(len(pair[0]) + len(pair[1]) / 7)) for pair in pairs}


# --- once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_pairs", [1, 7, 10, 1000])
def test_every_pair_is_scored_and_progress_hears_of_each(tmp_path: Path, shard_pairs: int) -> None:
    pairs, heard = many(57), []
    folder = candidates(tmp_path / "cand", pairs)
    report = teach(folder, Lengths(), tmp_path / "out", shard_pairs=shard_pairs, advance=heard.append)
    assert scores(tmp_path / "out") == wanted(pairs)
    assert (report.pairs, report.scored, report.known, sum(heard)) == (57, 57, 0, 57)
    values = np.array(list(wanted(pairs).values()))
    assert report.mean == pytest.approx(values.mean())
    assert report.deviation == pytest.approx(values.std())
    manifest = Shards(tmp_path / "out", "scores").checked()
    assert manifest["counts"] == {"pairs": 57}
    assert manifest["identity"] == {"teacher": "lengths"}


@pytest.mark.parametrize("shard_pairs", [1, 3, 4, 100])
def test_equal_texts_are_scored_once_under_whatever_ids(tmp_path: Path, shard_pairs: int) -> None:
    pairs = [("a", "one"), ("a", "three"), ("a", "one"), ("b", "one"), ("a", "three"), ("a", "one")] * 3
    teacher, heard = Lengths(), []
    folder = candidates(tmp_path / "cand", pairs, shard=7)
    report = teach(folder, teacher, tmp_path / "out", shard_pairs=shard_pairs, advance=heard.append)
    assert sorted(teacher.asked) == [("a", "one"), ("a", "three"), ("b", "one")]
    assert (report.pairs, report.scored, report.known, sum(heard)) == (18, 3, 15, 18)


def test_texts_that_read_alike_end_to_end_are_two_pairs() -> None:
    assert pair_key("ab", "c") != pair_key("a", "bc")


def test_with_more_candidates_only_the_new_ones_are_scored(tmp_path: Path) -> None:
    teach(candidates(tmp_path / "few", many(30)), Lengths(), tmp_path / "out")
    teacher = Lengths()
    report = teach(candidates(tmp_path / "more", many(45)[::-1]), teacher, tmp_path / "out")
    assert sorted(teacher.asked) == sorted(many(45)[30:])
    assert (report.scored, report.known) == (15, 30)
    assert scores(tmp_path / "out") == wanted(many(45))


def test_a_shard_that_was_deleted_is_scored_anew_and_no_other_is_written_over(tmp_path: Path) -> None:
    folder, out = candidates(tmp_path / "cand", many(57)), tmp_path / "out"
    teach(folder, Lengths(), out, shard_pairs=10)
    Shards(out, "scores").files()[1].unlink()
    assert teach(folder, Lengths(), out, shard_pairs=10).scored == 10
    assert scores(out) == wanted(many(57))


def test_known_keys_are_found_among_any_number() -> None:
    keys = [pair_key("q", str(number)) for number in range(2000)]
    known = KnownKeys()
    for start in range(0, 1000, 37):
        known.add(keys[start : min(start + 37, 1000)])
    assert known.count == 1000
    assert known.has(keys).tolist() == [True] * 1000 + [False] * 1000
    assert len(known._sorted) < 12
    ends_in_zeros = [bytes(16), b"x" + bytes(15), b"x" * 15 + b"\0"]
    known.add(ends_in_zeros[1:])
    assert known.has(ends_in_zeros).tolist() == [False, True, True]


# --- stopped and gone on with ------------------------------------------------------------------------


def start(folder: Path, out: Path, log: Path) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(Path(runoff.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(SCRIPT), str(folder), str(out), str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_killed_at_any_moment_nothing_is_lost_or_kept_twice(tmp_path: Path) -> None:
    pairs = many(700)
    folder, out, log = candidates(tmp_path / "cand", pairs, shard=64), tmp_path / "out", tmp_path / "log"
    kills = 0
    for kill in range(4):
        whole = len(list(out.glob("part-*.parquet"))) if out.exists() else 0
        with start(folder, out, log) as process:
            deadline = time.monotonic() + 60
            while len(list(out.glob("part-*.parquet"))) < whole + 5 + kill and time.monotonic() < deadline:
                time.sleep(0.003)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert kills == 4
    with pytest.raises(InputError, match="not finished"):
        Shards(out, "scores").checked()
    kept = len(scores(out))
    with start(folder, out, log) as process:
        printed, _ = process.communicate(timeout=60)
    assert printed.split() == ["700", str(700 - kept)]
    assert scores(out) == wanted(pairs)
    # A kill costs at most the shard of the moment: 7 pairs.
    assert 700 <= len(log.read_text(encoding="utf-8").splitlines()) <= 700 + 7 * kills


# --- refused -----------------------------------------------------------------------------------------


class Fixed:
    name = "fixed"

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
        return np.array(self._values[: len(pairs)], np.float32)


def test_a_score_that_is_no_number_is_named_with_its_row(tmp_path: Path) -> None:
    folder = candidates(tmp_path / "cand", many(12))
    with pytest.raises(ScoreError, match=r"fixed gave nan for .*part-00000\.parquet, row 3 .*'d3'.*one of 2"):
        teach(folder, Fixed([1, 2, 3, np.nan, 5, np.inf, *range(6)]), tmp_path / "out")
    assert scores(tmp_path / "out") == {}


def test_one_constant_score_teaches_nothing(tmp_path: Path) -> None:
    folder = candidates(tmp_path / "cand", many(12))
    with pytest.raises(InputError, match=r"fixed gave every pair the same score \(2\)"):
        teach(folder, Fixed([2.0] * 12), tmp_path / "out")
    with pytest.raises(InputError, match="not finished"):
        Shards(tmp_path / "out", "scores").checked()


def test_scores_of_another_teacher_or_precision_are_not_mixed_in(tmp_path: Path) -> None:
    folder = candidates(tmp_path / "cand", many(12))
    teach(folder, Lengths(), tmp_path / "out", about={"precision": "fp32"})
    with pytest.raises(InputError, match="begun with precision 'fp32', now 'int8'"):
        teach(folder, Lengths(), tmp_path / "out", about={"precision": "int8"})
    with pytest.raises(InputError, match=r"begun with .*teacher 'lengths', now 'fixed'"):
        teach(folder, Fixed(range(12)), tmp_path / "out", about={"precision": "fp32"})


def test_candidates_that_are_not_finished_or_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of candidates"):
        teach(tmp_path / "nowhere", Lengths(), tmp_path / "out")
    shards = Shards(tmp_path / "half", candidate_shards.KIND)
    shards.begin({})
    with pytest.raises(InputError, match="half is not finished"):
        teach(tmp_path / "half", Lengths(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [("", "text"), ("query", " \n")])
def test_an_empty_text_is_named_with_its_row(tmp_path: Path, bad: Pair) -> None:
    folder = candidates(tmp_path / "cand", [*many(12), bad])
    with pytest.raises(InputError, match=r"part-00001\.parquet, row 2: expected a text as (query|document)"):
        teach(folder, Lengths(), tmp_path / "out")


# --- real teachers -------------------------------------------------------------------------------------


def test_a_reranker_teaches_with_its_logits(tiny: Any, tmp_path: Path) -> None:
    """By sentence-transformers, with torch's Identity as activation: the second implementation."""
    pairs = many(25)
    out = tmp_path / "out"
    teach(candidates(tmp_path / "cand", pairs), RerankerTeacher(CrossEncoder(tiny("bert"))), out)
    from sentence_transformers import CrossEncoder as Reference
    from torch import nn

    exact = Reference(str(tiny("bert")), device="cpu").predict(pairs, activation_fn=nn.Identity())
    found = scores(out)
    np.testing.assert_allclose([found[pair_key(*pair)] for pair in pairs], exact, atol=1e-4)


def test_a_teacher_has_one_label(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"needs one label, .* has 3"):
        RerankerTeacher(CrossEncoder(tiny("ettin-3-labels")))


def test_an_embedder_teaches_with_its_cosine(tiny: Any, tmp_path: Path) -> None:
    embedder, pairs, out = Embedder(tiny("static")), many(25), tmp_path / "out"
    teach(candidates(tmp_path / "cand", pairs), SimilarityTeacher(embedder), out)
    found = scores(out)
    for query, document in pairs:
        left, right = embedder.encode_query(query), embedder.encode_document([document])[0]
        cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        assert found[pair_key(query, document)] == pytest.approx(cosine, abs=1e-6)


def test_the_spread_of_shards_is_that_of_all_scores(tmp_path: Path) -> None:
    folder = candidates(tmp_path / "cand", many(41))

    class FarFromZero(Lengths):
        def score_pairs(self, pairs: Sequence[Pair]) -> FloatArray:
            return super().score_pairs(pairs) / 1000 + np.float32(1000)

    teach(folder, FarFromZero(), tmp_path / "out", shard_pairs=6)
    values = np.array(list(scores(tmp_path / "out").values()), np.float64)
    mean, deviation = score_moments(Shards(tmp_path / "out", "scores"))
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert deviation == pytest.approx(values.std(), rel=1e-9)
