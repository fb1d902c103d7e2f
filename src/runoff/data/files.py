"""Texts, Markdown, HTML and PDF -> passages as Documents, each with its place in the file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from runoff.contracts import BadRow, Document, MissingExtraError, Origin
from runoff.data.encoding import not_utf8
from runoff.data.passages import PassageRule, passage_spans


class Section(NamedTuple):
    """A stretch of a file that passages do not cross: its headings from the outermost, its text, and where
    it stands.

    `place` turns characters [start, end) of the text into words such as "lines 3-9" or "page 2".
    """

    headings: tuple[str, ...]
    text: str
    place: Callable[[int, int], str]


def file_documents(path: Path, name: str, rule: PassageRule) -> Iterator[Document | BadRow]:
    """The passages of one file, with ids NAME#1, NAME#2, ...; a file that cannot be read is one bad row."""
    try:
        sections = FILE_READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        yield BadRow(str(path), None, not_utf8(error, "file"))
        return
    except OSError as error:
        yield BadRow(str(path), None, f"cannot be read: {error.strerror or error}")
        return
    except UnreadableFileError as error:
        yield BadRow(str(path), None, str(error))
        return
    cut = [(section, span) for section in sections for span in passage_spans(section.text, rule)]
    origin = Origin(str(path), passages=len(cut))
    for number, (section, span) in enumerate(cut, start=1):
        text = _headed(section.text[span.start : span.end], section.headings)
        title = " > ".join(section.headings) or None
        place = section.place(span.start, span.end)
        yield Document(f"{name}#{number}", text, title, name, place, origin=origin)
    if not cut:
        yield BadRow(str(path), None, "no text in it" + NO_TEXT_HINTS.get(path.suffix.lower(), ""))


def _headed(passage: str, headings: tuple[str, ...]) -> str:
    """The passage with its section's headings in front, each once: it may begin with the innermost itself."""
    if not headings:
        return passage
    if passage.lstrip("# ").startswith(headings[-1]):
        return " > ".join([*headings[:-1], passage])
    return f"{' > '.join(headings)} {passage}"


class UnreadableFileError(Exception):
    """A file that its parser cannot make sense of."""


@contextmanager
def _parsing(kind: str, parser: str) -> Iterator[None]:
    """Turns what a parser raises over a damaged file, of whatever kind, into `UnreadableFileError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise UnreadableFileError(
            f"not {kind} that {parser} can read ({type(error).__name__}: {error})"
        ) from error


NO_TEXT_HINTS = {".pdf": "; a scanned PDF needs text recognition (OCR) first"}


def _line_places(text: str, first_line: int = 1) -> Callable[[int, int], str]:
    """Places in lines; `first_line` is the number of the text's first line in its file."""
    breaks = [position for position, letter in enumerate(text) if letter == "\n"]

    def place(start: int, end: int) -> str:
        first = bisect_right(breaks, start - 1) + first_line
        last = bisect_right(breaks, end - 1) + first_line
        return f"line {first}" if first == last else f"lines {first}-{last}"

    return place


def _char_place(start: int, end: int) -> str:
    return f"chars {start}-{end}"


def text_sections(path: Path) -> list[Section]:
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    return [Section((), text, _line_places(text))]


def markdown_sections(path: Path) -> list[Section]:
    """One section per heading, named by the headings above it ("Install > On a Mac")."""
    markdown = _import("markdown_it", "Markdown", "markdown-it-py")
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    lines = text.split("\n")
    start = _front_matter_lines(lines)
    body = "\n".join(lines[start:])
    with _parsing("Markdown", "markdown-it-py"):
        tokens = markdown.MarkdownIt("commonmark").parse(body)
    sections: list[Section] = []
    headings: list[tuple[int, str]] = []
    opened = 0

    def close(end: int) -> None:
        part = "\n".join(lines[start + opened : start + end])
        if part.strip():
            names = tuple(each for _, each in headings if each)
            sections.append(Section(names, part, _line_places(part, start + opened + 1)))

    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0:
            close(token.map[0])
            opened, depth = token.map[0], int(token.tag[1:])
            headings = [(level, name) for level, name in headings if level < depth]
            headings.append((depth, inline.content))
    close(len(lines) - start)
    return sections


def _front_matter_lines(lines: list[str]) -> int:
    """How many lines a YAML block at the top takes, its fences included."""
    if lines[0].strip() != "---":
        return 0
    ends = (number for number, line in enumerate(lines[1:], start=2) if line.strip() in ("---", "..."))
    return next(ends, 0)


def html_sections(path: Path) -> list[Section]:
    """The visible text, block by block; places are characters of that text."""
    bs4 = _import("bs4", "HTML", "beautifulsoup4")
    content = path.read_bytes()
    with _parsing("HTML", "beautifulsoup4"):
        # Bytes, so that the page's own charset declaration counts.
        page = bs4.BeautifulSoup(content, "html.parser")
        title = page.title.get_text(" ", strip=True) if page.title else None
        for hidden in page(["script", "style", "noscript", "template", "title", "svg"]):
            hidden.decompose()
        for block in page(BLOCKS):
            block.insert_before("\n\n")
            block.append("\n\n")
        for line_break in page("br"):
            line_break.replace_with("\n")
        paragraphs = [" ".join(each.split()) for each in page.get_text().split("\n\n")]
    return [Section(_named(title), "\n\n".join(each for each in paragraphs if each), _char_place)]


def _named(title: str | None) -> tuple[str, ...]:
    return (title,) if title else ()


# Elements that stand apart from what surrounds them.
BLOCKS = ["p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "tr", "pre", "blockquote", "div"]
BLOCKS += [
    "section",
    "article",
    "main",
    "header",
    "footer",
    "nav",
    "aside",
    "figcaption",
    "table",
    "ul",
    "ol",
]


def pdf_sections(path: Path) -> list[Section]:
    """One section per page."""
    pypdf = _import("pypdf", "PDF", "pypdf")
    with _parsing("a PDF", "pypdf"):
        reader = pypdf.PdfReader(path)
        title = reader.metadata and reader.metadata.title
        pages = [page.extract_text() for page in reader.pages]
    return [Section(_named(title), text, _page_place(number)) for number, text in enumerate(pages, start=1)]


def _page_place(number: int) -> Callable[[int, int], str]:
    def place(_start: int, _end: int) -> str:
        return f"page {number}"

    return place


def _import(module: str, kind: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {kind} needs {package} ({error}). Install it: pip install 'runoff[files]'"
        ) from error


FILE_READERS: dict[str, Callable[[Path], list[Section]]] = {
    ".txt": text_sections,
    ".text": text_sections,
    ".md": markdown_sections,
    ".markdown": markdown_sections,
    ".html": html_sections,
    ".htm": html_sections,
    ".pdf": pdf_sections,
}
