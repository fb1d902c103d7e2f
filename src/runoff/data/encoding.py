"""What is said of bytes that are not UTF-8, wherever they are met."""

from __future__ import annotations


def not_utf8(error: UnicodeDecodeError, where: str) -> str:
    """The reason for a bad row; `where` is what was being decoded: a line, or a whole file."""
    byte = error.object[error.start]
    return (
        f"expected UTF-8, got byte {byte:#04x} at byte {error.start + 1} of the {where}. "
        "Convert the file: iconv -f ITS-ENCODING -t UTF-8"
    )
