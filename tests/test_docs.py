"""The documentation holds: every relative link leads somewhere, every Python snippet parses."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]\n]*\]\(<?([^)\s>]+)>?[^)\n]*\)")


def dead_links(page: Path) -> list[str]:
    """Links of `page` to files that are not there, or to headings that no heading makes."""
    text = FENCE.sub("", page.read_text("utf-8"))
    dead = []
    for target in LINK.findall(text):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (heading and file.suffix == ".md" and heading not in anchors(file)):
            dead.append(target)
    return dead


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of `page`."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def snippets(page: Path) -> Iterator[str]:
    for _, language, code in FENCE.findall(page.read_text("utf-8")):
        if language in {"python", "py"} and ">>>" not in code:
            yield textwrap.dedent(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_snippets_parse(page: Path) -> None:
    for code in snippets(page):
        ast.parse(code)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `two`, three\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](gone.md) [c](there.md#one-two-three) [d](there.md#four) [e](https://x.y)\n"
    )
    assert dead_links(page) == ["gone.md", "there.md#four"]


def test_a_broken_snippet_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = (\n```\n```bash\nx = (\n```\n")
    with pytest.raises(SyntaxError):
        test_python_snippets_parse(page)
