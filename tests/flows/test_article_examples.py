"""The release article's three examples run with only their import lines changed, to the same numbers.

Each program below is run twice, as it stands on sentence-transformers and with its import line replaced, on
stand-ins that lie in the local hub cache under the real names.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import standins
from runoff import CrossEncoder

IMPORTS = {
    "from sentence_transformers import CrossEncoder\n": "from runoff import CrossEncoder\n",
    "from sentence_transformers import CrossEncoder, SentenceTransformer\n": (
        "from runoff import CrossEncoder, Embedder as SentenceTransformer\n"
    ),
}

PREDICT = """
from sentence_transformers import CrossEncoder

model = CrossEncoder("cross-encoder/ettin-reranker-32m-v1")
scores = model.predict([
    ("Who founded Apple?", "Steve Jobs, Steve Wozniak and Ronald Wayne set up the computer firm in 1976."),
    ("Who founded Apple?", "An apple tree bears fruit four to ten years after it was planted."),
])
"""

RANK = """
from sentence_transformers import CrossEncoder

model = CrossEncoder("cross-encoder/ettin-reranker-32m-v1")
query = "Which planet is called the red one?"
documents = [
    "Venus is almost as large as the Earth and shrouded in clouds.",
    "Iron oxide gives the dust of Mars its rusty colour.",
    "Jupiter's great spot is a storm older than the telescope that found it.",
    "Saturn wears the brightest rings of all.",
]
results = model.rank(query, documents, top_k=4, return_documents=True)
"""

RETRIEVE_AND_RERANK = """
from sentence_transformers import CrossEncoder, SentenceTransformer

embedder = SentenceTransformer("sentence-transformers/static-retrieval-mrl-en-v1")
reranker = CrossEncoder("cross-encoder/ettin-reranker-68m-v1")
documents = [
    "A kettle boils faster at the top of a mountain, though the tea is weaker.",
    "Bread dough rises because yeast makes gas out of sugar.",
    "Sourdough needs no yeast from a shop: flour brings its own.",
    "The first railway carried coal, and then the people who dug it.",
    "Baking soda needs an acid to make a cake rise.",
    "Tides follow the moon, and to a lesser degree the sun.",
    "A baker's dozen is thirteen.",
    "Steam in a hot oven gives bread its crust.",
    "Salt slows the yeast down and strengthens the dough.",
    "Glaciers move by a few metres a year.",
]
query = "What makes bread rise?"
query_vector = embedder.encode_query(query, convert_to_tensor=True)
document_vectors = embedder.encode_document(documents, convert_to_tensor=True)
similarities = embedder.similarity(query_vector, document_vectors)[0]
found = similarities.topk(k=7).indices.tolist()
results = reranker.rank(query, [documents[row] for row in found], top_k=5, return_documents=True)
"""

FAST_OPTIONS = {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}


@pytest.fixture(scope="module", autouse=True)
def local_hub(hub_home: Path, tmp_path_factory: pytest.TempPathFactory):
    """The stand-ins where huggingface_hub keeps what it has downloaded; gone afterwards."""
    cache, built = hub_home / "hub", tmp_path_factory.mktemp("built")
    for size in ("32m", "68m"):
        folder = standins.build_ettin_reranker(built / size, size)
        standins.place_in_hub_cache(folder, f"cross-encoder/ettin-reranker-{size}-v1", cache)
    static = standins.build_static_embedder(built / "static")
    standins.place_in_hub_cache(static, "sentence-transformers/static-retrieval-mrl-en-v1", cache)
    yield cache
    for folder in cache.glob("models--*"):
        shutil.rmtree(folder)


def run_on_both(program: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables that `program` leaves with Runoff, and those it leaves with sentence-transformers."""
    line = next(line for line in IMPORTS if line in program)
    swapped = program.replace(line, IMPORTS[line])
    changed = [new for old, new in zip(program.splitlines(), swapped.splitlines(), strict=True) if old != new]
    assert changed == [IMPORTS[line].rstrip()]
    ours: dict[str, Any] = {}
    reference: dict[str, Any] = {}
    exec(swapped, ours)
    exec(program, reference)
    for kind in ("CrossEncoder", "SentenceTransformer"):
        if kind in ours:
            assert ours[kind].__module__.startswith("runoff.")
            assert reference[kind].__module__.startswith("sentence_transformers.")
    return ours, reference


def assert_same_results(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    """Equal in order, keys, types and texts, and in scores within 1e-4; best first."""
    assert [result["corpus_id"] for result in ours] == [result["corpus_id"] for result in reference]
    for result, expected in zip(ours, reference, strict=True):
        assert list(result) == list(expected) == ["corpus_id", "score", "text"]
        assert [type(value) for value in result.values()] == [type(value) for value in expected.values()]
        assert result["text"] == expected["text"]
        assert result["score"] == pytest.approx(expected["score"], abs=1e-4)
    scores = [result["score"] for result in ours]
    assert scores == sorted(scores, reverse=True)
    assert np.diff(scores).max() < -1e-3, "scores too alike for a wrong order to show"


def test_predict_scores_two_pairs():
    ours, reference = run_on_both(PREDICT)
    assert isinstance(ours["scores"], np.ndarray)
    assert ours["scores"].dtype == reference["scores"].dtype == np.float32
    assert ours["scores"].shape == reference["scores"].shape == (2,)
    np.testing.assert_allclose(ours["scores"], reference["scores"], rtol=0, atol=1e-4)


def test_rank_returns_the_documents_best_first():
    ours, reference = run_on_both(RANK)
    assert isinstance(ours["results"], list)
    assert len(ours["results"]) == 4
    assert {result["text"] for result in ours["results"]} == set(ours["documents"])
    assert_same_results(ours["results"], reference["results"])


def test_a_static_embedder_retrieves_and_the_reranker_reorders():
    ours, reference = run_on_both(RETRIEVE_AND_RERANK)
    for name in ("query_vector", "document_vectors", "similarities"):
        assert type(ours[name]) is type(reference[name])
        assert ours[name].shape == reference[name].shape
        np.testing.assert_allclose(ours[name], reference[name], rtol=0, atol=1e-4)
    assert ours["document_vectors"].shape == (10, 1024)
    assert ours["found"] == reference["found"]
    assert len(ours["found"]) == 7
    assert len(ours["results"]) == 5
    assert_same_results(ours["results"], reference["results"])


def test_options_for_a_gpu_construct_on_a_cpu_and_lose_no_precision():
    """The article's fastest form; sentence-transformers itself refuses flash attention on a CPU."""
    program = PREDICT.replace('-v1")', f'-v1", device="cpu", model_kwargs={FAST_OPTIONS})')
    assert "flash_attention_2" in program
    ours: dict[str, Any] = {}
    exec(program.replace("from sentence_transformers", "from runoff"), ours)
    _, reference = run_on_both(PREDICT)
    assert isinstance(ours["model"], CrossEncoder)
    np.testing.assert_allclose(ours["scores"], reference["scores"], rtol=0, atol=1e-4)
