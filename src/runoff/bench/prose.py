"""Prose that every Python has: the docstrings of its standard library, and texts of so many words drawn from them."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

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
    """Docstrings of the standard library, each once, in a fixed order; `InputError` where Python has no sources.

    They are read from the sources: what is loaded has other docstrings after some imports (transformers and
    typing_extensions put functions of their own into `logging` and `typing`), and the pairs shall be the same.
    """
    found: dict[str, None] = {}
    for name in _MODULES.split():
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > _SHORTEST:
                    found[text] = None
    if not found:
        raise InputError(
            "this Python comes without the sources of its standard library, and the stand-in pairs are made of their "
            "docstrings: give pairs of your own (--pairs FILE)"
        )
    return tuple(found)


def sample_text(word_count: int, generator: np.random.Generator) -> str:
    """Text of `word_count` words: runs of 3 to 30 words from random places of the prose."""
    words: list[str] = []
    while len(words) < word_count:
        source = prose()[generator.integers(len(prose()))].split()
        start = int(generator.integers(len(source)))
        words += source[start : start + int(generator.integers(3, 31))]
    return " ".join(words[:word_count])
