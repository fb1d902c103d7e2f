"""A judged set: documents, queries and graded judgements, with what in its files does not fit together."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runoff.contracts import BadRow, Document, InputError
from runoff.data.formats import read_documents, read_queries
from runoff.data.sampling import SEED
from runoff.data.trec import Qrels, judgements, qrels_file


@dataclass(frozen=True, slots=True)
class Gap:
    """Something in a set's files that does not fit together: what, how often, and the first of it."""

    what: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.count:,} {self.what} (the first: {self.first})"


@dataclass(frozen=True, slots=True)
class Judged:
    """Texts of the documents by id (title in front), texts of the queries that have a positive judgement, and
    grades by query and document. `queries_judged`: how many queries there were before `sampled`; `gaps`: what was
    left out or has no text; `digest` names all its texts. A set of judgements alone has no texts, and then nothing can
    be reranked."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    grades: Qrels
    queries_judged: int
    gaps: tuple[Gap, ...] = ()
    digest: str = ""

    @property
    def has_texts(self) -> bool:
        return bool(self.documents)

    def sampled(self, limit: int | None, seed: int = SEED) -> Judged:
        """The same with at most `limit` queries, drawn by chance from their ids, always the same ones."""
        if limit is None or len(self.queries) <= limit:
            return self
        drawn = sorted(random.Random(seed).sample(sorted(self.queries), limit))
        return replace(self, queries={query: self.queries[query] for query in drawn})


def read_judged(path: str | Path, split: str = "test") -> Judged:
    """The judged set of a BEIR folder (corpus.jsonl, queries.jsonl, qrels/`split`.tsv), or of a file of judgements
    alone (TREC qrels or a BEIR tsv), which has no texts.

    Left out and counted in `gaps`: queries without a positive judgement, as they say nothing about an order, and
    judged queries without a text. Judgements of documents that the corpus lacks are counted too, and stay part of the
    ideal order, as in trec_eval. Raises `InputError` with file and line for a document without text, an id that stands
    there twice, a document judged twice with two grades, a missing file, and a set without a positive judgement.
    """
    path = Path(path)
    if path.is_file():
        grades = _grades(path)
        positive = _positive(grades, path)
        gaps = _without_positive(grades, positive)
        return Judged(path.stem, {}, dict.fromkeys(positive, ""), grades, len(positive), gaps)
    documents = _documents(path)
    texts = {str(query.id): query.text for query in read_queries(path)}
    file = qrels_file(path, split)
    grades = _grades(file)
    positive = _positive(grades, file)
    unknown = [(q, d) for q, found in grades.items() for d in found if d not in documents]
    unasked = sorted(grades.keys() - texts.keys())
    gaps = (
        *_gap("judgements of documents that the corpus lacks", [f"{d} for query {q}" for q, d in unknown]),
        *_gap("judged queries that have no text", unasked),
        *_without_positive(grades, positive),
    )
    asked = [query for query in positive if query in texts]
    if not asked or len(unknown) == sum(map(len, grades.values())):
        raise InputError(
            f"{file} judges another set: of its {len(grades):,} queries {len(asked):,} have a text and a positive "
            f"judgement, {len(unknown):,} of its judgements are of documents that the corpus lacks. Are the files of "
            "one set?"
        )
    queries = {query: texts[query] for query in asked}
    digest = digest_of(documents, texts)[:16]
    return Judged(path.resolve().name, documents, queries, grades, len(asked), gaps, digest)


def digest_of(*parts: Mapping[str, Any]) -> str:
    """The SHA-256 of mappings, in their order: two sets have the same one only if all of it is the same."""
    digest = hashlib.sha256()
    for part in parts:
        for entry in part.items():
            digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _grades(file: Path) -> Qrels:
    grades: Qrels = {}
    for line, query, document, grade in judgements(file):
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{file}:{line}: document {document!r} is judged twice, with two grades")
    return grades


def _positive(grades: Qrels, file: Path) -> list[str]:
    positive = sorted(query for query, found in grades.items() if max(found.values()) > 0)
    if not positive:
        raise InputError(f"{file} holds no positive judgement: expected at least one grade above 0")
    return positive


def _without_positive(grades: Qrels, positive: list[str]) -> tuple[Gap, ...]:
    return _gap("queries without a positive judgement", sorted(grades.keys() - set(positive)))


def _gap(what: str, found: list[str]) -> tuple[Gap, ...]:
    return (Gap(what, len(found), found[0]),) if found else ()


def _documents(folder: Path) -> dict[str, str]:
    names = ("corpus.jsonl", "corpus.jsonl.gz")
    corpus = next((folder / name for name in names if (folder / name).is_file()), None)
    if corpus is None:
        raise InputError(
            f"expected a judged set at {folder} (corpus.jsonl, queries.jsonl, qrels/test.tsv); found no corpus.jsonl"
        )
    documents: dict[str, str] = {}
    twice: list[str] = []
    for where, document in _checked_documents(corpus):
        if document.id in documents:
            twice.append(f"{where}: document id {document.id!r} stands there twice")
        documents[document.id] = document.text
    if twice:
        raise InputError(twice[0] + (f", as do {len(twice) - 1:,} more" if len(twice) > 1 else ""))
    return documents


def _checked_documents(corpus: Path) -> Iterator[tuple[str, Document]]:
    """(file and line, document)."""
    for document in read_documents(corpus):
        if isinstance(document, BadRow):
            raise InputError(str(document))
        where = f"{corpus}:{document.origin.line}" if document.origin else str(corpus)
        if not document.text:
            raise InputError(f"{where}: document {document.id!r} has neither text nor title")
        yield where, document
