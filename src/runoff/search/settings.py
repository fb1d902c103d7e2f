"""What an index remembers about itself beside its table: runoff-index.json, always whole on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runoff.contracts import IndexStoreError, InputError
from runoff.data.atomic import replace_file
from runoff.data.folders import INDEX_MARK

SETTINGS_FILE = INDEX_MARK
# What a process killed within `saved_in` leaves.
DRAFTS = f".{SETTINGS_FILE}.*.draft"
FORMAT = 1

State = Literal["creating", "incomplete", "complete"]
"""`incomplete`: an ingest began and did not end; what is there is whole batches, and searchable."""

# The languages whose stemmer and stop words Lance (tantivy's filters) carries.
LANGUAGES = ["arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"]
LANGUAGES += [
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]


@dataclass(frozen=True, slots=True)
class TokenizerName:
    """Whose token ids are stored: the scorer's name, and the fingerprint that decides."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class EmbedderName:
    """Whose vectors are stored, and their length D."""

    name: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The facts that must not change under a table. `language` None: no stemming, no stop words."""

    tokenizer: TokenizerName | None
    embedder: EmbedderName | None
    language: str | None
    state: State = "creating"

    def saved_in(self, folder: Path) -> Settings:
        """These settings, once they are on the disk."""
        record = {"format": FORMAT, **asdict(self)}
        replace_file(folder / SETTINGS_FILE, json.dumps(record, indent=2) + "\n")
        return self

    def with_state(self, state: State) -> Settings:
        return replace(self, state=state)


def clear_drafts(folder: Path) -> None:
    """Removes what killed processes left of settings half written. Call it under the writer's lock."""
    for draft in folder.glob(DRAFTS):
        draft.unlink(missing_ok=True)


def checked_language(language: str | None) -> str | None:
    """`language` in lower case, or `InputError` listing the ones there are."""
    if language is None or language.lower() in LANGUAGES:
        return language and language.lower()
    raise InputError(
        f"expected a language with stemming rules ({', '.join(LANGUAGES)}) or None, got {language!r}. "
        "None indexes words as they stand, in any language."
    )


def load_settings(folder: Path) -> Settings:
    """The settings of the index at `folder`; `IndexStoreError` where there is none or it is unreadable."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise IndexStoreError(
            f"expected a Runoff index at {folder} (a folder with {SETTINGS_FILE}), found "
            f"{'a folder without it' if folder.is_dir() else 'nothing'}. Check the path, or make one: "
            f"runoff index {folder} --from DOCUMENTS, or Index.create({str(folder)!r})."
        )
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known_format = record["format"]
        tokenizer, embedder = record["tokenizer"], record["embedder"]
        settings = Settings(
            tokenizer=tokenizer and TokenizerName(**tokenizer),
            embedder=embedder and EmbedderName(**embedder),
            language=record["language"],
            state=record["state"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IndexStoreError(
            f"{path} is not what Runoff writes there ({error!r}). Restore it from a copy, or make the index "
            "anew; the documents are untouched in documents.lance."
        ) from error
    if known_format != FORMAT:
        raise IndexStoreError(
            f"{path} has format {known_format}, this Runoff reads format {FORMAT}. "
            "Use the Runoff that made the index, or make the index anew from its sources."
        )
    return settings
