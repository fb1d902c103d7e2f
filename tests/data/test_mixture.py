"""Mixtures as files: what they say, what they leave out, and errors that name file, subset and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import InputError
from runoff.data.mixture import Mixture, RowColumns, Subset, find_mixture, read_mixture

TOML = """
name = "ours"
seed = 7

[defaults]
licence = "cc-by-4.0"
weight = 0.5
columns = { label = "score" }

[[subsets]]
name = "manuals"
folder = "rows"
cap = 100
columns = { query = "asked" }

[[subsets]]
name = "quora"
dataset = "org/mixed"
revision = "v1"
weight = 2
held_out = 5000
licence = "mit"
"""


def refused(tmp_path: Path, subset: dict[str, Any], match: str, **keys: Any) -> None:
    """A file of one subset with these keys, and these of the whole, is refused by its name."""
    path = tmp_path / "bad.json"
    subsets = [{"name": "one", "folder": "rows", **subset}]
    path.write_text(json.dumps({"name": "ours", "subsets": subsets, **keys}), encoding="utf-8")
    with pytest.raises(InputError, match=match) as raised:
        read_mixture(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_says_what_each_subset_is(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(TOML, encoding="utf-8")
    mixture = find_mixture(path)
    assert (mixture.name, mixture.seed, mixture.base) == ("ours", 7, tmp_path)
    assert mixture.subsets == (
        Subset(
            "manuals",
            folder="rows",
            cap=100,
            weight=0.5,
            columns=RowColumns(query="asked", label="score"),
            licence="cc-by-4.0",
        ),
        Subset(
            "quora",
            dataset="org/mixed",
            revision="v1",
            weight=2.0,
            held_out=5000,
            columns=RowColumns(label="score"),
            licence="mit",
        ),
    )
    assert [subset.source for subset in mixture.subsets] == ["rows", "org/mixed/quora"]


def test_toml_and_json_say_the_same_and_a_definition_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(TOML, encoding="utf-8")
    mixture = read_mixture(path)
    again = tmp_path / "ours.json"
    again.write_text(json.dumps(mixture.definition()), encoding="utf-8")
    assert read_mixture(again) == mixture


def test_what_is_only_said_of_a_subset_is_no_part_of_its_identity() -> None:
    one = Mixture("ours", (Subset("a", folder="rows", licence="mit", remark="old"),))
    other = Mixture("ours", (Subset("a", folder="rows", licence="cc0"),))
    assert one.identity() == other.identity()
    assert one.definition() != other.definition()
    assert one.identity() != Mixture("ours", (Subset("a", folder="rows", cap=3),)).identity()


def test_some_of_the_subsets_keep_their_order() -> None:
    mixture = Mixture("ours", tuple(Subset(name, folder=name) for name in "abc"), complete_of="org/mixed")
    some = mixture.only(["c", "a"])
    assert [subset.name for subset in some.subsets] == ["a", "c"]
    assert some.complete_of is None
    with pytest.raises(InputError, match="no subset 'd'; there are a, b, c"):
        mixture.only(["d"])


# --- the published mixture -----------------------------------------------------------------------------


def test_the_published_mixture_has_its_39_subsets() -> None:
    mixture = find_mixture("ettin-v1")
    assert (len(mixture.subsets), mixture.seed, mixture.complete_of) == (
        39,
        12,
        "cross-encoder/ettin-reranker-v1-data",
    )
    names = [subset.name for subset in mixture.subsets]
    rescored = [name for name in names if name.startswith("rerank_")]
    assert sorted(rescored) == [
        f"rerank_{name}" for name in ("fever", "fiqa", "hotpotqa", "msmarco", "nq", "squadv2", "trivia")
    ]
    assert {subset.dataset for subset in mixture.subsets} == {mixture.complete_of}
    assert {subset.licence for subset in mixture.subsets} == {"apache-2.0"}
    assert [(each.name, each.held_out, each.held_out_split) for each in mixture.subsets if each.held_out] == [
        ("quora", 5000, "validation")
    ]


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subset", "match"),
    [
        ({"wieght": 2}, r"subset one: unknown key 'wieght'; did you mean weight\?"),
        ({"zzz": 2}, "subset one: unknown key 'zzz'; there are name, folder"),
        ({"columns": {"lable": "x"}}, r"unknown key 'columns.lable'; did you mean label\?"),
        ({"cap": "x"}, "subset one: key 'cap': expected a whole number, got 'x'"),
        ({"cap": 0}, "key 'cap': expected 1 row or more, got 0"),
        ({"cap": True}, "key 'cap': expected a whole number, got True"),
        ({"weight": 0}, "key 'weight': expected a number above 0 .* got 0"),
        ({"weight": float("inf")}, "key 'weight': expected a number above 0"),
        ({"draw": "documents"}, "key 'draw': expected rows or queries, got 'documents'"),
        ({"held_out": -1}, "key 'held_out': expected 0 rows or more"),
        ({"name": "a/b"}, "key 'name': expected letters, digits"),
        ({"dataset": "org/mixed"}, "expected either 'folder' or 'dataset', got both"),
        ({"config": "x"}, "key 'config': only a dataset of the hub has one"),
        ({"licence": 3}, "key 'licence': expected text, got 3"),
    ],
)
def test_a_wrong_key_is_named_with_file_and_subset(
    tmp_path: Path, subset: dict[str, Any], match: str
) -> None:
    refused(tmp_path, subset, match)


def test_what_is_wrong_with_the_whole_is_named(tmp_path: Path) -> None:
    refused(tmp_path, {}, "unknown key 'sede'; did you mean seed", sede=3)
    refused(tmp_path, {}, "key 'seed': expected a whole number", seed="x")
    refused(tmp_path, {}, "defaults: unknown key 'caps'; did you mean cap", defaults={"caps": 1})
    refused(tmp_path, {}, "the mixture 'ours' has no subset", subsets=[])
    twice = [{"name": "one", "folder": "a"}, {"name": "one", "folder": "b"}]
    refused(tmp_path, {}, "two subsets are called 'one'", subsets=twice)
    refused(tmp_path, {}, "subset 2: key 'name' is missing", subsets=[*twice[:1], {"folder": "b"}])
    refused(tmp_path, {}, "subset 1: expected a table, got 'one'", subsets=["one"])
    refused(
        tmp_path,
        {},
        "subset one: expected either 'folder' or 'dataset', got neither",
        subsets=[{"name": "one"}],
    )


def test_a_file_that_is_no_mixture_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no mixture at .*nowhere.toml; the one that comes with Runoff is ettin-v1"
    ):
        find_mixture(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match=r"ending in .toml or .json, or ettin-v1; got ettin-v2"):
        find_mixture("ettin-v2")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken.toml cannot be read as TOML: Invalid value"):
        find_mixture(broken)
    broken.with_suffix(".json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken.json: expected a table with name and subsets, got list"):
        find_mixture(broken.with_suffix(".json"))


# --- columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["label", "score", "similarity"])
def test_the_usual_columns_are_found(label: str) -> None:
    assert RowColumns().chosen(["query", "document", label, "split"]) == {
        "query": "query",
        "document": "document",
        "label": label,
    }


def test_columns_that_could_each_be_meant_are_not_guessed() -> None:
    with pytest.raises(InputError, match="columns label and score could each be the label: name one"):
        RowColumns().chosen(["query", "document", "label", "score"])
    assert RowColumns(label="score").chosen(["query", "document", "label", "score"])["label"] == "score"


def test_a_column_that_is_missing_is_named() -> None:
    with pytest.raises(
        InputError, match="no column for the document: expected document or passage or text, the file"
    ):
        RowColumns().chosen(["query", "label"])
    with pytest.raises(
        InputError, match=r"no column for the query: expected asked, .* columns = { query = ... }"
    ):
        RowColumns(query="asked").chosen(["query", "document", "label"])
    with pytest.raises(InputError, match="no column for the query_id: expected qid"):
        RowColumns(query_id="qid").chosen(["query", "document", "label"])
