"""Queries drawn from a corpus: from where, which, and with which documents as their answers."""

from __future__ import annotations

import pytest

from runoff.contracts import Document, InputError
from runoff.distill.queries import drawn_queries

DOCUMENTS = [
    Document(
        "a", "Guide > Install > On a Mac Open the disk image. Then drag it.", "Guide > Install > On a Mac"
    ),
    Document("b", "How to prune roses Cut in March. Use sharp shears.", "How to prune roses"),
    Document("c", "Water boils at 100 degrees! It depends on height.", None),
    Document("d", "How to prune roses Another text.", "How to prune roses"),
    Document("e", "Short.", "Tea"),
]


def texts(how: str, count: int = 10) -> dict[str, list[str]]:
    return {each.query.text: list(each.positives) for each in drawn_queries(DOCUMENTS, how, count)}  # type: ignore[arg-type]


def test_titles_are_queries_and_all_documents_of_a_title_answer_it() -> None:
    assert texts("titles") == {"Guide > Install > On a Mac": ["a"], "How to prune roses": ["b", "d"]}


def test_headings_are_the_two_innermost() -> None:
    assert texts("headings") == {"Install On a Mac": ["a"], "How to prune roses": ["b", "d"]}


def test_sentences_are_the_first_behind_the_title() -> None:
    assert texts("sentences") == {
        "Open the disk image.": ["a"],
        "Cut in March.": ["b"],
        "Water boils at 100 degrees!": ["c"],
    }


def test_the_draw_depends_on_texts_and_seed_alone() -> None:
    documents = [Document(f"d{i}", f"Sentence number {i} stands here. More.") for i in range(200)]
    drawn = drawn_queries(documents, "sentences", 20)
    assert drawn == drawn_queries(documents[::-1], "sentences", 20)
    assert drawn != drawn_queries(documents, "sentences", 20, seed=13)
    assert len({each.query.id for each in drawn}) == len({each.query.text for each in drawn}) == 20


def test_a_generator_of_ones_own_is_asked_of_every_document() -> None:
    found = drawn_queries(DOCUMENTS, lambda document: [f"what is said in {document.id}", "no"], 10)
    assert [each.query.text for each in found] == [f"what is said in {id}" for id in "abcde"]
    assert [each.positives for each in found] == [{id: 1} for id in "abcde"]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="expected queries from titles, headings, sentences, got 'poems'"):
        drawn_queries(DOCUMENTS, "poems", 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 1 query or more to draw, got 0"):
        drawn_queries(DOCUMENTS, "titles", 0)
    with pytest.raises(InputError, match="no document gave a query of 3 to 40 words from titles"):
        drawn_queries([DOCUMENTS[4]], "titles", 3)
