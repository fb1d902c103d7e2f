"""Texts, Markdown, HTML and PDF become passages that know their place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runoff.contracts import BadRow, Document, MissingExtraError
from runoff.data.formats import PassageRule, read_documents


def documents(path: Path, words: int = 200, overlap: int = 0) -> list[Document]:
    records = list(read_documents(path, passages=PassageRule(words, overlap)))
    assert all(isinstance(each, Document) for each in records), records
    return records  # type: ignore[return-value]


def places(path: Path, words: int = 200) -> list[tuple[str, str, str | None]]:
    return [(each.id, each.text, each.place) for each in documents(path, words)]


def write_pdf(path: Path, pages: list[str]) -> None:
    """A PDF by hand, one line of text a page: the format's own tables, so that no writer is needed."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}"
    path.write_text(out)


def test_a_text_keeps_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One two three.\nFour five six.\n\nSeven eight nine ten.\n")
    assert places(tmp_path / "a.txt", 6) == [
        ("a.txt#1", "One two three.\nFour five six.", "lines 1-2"),
        ("a.txt#2", "Seven eight nine ten.", "line 4"),
    ]


def test_windows_line_ends_and_a_byte_order_mark_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffOne.\r\nTwo.\r\n".encode())
    assert places(tmp_path / "a.txt") == [("a.txt#1", "One.\nTwo.", "lines 1-2")]


def test_markdown_sections_carry_the_headings_above_them(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "---\nauthor: somebody\n---\nBefore any heading.\n\n# Guide\n\nWelcome.\n\n## Install\n\nRun it.\n\n"
        "```\n# not a heading\n```\n\nOther\n=====\n\nEnd.\n"
    )
    assert [(each.title, each.text, each.place) for each in documents(tmp_path / "a.md")] == [
        (None, "Before any heading.", "line 4"),
        ("Guide", "# Guide\n\nWelcome.", "lines 6-8"),
        (
            "Guide > Install",
            "Guide > ## Install\n\nRun it.\n\n```\n# not a heading\n```",
            "lines 10-16",
        ),
        ("Other", "Other\n=====\n\nEnd.", "lines 18-21"),
    ]


def test_a_heading_stands_once_in_each_passage_of_its_section(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Go\n\n## Install\n\nRun it now. Wait a bit.\n\n## Use\n\nCall it.\n")
    assert [each.text for each in documents(tmp_path / "a.md", words=5)] == [
        "# Go",
        "Go > ## Install\n\nRun it now.",
        "Go > Install Wait a bit.",
        "Go > ## Use\n\nCall it.",
    ]


def test_html_gives_what_a_reader_sees(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<html><head><title>On Rivers</title><style>p {}</style></head><body><script>no()</script>"
        "<p>They <b>fl</b>ow.</p><ul><li>Rhine</li><li>Rh&ocirc;ne</li></ul>line<br>break</body></html>"
    )
    found = documents(tmp_path / "a.html")
    assert [(each.title, each.text) for each in found] == [
        ("On Rivers", "On Rivers They flow.\n\nRhine\n\nRhône\n\nline break")
    ]
    assert found[0].place == "chars 0-36"


def test_html_in_another_encoding_that_it_declares_is_read(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>caf\xe9</p></body></html>'
    (tmp_path / "a.htm").write_bytes(page.encode("latin-1"))
    assert [each.text for each in documents(tmp_path / "a.htm")] == ["café"]


def test_a_pdf_keeps_its_pages(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["First page text.", "Second page. With two sentences."])
    assert places(tmp_path / "a.pdf", 3) == [
        ("a.pdf#1", "First page text.", "page 1"),
        ("a.pdf#2", "Second page.", "page 2"),
        ("a.pdf#3", "With two sentences.", "page 2"),
    ]


def test_files_that_cannot_be_read_are_bad_rows_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.pdf").write_bytes(b"not a pdf")
    write_pdf(tmp_path / "c.pdf", ["", ""])
    (tmp_path / "d.txt").write_text("   \n")
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    (tmp_path / "f.txt").write_text("good")
    records = list(read_documents(tmp_path))
    assert [each.id for each in records if isinstance(each, Document)] == ["f.txt#1"]
    faults = [str(each) for each in records if isinstance(each, BadRow)]
    signs = [
        "expected UTF-8, got byte 0xe9",
        "not a PDF that pypdf can read",
        "OCR",
        "no text in it",
        "not a kind of file",
    ]
    for name, sign, fault in zip("abcde", signs, faults, strict=True):
        assert f"{tmp_path}/{name}." in fault
        assert sign in fault


def test_markup_that_a_parser_refuses_costs_that_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import markdown_it

    def refused(self: object, text: str) -> None:
        raise IndexError("a parser's own fault")

    monkeypatch.setattr(markdown_it.MarkdownIt, "parse", refused)
    (tmp_path / "a.html").write_text("<p>a</p><![foo bar]>")
    (tmp_path / "b.md").write_text("words")
    (tmp_path / "c.txt").write_text("good")
    html, markdown, good = read_documents(tmp_path)
    assert str(html).startswith(
        f"{tmp_path}/a.html: not HTML that beautifulsoup4 can read (ParserRejectedMarkup"
    )
    assert str(markdown) == (
        f"{tmp_path}/b.md: not Markdown that markdown-it-py can read (IndexError: a parser's own fault)"
    )
    assert good.id == "c.txt#1"  # type: ignore[union-attr]


@pytest.mark.parametrize(("module", "name"), [("pypdf", "a.pdf"), ("bs4", "a.html"), ("markdown_it", "a.md")])
def test_without_its_parser_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    (tmp_path / name).write_text("words")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'runoff\[files\]'"):
        list(read_documents(tmp_path / name))
