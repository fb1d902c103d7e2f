"""Candidates: what a row says, judged documents that were missed, going on after a kill, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import Document, Hit, InputError, Query
from runoff.data.shards import Shards
from runoff.distill.candidates import CandidateOptions, CandidateReport, collect
from runoff.distill.queries import Asked
from runoff.search.index import Index
from runoff.search.retrieve import BM25
from standin_search import SharedWords

pytest.importorskip("pyarrow")

DOCUMENTS = [
    Document("apple", "red apple pie"),
    Document("pear", "green pear tart"),
    Document("plum", "blue plum cake and apple"),
    Document("fig", "a fig"),
]
ASKED = [
    Asked(Query("apple cake", "q1"), {"apple": 2, "fig": 1, "pear": 0}),
    Asked(Query("pear", "q2"), {}),
    Asked(Query("zebra", "q3"), {}),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("fruit") / "index", SharedWords())
    index.add(DOCUMENTS)
    return index


def collected(
    index: Index, out: Path, asked: Sequence[Asked] = ASKED, retriever: Any = None, **options: int
) -> CandidateReport:
    limits = CandidateOptions(**options)
    return collect(asked, retriever or BM25(index), index.candidates, out, limits, source={"index": "fruit"})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for _, batch in Shards(folder, "candidates").batches() for row in batch.to_pylist()]


def test_a_row_has_the_texts_the_grade_and_what_the_retriever_said(index: Index, tmp_path: Path) -> None:
    report = collected(index, tmp_path / "out")
    found = rows(tmp_path / "out")
    hits = BM25(index).retrieve(ASKED[0].query, 100)
    assert [(row["query_id"], row["document_id"], row["rank"], row["grade"]) for row in found] == [
        ("q1", hits[0].id, 1, None if hits[0].id == "plum" else 2),
        ("q1", hits[1].id, 2, None if hits[1].id == "plum" else 2),
        ("q1", "fig", None, 1),  # judged, and not retrieved
        ("q2", "pear", 1, None),
    ]
    assert found[0]["query"] == "apple cake"
    assert found[0]["document"] == hits[0].text
    assert found[0]["bm25"] == pytest.approx(hits[0].score)
    assert found[0]["dense"] is None
    assert found[2]["bm25"] is None
    assert report == CandidateReport(queries=3, pairs=4, positives=2, missed=1, empty=("q3",), kept_shards=0)
    assert Shards(tmp_path / "out", "candidates").checked()["counts"] == {
        "queries": 3,
        "pairs": 4,
        "positives": 2,
    }


class Counting:
    """BM25 that counts its queries, and breaks down when it is told."""

    def __init__(self, index: Index, breaks_at: int = 1000) -> None:
        self.inner, self.breaks_at, self.asked = BM25(index), breaks_at, 0

    def retrieve(self, query: Query, k: int) -> list[Hit]:
        if self.asked == self.breaks_at:
            raise KeyboardInterrupt
        self.asked += 1
        return self.inner.retrieve(query, k)


def test_what_was_collected_before_an_interruption_is_kept(index: Index, tmp_path: Path) -> None:
    asked = [Asked(Query(f"apple cake number {i}", f"q{i}"), {}) for i in range(10)]
    with pytest.raises(KeyboardInterrupt):
        collected(index, tmp_path / "out", asked, Counting(index, breaks_at=5), shard_queries=2)
    again = Counting(index)
    assert collected(index, tmp_path / "out", asked, again, shard_queries=2).kept_shards == 2
    assert again.asked == 6
    collected(index, tmp_path / "whole", asked, shard_queries=2)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    done = Counting(index)
    collected(index, tmp_path / "out", asked, done, shard_queries=2)
    assert done.asked == 0


def test_other_queries_or_another_depth_are_not_mixed_in(index: Index, tmp_path: Path) -> None:
    collected(index, tmp_path / "out")
    with pytest.raises(InputError, match="begun with depth 100, now 7"):
        collected(index, tmp_path / "out", depth=7)
    with pytest.raises(InputError, match="begun with queries "):
        collected(index, tmp_path / "out", ASKED[:2])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "expected at least one query"),
        ([Asked(Query("apple", None), {})], "query 1 .* needs an id of its own, got None"),
        ([Asked(Query("apple", "q"), {}), Asked(Query("pear", "q"), {})], "query 2 .* of its own, got 'q'"),
        ([Asked(Query("apple", "q"), {"melon": 1})], "'q': 1 of its judged documents .* first is 'melon'"),
    ],
)
def test_queries_that_cannot_be_used_are_refused(
    index: Index, tmp_path: Path, asked: list[Asked], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        collected(index, tmp_path / "out", asked)


def test_a_document_without_text_is_named(index: Index, tmp_path: Path) -> None:
    class Blank:
        def retrieve(self, query: Query, k: int) -> list[Hit]:
            return [Hit("blank", 1.0, 1, "  ")]

    with pytest.raises(InputError, match="query 'q1': document 'blank' has no text"):
        collected(index, tmp_path / "out", retriever=Blank())


@pytest.mark.parametrize("options", [{"depth": 0}, {"depth": 2049}, {"shard_queries": 0}])
def test_limits_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected 1"):
        CandidateOptions(**options)
