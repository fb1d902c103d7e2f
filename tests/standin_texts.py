"""Texts for tests and stand-ins: prose from the docstrings of the standard library, and tricky strings."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from functools import cache

import numpy as np

_PROSE_MODULES = """
argparse asyncio collections csv datetime decimal difflib doctest email fractions functools heapq inspect
ipaddress itertools json logging mailbox numbers optparse os pathlib pickle random re shutil sqlite3 ssl
statistics string subprocess tarfile tempfile textwrap threading tokenize turtle typing unittest
urllib.request uuid xml.dom.minidom zipfile
"""


@cache
def prose() -> tuple[str, ...]:
    """Docstrings of the standard library, in a fixed order."""
    found: dict[str, None] = {}
    for name in _PROSE_MODULES.split():
        module = importlib.import_module(name)
        holders = [module, *(value for _, value in sorted(vars(module).items()) if inspect.isclass(value))]
        for holder in holders:
            for _, member in [("", holder), *sorted(vars(holder).items())]:
                text = inspect.getdoc(member) if callable(member) or inspect.ismodule(member) else None
                if text and len(text) > 40:
                    found[text] = None
    return tuple(found)


def sample_text(word_count: int, generator: np.random.Generator) -> str:
    """Text of `word_count` words: runs of 3 to 30 words from random places of the prose."""
    words: list[str] = []
    while len(words) < word_count:
        source = prose()[generator.integers(len(prose()))].split()
        start = int(generator.integers(len(source)))
        words += source[start : start + int(generator.integers(3, 31))]
    return " ".join(words[:word_count])


@dataclass(frozen=True)
class Candidates:
    """One query and its documents: what one call of `rank` gets."""

    query: str
    documents: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(self.query, document) for document in self.documents]


def sample_candidates(
    query_count: int, document_count: int, *, longest_words: int, seed: int = 20
) -> list[Candidates]:
    """Queries of 1 to 30 words, each with documents of up to `longest_words` words, most of them short.

    A document has 4 + longest_words ** (u^4) words, u uniform: half of them have five or six, one in ten
    more than a hundred. Every query's first document is empty, and the very last is the longest.
    """
    generator = np.random.default_rng(seed)
    word_counts = 4 + longest_words ** (generator.random((query_count, document_count)) ** 4)
    word_counts[:, 0] = 0
    word_counts.flat[-1] = longest_words
    return [
        Candidates(
            sample_text(int(generator.integers(1, 31)), generator),
            tuple(sample_text(int(count), generator) for count in counts),
        )
        for counts in word_counts
    ]


TRICKY_TEXTS = (
    "",
    " ",
    "\n",
    " \t\r\n ",
    "line one\nline two\r\nline three\n\n\nline six",
    "two  spaces   three" + " " * 25 + "twenty-five",
    " leading and trailing ",
    "na\u00efve caf\u00e9, and decomposed: nai\u0308ve cafe\u0301",
    "\u0130stanbul, STRASSE, Stra\u00dfe, \ufb01ne, \u01c5",
    "\u4e2d\u6587\u6bb5\u843d, \u65e5\u672c\u8a9e\u306e\u6587, \ud55c\uad6d\uc5b4",
    "\u0639\u0631\u0628\u064a \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\U0001d4d0\U0001d4d1 \uff26\uff55\uff4c\uff4c \u2460\u00bd\u00b2",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break \ufeffmark \ufffd \ue000",
    "bell\x07 nul\x00 escape\x1b delete\x7f",
    "[CLS] a [SEP] b [MASK] [PAD] [UNK] <s> c </s> <pad> <unk> <mask> <|endoftext|>",
    "x" * 400,
    "aaaa bbbb " * 60,
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt",
    "def f(x):\n    return x**2  # comment\n\tif x != -1: pass",
    "1,234.56 -7e-10 0x1F 12:34:56 $5 50% #1 @2",
    "!?.,;:'\"`~^*()[]{}<>|\\/_-+=",
    "don't can't we'll I'm they've he'd it's",
    "MiXeD cAsE ALLCAPS camelCase snake_case",
    "\u2014 \u2013 \u2026 \u201cquoted\u201d \u2018single\u2019 \u2022 \u2192",
)
"""Strings that tokenizers treat differently when something is off; each alone is a query or a document."""


def tricky_pairs() -> list[tuple[str, str]]:
    """Every tricky text as a document, as a query, and as both."""
    plain = "Where does the river end?"
    sides = [[(plain, text), (text, plain), (text, text)] for text in TRICKY_TEXTS]
    return [pair for side in sides for pair in side]
