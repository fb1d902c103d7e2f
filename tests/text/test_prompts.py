"""Which prompt goes in front of a text: the one given, the one named, the default one, or none."""

from __future__ import annotations

import pytest

from runoff.contracts import InputError
from runoff.text.prompts import checked_default, merged_prompts, resolve_prompt

PROMPTS = {"query": "query: ", "empty": ""}


@pytest.mark.parametrize(
    ("prompt", "name", "default", "expected"),
    [
        (None, None, None, ""),
        (None, None, "query", "query: "),
        (None, "query", None, "query: "),
        (None, "empty", "query", ""),
        ("own: ", None, "query", "own: "),
        ("", None, "query", ""),
        ("", "query", "query", ""),
    ],
)
def test_the_given_goes_before_the_named_before_the_default(
    prompt: str | None, name: str | None, default: str | None, expected: str
) -> None:
    assert resolve_prompt(prompt, name, PROMPTS, default) == expected


def test_a_prompt_and_a_name_together_warn_that_the_name_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert resolve_prompt("own: ", "query", PROMPTS, None) == "own: "
    assert "the name 'query' is not" in caplog.text


def test_a_prompt_alone_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    resolve_prompt("own: ", None, PROMPTS, "query")
    resolve_prompt(None, "query", PROMPTS, None)
    assert caplog.records == []


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"no prompt is named 'document'; this model has \['empty', 'query'\]"
    ):
        resolve_prompt(None, "document", PROMPTS, "query")
    with pytest.raises(InputError, match="this model has none"):
        resolve_prompt(None, "query", {}, None)


def test_the_callers_prompts_replace_the_saved_ones() -> None:
    saved = {"query": "saved: ", "document": None}
    assert merged_prompts(saved, None) == {"query": "saved: ", "document": ""}
    assert merged_prompts(saved, {"query": "own: ", "task": "t: "}) == {
        "query": "own: ",
        "document": "",
        "task": "t: ",
    }


def test_an_empty_prompt_counts_as_set_and_none_does_not() -> None:
    saved = {"query": "saved: "}
    assert merged_prompts(saved, {"query": ""}) == {"query": ""}
    assert merged_prompts(saved, {"query": None, "new": None}) == {"query": "saved: ", "new": ""}


@pytest.mark.parametrize(
    ("given", "saved", "name"), [(None, None, None), (None, "query", "query"), ("empty", "query", "empty")]
)
def test_the_callers_default_goes_before_the_saved_one(
    given: str | None, saved: str | None, name: str | None
) -> None:
    assert checked_default(given, saved, PROMPTS) == name


def test_a_default_that_no_prompt_has_is_refused() -> None:
    with pytest.raises(InputError, match="the default prompt is to be 'task'"):
        checked_default("task", None, PROMPTS)
    with pytest.raises(InputError, match="this model's prompts are none"):
        checked_default(None, "query", {})
