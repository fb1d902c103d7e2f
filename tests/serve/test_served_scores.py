"""Scores over HTTP are the library's and the reference's, alone and in any company, whatever the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from standin_served import Served
from standin_texts import prose

Tiny = Callable[[str], Path]
QUERY = "how are words counted"
MODELS = ("bert", "ettin", "modernbert-cls", "roberta", "xlm-roberta")


@pytest.fixture(scope="module")
def serve(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """serve(name) is `runoff serve` with that stand-in, or `runoff-nano`, in fp32."""
    started: list[Served] = []

    @cache
    def start(name: str) -> Served:
        model = "runoff-nano" if name == "runoff-nano" else str(tiny(name))
        flags = ["-m", "runoff", "serve", "--port", "0", "--model", model, "--precision", "fp32"]
        started.append(Served.start(flags, tmp_path_factory.mktemp(name)))
        return started[-1]

    yield start
    for server in started:
        server.end()


def reference(folder: Path | str, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Raw scores by sentence-transformers."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    return np.asarray(CrossEncoder(str(folder), device="cpu").predict(pairs, activation_fn=nn.Identity()))


def documents() -> list[str]:
    texts = prose()
    return [*texts[:12], "", "one", " ".join(texts[12:40])]


def raw(server: Served, query: str, texts: list[str]) -> list[float]:
    """Raw scores by the order of the texts, through TEI's dialect."""
    reply = server.post({"query": query, "texts": texts, "raw_scores": True})
    assert reply.status == 200, reply.body
    found = {each["index"]: each["score"] for each in reply.json}
    return [found[place] for place in range(len(texts))]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_reference_s(serve: Callable[..., Served], tiny: Tiny, name: str) -> None:
    texts = documents()
    found = raw(serve(name), QUERY, texts)
    expected = reference(tiny(name), [(QUERY, text) for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_scores_of_runoff_nano_are_the_library_s(serve: Callable[..., Served]) -> None:
    from runoff import CrossEncoder

    texts = documents()
    expected = CrossEncoder("runoff-nano", precision="fp32").score(QUERY, texts)
    np.testing.assert_allclose(raw(serve("runoff-nano"), QUERY, texts), expected, atol=1e-5)


def test_segments_are_honoured(serve: Callable[..., Served], tiny: Tiny) -> None:
    first, second = prose()[3], prose()[7]
    server = serve("bert")
    found = [raw(server, first, [second])[0], raw(server, second, [first])[0]]
    expected = reference(tiny("bert"), [(first, second), (second, first)])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_scores_do_not_depend_on_who_else_asks(serve: Callable[..., Served]) -> None:
    server, texts = serve("ettin"), documents()
    alone = [raw(server, QUERY, [text])[0] for text in texts]
    bodies: list[Any] = [texts, texts[::-1], *([text] for text in texts)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: raw(server, QUERY, each), bodies * 3))
    for body, found in zip(bodies * 3, answers, strict=True):
        expected = [alone[texts.index(text)] for text in body]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_passages_are_scored_as_the_library_scores_them(tiny: Tiny, tmp_path: Path) -> None:
    from runoff import CrossEncoder

    options = {"long_documents": "passages", "max_length": 64, "precision": "fp32"}
    flags = ["--long-documents", "passages", "--max-length", "64", "--precision", "fp32"]
    command = ["-m", "runoff", "serve", "--port", "0", "--model", str(tiny("bert")), *flags]
    server, texts = Served.start(command, tmp_path), documents()
    try:
        expected = CrossEncoder(tiny("bert"), **options).score(QUERY, texts)  # type: ignore[arg-type]
        np.testing.assert_allclose(raw(server, QUERY, texts), expected, atol=1e-5)
    finally:
        server.end()


def test_a_model_that_sentence_transformers_runs_is_served_too(
    serve: Callable[..., Served], tiny: Tiny
) -> None:
    server, texts = serve("deberta"), [*documents(), "café 👩‍👧", "one"]
    expected = reference(tiny("deberta"), [(QUERY, text) for text in texts])
    found = raw(server, QUERY, texts)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert found[texts.index("one")] == found[-1]  # equal texts tie
    for way in ({"truncate": False}, {"max_tokens_per_doc": 5}, {"truncation_direction": "left"}):
        reply = server.post({"query": QUERY, "texts": texts, **way})
        assert (reply.status, "cuts pairs in one way" in reply.json["detail"]) == (422, True)
    assert server.post(b'{"query": "x", "texts": ["\\ud800"]}').status == 422
    assert server.get("/info").json["engine"]["engine"] == "sentence-transformers"


def test_the_score_route_gives_the_same(serve: Callable[..., Served]) -> None:
    server, texts = serve("bert"), documents()
    answer = server.post({"text_1": QUERY, "text_2": texts, "raw_scores": True}, "/score").json
    np.testing.assert_allclose(
        [each["score"] for each in answer["data"]], raw(server, QUERY, texts), atol=1e-6
    )


def test_info_says_what_is_served(serve: Callable[..., Served], tiny: Tiny) -> None:
    info = serve("bert").get("/info").json
    assert (info["model_id"], info["model_dtype"]) == (str(tiny("bert")), "fp32")
    assert info["max_input_length"] == 512
    assert info["engine"]["engine"] in ("native", "reference")
    assert info["workers"] == {"wanted": 1, "ready": 1}
    models = serve("bert").get("/v1/models").json
    assert [each["id"] for each in models["data"]] == [str(tiny("bert"))]
