"""A mixture as data: named subsets with their sources, caps, weights and licences, read from TOML or JSON.

name = "ours"
[defaults]                          # keys that every subset has unless it says otherwise
licence = "cc-by-4.0"
[[subsets]]
name = "manuals"
folder = "build/rows"               # parquet, jsonl or csv files, or what `runoff label` wrote
cap = 100_000
[[subsets]]
name = "quora"
dataset = "cross-encoder/ettin-reranker-v1-data"
held_out = 5000
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from runoff.contracts import InputError
from runoff.data.sampling import SEED

BUNDLED = {"ettin-v1": "ettin_v1.toml"}
"""Mixtures that come with Runoff: name -> file beside this one, in mixtures/."""

USUAL_COLUMNS: Mapping[str, Sequence[str]] = {
    "query": ("query", "question"),
    "document": ("document", "passage", "text"),
    "label": ("label", "score", "similarity"),
    "query_id": ("query_id",),
    "document_id": ("document_id",),
}
NEEDED = ("query", "document", "label")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Which column of a subset's files is what. None: the one of the usual names that is there."""

    query: str | None = None
    document: str | None = None
    label: str | None = None
    query_id: str | None = None
    document_id: str | None = None

    def chosen(self, names: Sequence[str]) -> dict[str, str]:
        """Role -> column, of a file with these columns; without ids where it has none.

        `InputError` for a role that no column has, or that several could have.
        """
        found = {}
        for role, usual in USUAL_COLUMNS.items():
            named: str | None = getattr(self, role)
            there = [name for name in ([named] if named else usual) if name in names]
            if len(there) > 1:
                raise InputError(
                    f"the columns {' and '.join(there)} could each be the {role}: name one of them, "
                    f"columns = {{ {role} = ... }}"
                )
            if there:
                found[role] = there[0]
            elif named or role in NEEDED:
                raise InputError(
                    f"no column for the {role}: expected {named or ' or '.join(usual)}, the file has "
                    f"{', '.join(names) or 'none'}. Name it: columns = {{ {role} = ... }}"
                )
        return found


@dataclass(frozen=True, slots=True)
class Subset:
    """Rows of one origin: a local `folder` or a hub `dataset`, and how much of it goes into the mixture.

    The tail of `held_out` rows is taken off first; of the rest `cap` rows are drawn (None: all), and of those `weight`
    times as many are taken: 0.5 half of them, 2 each twice. `draw` "queries": whole queries (rows of one that stand
    together) instead, of no more rows than that. `held_out_split`: where the dataset has that split, its rows are the
    ones held out, and no tail. `config` None: the subset's name.
    """

    name: str
    folder: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: RowColumns = field(default_factory=RowColumns)
    cap: int | None = None
    weight: float = 1.0
    draw: str = "rows"
    held_out: int = 0
    held_out_split: str | None = None
    licence: str | None = None
    remark: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            _wrong("name", "letters, digits, dots, dashes and underscores", self.name)
        if (self.folder is None) == (self.dataset is None):
            found = "neither" if self.folder is None else "both"
            raise InputError(f"expected either 'folder' or 'dataset', got {found}")
        if self.folder is not None:
            for key in ("config", "revision", "held_out_split"):
                if getattr(self, key) is not None:
                    raise InputError(
                        f"key {key!r}: only a dataset of the hub has one, this subset is a folder"
                    )
        if self.cap is not None and self.cap < 1:
            _wrong("cap", "1 row or more", self.cap)
        if not (math.isfinite(self.weight) and self.weight > 0):
            _wrong(
                "weight",
                "a number above 0 (to leave a subset out, delete it or name the others)",
                self.weight,
            )
        if self.draw not in ("rows", "queries"):
            _wrong("draw", "rows or queries", self.draw)
        if self.held_out < 0:
            _wrong("held_out", "0 rows or more", self.held_out)

    @property
    def source(self) -> str:
        """What it is read from, for people."""
        return self.folder if self.folder is not None else f"{self.dataset}/{self.config or self.name}"

    def definition(self) -> dict[str, Any]:
        """Its keys that say something, as a file would have them."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, RowColumns):
                value = {role: name for role in USUAL_COLUMNS if (name := getattr(value, role))}
            if value not in (None, {}) and not (each.name != "name" and value == each.default):
                found[each.name] = value
        return found


@dataclass(frozen=True, slots=True)
class Mixture:
    """Subsets in their order. `complete_of`: a hub dataset whose configurations must be exactly the subsets'.

    `base` is what local folders are relative to: where the mixture's file lies.
    """

    name: str
    subsets: tuple[Subset, ...]
    seed: int = SEED
    complete_of: str | None = None
    remark: str | None = None
    base: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if not self.subsets:
            raise InputError(f"the mixture {self.name!r} has no subset")
        names = [subset.name for subset in self.subsets]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"two subsets are called {twice!r}; give each its own name")

    def only(self, names: Iterable[str]) -> Mixture:
        """The mixture with these subsets alone, in its own order."""
        wanted = set(names)
        known = [subset.name for subset in self.subsets]
        for name in sorted(wanted - set(known)):
            raise InputError(f"the mixture {self.name!r} has no subset {name!r}{_suggestion(name, known)}")
        return replace(
            self, subsets=tuple(each for each in self.subsets if each.name in wanted), complete_of=None
        )

    def definition(self) -> dict[str, Any]:
        """The mixture as a file would have it."""
        subsets = [subset.definition() for subset in self.subsets]
        return {"name": self.name, "seed": self.seed, "subsets": subsets}

    def identity(self) -> dict[str, Any]:
        """What of it decides which rows come of it: all but what is said of a subset."""
        said = ("licence", "remark")
        subsets = [
            {key: value for key, value in subset.definition().items() if key not in said}
            for subset in self.subsets
        ]
        return {**self.definition(), "subsets": subsets}


def find_mixture(name_or_path: str | Path) -> Mixture:
    """The mixture in a TOML or JSON file, or one that comes with Runoff ("ettin-v1")."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in BUNDLED and not path.exists():
        path = Path(__file__).with_name("mixtures") / BUNDLED[str(name_or_path)]
    return read_mixture(path)


def read_mixture(path: Path) -> Mixture:
    """The mixture in `path`. `InputError` names file, subset and key."""
    content = _content(path)
    try:
        return _mixture(content, path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _content(path: Path) -> dict[str, Any]:
    if path.suffix not in (".toml", ".json"):
        known = ", ".join(BUNDLED)
        raise InputError(f"expected a mixture's file ending in .toml or .json, or {known}; got {path}")
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise InputError(
            f"no mixture at {path}; the one that comes with Runoff is {', '.join(BUNDLED)}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a table with name and subsets, got {type(content).__name__}")
    return content


# --- keys ------------------------------------------------------------------------------------------------

Kinds = tuple[type, ...]
_COLUMN_KEYS: dict[str, Kinds] = dict.fromkeys(USUAL_COLUMNS, (str,))
_SUBSET_KEYS: dict[str, Kinds] = {
    **dict.fromkeys((each.name for each in fields(Subset)), (str,)),
    "columns": (dict,),
    "cap": (int,),
    "weight": (int, float),
    "held_out": (int,),
}
_MIXTURE_KEYS: dict[str, Kinds] = {
    "name": (str,),
    "seed": (int,),
    "complete_of": (str,),
    "remark": (str,),
    "defaults": (dict,),
    "subsets": (list,),
}
_KIND_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "a list of tables",
}


def _mixture(content: dict[str, Any], path: Path) -> Mixture:
    _check(content, _MIXTURE_KEYS)
    for key in ("name", "subsets"):
        if key not in content:
            raise InputError(f"key {key!r} is missing")
    defaults = content.pop("defaults", {})
    try:
        _check(defaults, {key: kinds for key, kinds in _SUBSET_KEYS.items() if key != "name"})
    except InputError as error:
        raise InputError(f"defaults: {error}") from error
    subsets = tuple(
        _subset(each, defaults, place) for place, each in enumerate(content.pop("subsets"), start=1)
    )
    return Mixture(subsets=subsets, base=path.parent, **content)


def _subset(given: Any, defaults: Mapping[str, Any], place: int) -> Subset:
    name = given.get("name") if isinstance(given, dict) else None
    try:
        if not isinstance(given, dict):
            raise InputError(f"expected a table, got {given!r}")
        _check(given, _SUBSET_KEYS)
        if name is None:
            raise InputError("key 'name' is missing")
        # A subset that names its own kind of source does not inherit the other.
        other = {"folder": _OF_THE_HUB, "dataset": ("folder",)}
        dropped = {key for own, keys in other.items() if own in given for key in keys}
        whole = {**{key: value for key, value in defaults.items() if key not in dropped}, **given}
        columns = {**defaults.get("columns", {}), **given.get("columns", {})}
        _check(columns, _COLUMN_KEYS, "columns.")
        return Subset(
            **{**whole, "columns": RowColumns(**columns), "weight": float(whole.get("weight", 1.0))}
        )
    except InputError as error:
        raise InputError(f"subset {name if isinstance(name, str) else place}: {error}") from error


_OF_THE_HUB = ("dataset", "config", "revision", "held_out_split")


def _check(given: Mapping[str, Any], known: Mapping[str, Kinds], prefix: str = "") -> None:
    for key, value in given.items():
        if key not in known:
            raise InputError(f"unknown key {prefix + key!r}{_suggestion(key, list(known))}")
        kinds = known[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            _wrong(prefix + key, _KIND_NAMES[kinds[-1]], value)


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _wrong(key: str, expected: str, got: object) -> NoReturn:
    raise InputError(f"key {key!r}: expected {expected}, got {got!r}")
