"""Prose that every Python has: the docstrings of its standard library, and texts of so many words drawn from them."""

from __future__ import annotations

import importlib
import inspect
import warnings
from functools import cache

import numpy as np

from runoff.contracts import InputError

_MODULES = """
argparse asyncio collections csv datetime decimal difflib doctest email fractions functools heapq inspect
ipaddress itertools json logging mailbox numbers optparse os pathlib random re shutil sqlite3 ssl
statistics string subprocess tarfile tempfile textwrap threading tokenize turtle typing unittest
urllib.request uuid xml.dom.minidom zipfile
"""
_SHORTEST = 40  # letters; a shorter docstring repeats its name


@cache
def prose() -> tuple[str, ...]:
    """Docstrings of the standard library, each once, in a fixed order; `InputError` where Python has none (-OO)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a look at typing.io warns, in Python 3.11
        found = _docstrings()
    if not found:
        raise InputError(
            "Python runs without docstrings here (-OO), and the stand-in pairs are made of them: run it without, or "
            "give pairs of your own (--pairs FILE)"
        )
    return tuple(found)


def _docstrings() -> dict[str, None]:
    found: dict[str, None] = {}
    for name in _MODULES.split():
        module = importlib.import_module(name)
        holders = [module, *(value for _, value in sorted(vars(module).items()) if inspect.isclass(value))]
        for holder in holders:
            for _, member in [("", holder), *sorted(vars(holder).items())]:
                text = inspect.getdoc(member) if callable(member) or inspect.ismodule(member) else None
                if text and len(text) > _SHORTEST:
                    found[text] = None
    return found


def sample_text(word_count: int, generator: np.random.Generator) -> str:
    """Text of `word_count` words: runs of 3 to 30 words from random places of the prose."""
    words: list[str] = []
    while len(words) < word_count:
        source = prose()[generator.integers(len(prose()))].split()
        start = int(generator.integers(len(source)))
        words += source[start : start + int(generator.integers(3, 31))]
    return " ".join(words[:word_count])
