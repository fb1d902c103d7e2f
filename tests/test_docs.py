"""The documentation holds: every relative link leads somewhere, every Python snippet runs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import standins

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


def run_snippets(page: Path) -> None:
    """Runs each Python snippet of `page` by itself."""
    for number, code in enumerate(snippets(page), start=1):
        exec(compile(code, f"{page.name}, snippet {number}", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.fixture(scope="module")
def named_models(tmp_path_factory: pytest.TempPathFactory, hub_home: Path) -> None:
    """Small stand-ins in the hub cache under the names that the pages use."""
    folder = tmp_path_factory.mktemp("models")
    standins.build_ettin_reranker(folder / "reranker", "17m", layers=2)
    standins.build_static_embedder(folder / "embedder", dimension=64)
    for name, folder_name in (
        ("cross-encoder/ettin-reranker-32m-v1", "reranker"),
        ("sentence-transformers/static-retrieval-mrl-en-v1", "embedder"),
    ):
        standins.place_in_hub_cache(folder / folder_name, name, hub_home / "hub")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
@pytest.mark.usefixtures("named_models")
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippets(page)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `two`, three\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](gone.md) [c](there.md#one-two-three) [d](there.md#four) [e](https://x.y)\n"
    )
    assert dead_links(page) == ["gone.md", "there.md#four"]


def test_a_broken_snippet_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nx = (\n```\n```python\nx = 1\n```\n```python\nx + 1\n```\n")
    with pytest.raises(NameError):
        run_snippets(page)
