"""Fields of a JSON body, checked: null is absent, aliases are one field, and an error names the field that came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runoff.serve.refusals import invalid


def body_object(body: Any) -> Mapping[str, Any]:
    """The body, which must be an object."""
    if not isinstance(body, dict):
        raise invalid(f"expected a JSON object with a query and documents, got {kind_of(body)}")
    return body


def first_given(body: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The first of the names that is neither absent nor null, and its value; else the first name and None."""
    for name in names:
        if body.get(name) is not None:
            return name, body[name]
    return names[0], None


def flag(body: Mapping[str, Any], *names: str) -> bool | None:
    """A boolean; None where absent."""
    name, value = first_given(body, *names)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name}: expected true or false, got {kind_of(value)}")
    return value


def whole(body: Mapping[str, Any], *names: str, least: int = 0) -> int | None:
    """A whole number of `least` or more; None where absent."""
    name, value = first_given(body, *names)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{name}: expected a whole number of {least} or more, got {kind_of(value)}")
    if value < least:
        raise invalid(f"{name}: expected a whole number of {least} or more, got {value}")
    return value


def word(body: Mapping[str, Any], *names: str, known: tuple[str, ...]) -> str | None:
    """One of the known words, in any case; None where absent."""
    name, value = first_given(body, *names)
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in known:
        raise invalid(f"{name}: expected {' or '.join(known)}, got {value!r:.80}")
    return value.lower()


def text(body: Mapping[str, Any], name: str) -> str:
    """A text that must be there."""
    value = body.get(name)
    if value is None:
        raise invalid(f"{name}: expected a string, got nothing")
    if not isinstance(value, str):
        raise invalid(f"{name}: expected a string, got {kind_of(value)}")
    return value


def optional_text(body: Mapping[str, Any], name: str) -> str | None:
    """A text; None where absent."""
    return None if body.get(name) is None else text(body, name)


def texts(name: str, value: Any) -> list[str]:
    """A list of texts; one text alone is a list of one."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise invalid(f"{name}: expected a list of strings, got {kind_of(value)}")
    for place, item in enumerate(value):
        if not isinstance(item, str):
            raise invalid(f"{name}[{place}]: expected a string, got {kind_of(item)}")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words; never the value, which may be a text of the user's."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
