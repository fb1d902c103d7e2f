"""English words as BM25 for judging and for labels sees them: lower case, no stop words, stemmed."""

from __future__ import annotations

from collections.abc import Sequence

from runoff.contracts import MissingExtraError


def stemmed_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text, by bm25s with its English stop words and PyStemmer: what published figures take.

    Raises `MissingExtraError` where one of the two is not installed.
    """
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise MissingExtraError(
            f"BM25 outside an index needs bm25s and PyStemmer ({error}). Install them: pip install 'runoff[eval]'"
        ) from error
    stemmer = Stemmer.Stemmer("english")
    found: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    return found
