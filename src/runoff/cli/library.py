"""The demo's own collection: the docstrings of Python's standard library, which every machine has."""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from types import ModuleType

from runoff.contracts import Document, InputError
from runoff.data.passages import PassageRule, passage_spans

MODULES = """
abc argparse array ast asyncio base64 bisect builtins bz2 calendar cmath cmd codecs collections colorsys
concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis doctest
email.message enum filecmp fileinput fnmatch fractions ftplib functools gc getpass gettext glob graphlib gzip
hashlib heapq hmac html http.client http.cookies http.server imaplib importlib inspect io ipaddress itertools
json keyword linecache locale logging logging.handlers lzma mailbox math mimetypes multiprocessing netrc
numbers operator optparse os os.path pathlib pdb pickle pkgutil platform plistlib poplib pprint profile queue
quopri random re sched secrets select shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat
statistics string struct subprocess sys sysconfig tarfile tempfile textwrap threading time timeit token
tokenize trace traceback types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid
venv warnings wave weakref webbrowser xml.dom.minidom xml.etree.ElementTree zipfile zlib zoneinfo
""".split()  # noqa: SIM905 - a hundred quoted names would be no easier to read

# A docstring of fewer letters repeats its name and says no more.
SHORTEST = 40


def library_documents() -> Iterator[Document]:
    """A document per docstring (long ones in passages), such as "json.dumps", each text once."""
    seen: set[str] = set()
    for module_name in MODULES:
        module = _imported(module_name)
        if module is None:
            continue
        for name, described in _described(module, module_name):
            text = _docstring(described)
            if len(text) < SHORTEST or text in seen:
                continue
            seen.add(text)
            yield from _passages(name, text, module_name)
    if not seen:
        raise InputError(
            "Python runs without docstrings here (-OO or PYTHONOPTIMIZE=2), and these are what the demo searches. "
            "Run it without, or give it documents: --documents PATH"
        )


def _docstring(described: object) -> str:
    """The indentation aside; empty where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a look at typing.io warns, in Python 3.11
        docstring = described.__doc__
    return inspect.cleandoc(docstring) if isinstance(docstring, str) else ""


def _imported(name: str) -> ModuleType | None:
    """None where this system or this Python has no such module."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


def _described(module: ModuleType, name: str) -> Iterator[tuple[str, object]]:
    """The module, its functions and classes, and the methods that these define themselves."""
    yield name, module
    for member_name, member in sorted(vars(module).items()):
        if member_name.startswith("_") or not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        full_name = f"{name}.{member_name}"
        yield full_name, member
        if inspect.isclass(member):
            for method_name, method in sorted(vars(member).items()):
                if not method_name.startswith("_"):
                    yield f"{full_name}.{method_name}", method


def _passages(name: str, text: str, module: str) -> Iterator[Document]:
    spans = list(passage_spans(text, PassageRule()))
    for number, span in enumerate(spans, start=1):
        id = name if len(spans) == 1 else f"{name}#{number}"
        place = None if len(spans) == 1 else f"chars {span.start}-{span.end}"
        yield Document(id, f"{name} {text[span.start : span.end]}", name, f"module {module}", place)
