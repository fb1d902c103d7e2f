"""What must hold before a folder is taken for an index, or an index for one made with these models."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from runoff.contracts import IndexStoreError, InputError, Scorer, TextEmbedder, TokenizerMismatchError
from runoff.search.settings import DRAFTS, EmbedderName, Settings, TokenizerName
from runoff.search.table import LOCK_FILE


def tokenizer_name(tokenizer: Scorer | None) -> TokenizerName | None:
    if tokenizer is None:
        return None
    if tokenizer.tokenizer_fingerprint is None:
        raise InputError(
            f"{tokenizer.name!r} takes texts only, so its tokens cannot be stored. Leave tokenizer out."
        )
    return TokenizerName(tokenizer.name, tokenizer.tokenizer_fingerprint)


def check_free(folder: Path) -> None:
    """A folder with anything but leftovers of our own is somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise IndexStoreError(f"expected a folder for the index, {folder} is a file. Choose another path.")
    others = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    if foreign := [name for name in others if name != LOCK_FILE and not fnmatch(name, DRAFTS)]:
        raise IndexStoreError(
            f"{folder} is not empty ({', '.join(sorted(foreign)[:5])}) and is not an index. "
            "Choose a new folder for the index."
        )


def check_same(
    folder: Path, settings: Settings, tokenizer: Scorer | None, embedder: TextEmbedder | None
) -> None:
    if tokenizer is not None:
        check_tokenizer(settings.tokenizer, tokenizer, folder)
    if embedder is None:
        return
    given = EmbedderName(embedder.name, embedder.dimension)
    if settings.embedder != given:
        stored = settings.embedder
        found = f"vectors of {stored.name!r} [{stored.dimension}]" if stored else "no vectors"
        raise IndexStoreError(
            f"the index at {folder} stores {found}; the embedder given is {given.name!r} "
            f"[{given.dimension}]. Use the embedder it was made with, or make another index."
        )


def check_tokenizer(stored: TokenizerName | None, scorer: Scorer, folder: Path | str) -> None:
    """Raises `TokenizerMismatchError` where stored token ids are not those `scorer` would make."""
    if stored is not None and stored.fingerprint != scorer.tokenizer_fingerprint:
        raise TokenizerMismatchError(
            f"the index at {folder} stores token ids of {stored.name!r} (tokenizer "
            f"{stored.fingerprint[:12]}); {scorer.name!r} has another tokenizer "
            f"({str(scorer.tokenizer_fingerprint)[:12]}), to which they would be other words. Either score "
            'from the texts (tokens="text"), or replace the stored ids: '
            f"runoff index {folder} --retokenize --model {scorer.name}"
        )
