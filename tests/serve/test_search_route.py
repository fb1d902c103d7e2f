"""The route /search: an index's hits, reranked by the served model; there only with --index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff import CrossEncoder, Index, Search
from runoff.contracts import Document
from standin_served import Served

Tiny = Callable[[str], Path]
TEXTS = {
    "boiler": "The boiler is serviced every October.",
    "roof": "The roof was mended after the storm.",
    "water": "A boiler heats water; a boiler may leak.",
}


@pytest.fixture(scope="module")
def searched(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Search]]:
    """A server of three documents, and the same search by the library."""
    folder = tmp_path_factory.mktemp("searched")
    reranker = CrossEncoder(tiny("bert"), precision="fp32")
    index = Index.create(folder / "notes.index", tokenizer=reranker)
    index.add([Document(id, text, metadata={"kind": "note"}) for id, text in TEXTS.items()])
    flags = ["-m", "runoff", "serve", "--port", "0", "--model", str(tiny("bert")), "--precision", "fp32"]
    server = Served.start([*flags, "--index", str(folder / "notes.index")], folder)
    yield server, Search(index, reranker)
    server.end()


def test_hits_are_the_library_s(searched: tuple[Served, Search]) -> None:
    server, search = searched
    reply = server.post({"query": "boiler"}, "/search")
    assert reply.status == 200, reply.body
    expected = search.search("boiler").hits
    hits = reply.json["hits"]
    assert [each["id"] for each in hits] == [each.id for each in expected]
    assert [each["score"] for each in hits] == pytest.approx([each.score for each in expected], abs=1e-5)
    assert [each["text"] for each in hits] == [TEXTS[each["id"]] for each in hits]
    assert hits[0]["rank"] == 1
    assert set(hits[0]["ranks"]) == {"bm25", "rerank"}
    assert set(reply.json["timings_ms"]) == {"retrieve", "rerank", "total"}


def test_top_k_and_a_filter_hold(searched: tuple[Served, Search]) -> None:
    server, _ = searched
    assert len(server.post({"query": "boiler", "top_k": 1}, "/search").json["hits"]) == 1
    found = server.post({"query": "boiler", "where": "id = 'water'"}, "/search").json["hits"]
    assert [each["id"] for each in found] == ["water"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "query: expected a string"),
        ({"query": " "}, 400, "query must not be empty"),
        ({"query": "x", "top_k": 0}, 422, "top_k: expected a whole number of 1 or more"),
        ({"query": "x", "top_k": 5000}, 422, "top_k: expected at most 1000"),
        ({"query": "x", "where": "no such thing ="}, 422, ""),
    ],
)
def test_wrong_input_is_refused(
    searched: tuple[Served, Search], body: dict[str, Any], status: int, said: str
) -> None:
    reply = searched[0].post(body, "/search")
    assert (reply.status, said in reply.json["detail"]) == (status, True), reply.body


def test_it_shares_its_server_with_reranking(searched: tuple[Served, Search]) -> None:
    reply = searched[0].post({"query": "boiler", "documents": list(TEXTS.values())})
    assert len(reply.json["results"]) == 3


def test_without_an_index_there_is_no_such_route(served: Served) -> None:
    assert served.post({"query": "boiler"}, "/search").status == 404
