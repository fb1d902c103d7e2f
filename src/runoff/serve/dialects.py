"""The dialects of reranking APIs <-> one request and one answer.

`documents` in a body is Cohere's v1 and v2, Jina's, vLLM's and infinity's dialect, which one answer serves; `texts` is
text-embeddings-inference's, whose answer is a bare array. Fields that a dialect lacks are ignored; null is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runoff.contracts import CutReport
from runoff.serve.fields import (
    body_object,
    first_given,
    flag,
    kind_of,
    optional_text,
    text,
    texts,
    whole,
    word,
)
from runoff.serve.model import Cutting
from runoff.serve.refusals import empty, invalid

DOCUMENTS_A_SEARCH_UNIT = 100
"""Cohere bills a query with up to so many documents as one."""

PAIR_NAMES = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("query", "documents"),
)
"""What vLLM's /score calls the two sides, in several versions, and what rerankers call them."""


@dataclass(frozen=True, slots=True)
class Rerank:
    """A reranking request, whatever its dialect.

    `shown` [N] are the documents as an answer repeats them. `top_n` None: all. `is_raw`: logits are wanted.
    """

    query: str
    documents: Sequence[str]
    shown: Sequence[Mapping[str, Any]]
    cutting: Cutting
    top_n: int | None = None
    returns_documents: bool = False
    is_raw: bool = False
    is_tei: bool = False
    is_voyage: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Pairs:
    """A scoring request: pairs in the order of their scores."""

    pairs: Sequence[tuple[str, str]]
    cutting: Cutting
    is_raw: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request came to, as its answer says it."""

    request_id: str
    model: str
    tokens: int
    cut: CutReport
    api_version: str = "2"


def rerank_of(body: Any) -> Rerank:
    """The request in a body. Raises `RefusedError`: 400 for a blank query or no documents, else 422 with the field."""
    body = body_object(body)
    name, documents = first_given(body, "documents", "texts")
    query = text(body, "query")
    if documents is None:
        raise invalid(
            "documents: expected a list of strings or objects (or `texts`, a list of strings), got nothing"
        )
    # Empty before blank: a request with neither is told of the first in Cohere's order.
    if documents in ([], ""):
        raise empty(f"invalid request: list of {name} must not be empty")
    if not query.strip():
        raise empty("invalid request: query must not be empty or be only whitespace")
    is_tei = name == "texts"
    plain, shown = _documents(name, documents, _rank_fields(body), may_be_objects=not is_tei)
    return Rerank(
        query=query,
        documents=plain,
        shown=shown,
        cutting=_cutting(body),
        top_n=whole(body, "top_n", "top_k") or None,
        returns_documents=bool(flag(body, "return_documents", "return_text")),
        is_raw=_is_raw(body),
        is_tei=is_tei,
        is_voyage=not is_tei and body.get("top_n") is None and body.get("top_k") is not None,
        model=optional_text(body, "model"),
    )


def pairs_of(body: Any) -> Pairs:
    """The pairs in a body: one against one, one against many, or as many against as many."""
    body = body_object(body)
    names = next((pair for pair in PAIR_NAMES if all(body.get(name) is not None for name in pair)), None)
    if names is None:
        known = ", ".join(" and ".join(pair) for pair in PAIR_NAMES)
        raise invalid(
            f"text_1: expected two sides to score ({known}), got {', '.join(sorted(body)) or 'nothing'}"[:400]
        )
    first, second = (texts(name, body[name]) for name in names)
    if not first or not second:
        raise empty(f"invalid request: {names[0] if not first else names[1]} must not be empty")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise invalid(
            f"{names[0]}: expected one text or {len(second)}, as many as {names[1]} has, got {len(first)}"
        )
    return Pairs(
        list(zip(first, second, strict=True)), _cutting(body), _is_raw(body), optional_text(body, "model")
    )


def _is_raw(body: Mapping[str, Any]) -> bool:
    return bool(flag(body, "raw_scores")) or flag(body, "use_activation", "activation") is False


def _cutting(body: Mapping[str, Any]) -> Cutting:
    limit = whole(body, "truncate_prompt_tokens", least=-1)
    return Cutting(
        refuses=flag(body, "truncate", "truncation") is False,
        keeps_end=word(body, "truncation_direction", "truncation_side", known=("left", "right")) == "left",
        max_document_tokens=whole(body, "max_tokens_per_doc", least=1),
        max_length=None if limit in (None, -1, 0) else limit,  # -1 is vLLM's word for the model's own
    )


def _rank_fields(body: Mapping[str, Any]) -> list[str]:
    value = body.get("rank_fields")
    found = ["text"] if value is None else texts("rank_fields", value)
    if not found:
        raise invalid("rank_fields: expected a list of field names, got an empty one")
    return found


def _documents(
    name: str, value: Any, rank_fields: Sequence[str], *, may_be_objects: bool
) -> tuple[list[str], list[Mapping[str, Any]]]:
    """The documents as they are scored, and as they are given back."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise invalid(
            f"{name}: expected a list of strings{' or objects' if may_be_objects else ''}, got {kind_of(value)}"
        )
    plain: list[str] = []
    shown: list[Mapping[str, Any]] = []
    for place, item in enumerate(value):
        if isinstance(item, str):
            plain.append(item)
            shown.append({"text": item})
        elif isinstance(item, dict) and may_be_objects:
            joined = "\n".join(_field_of(item, field, f"{name}[{place}]") for field in rank_fields)
            plain.append(joined)
            shown.append({**item, "text": item["text"] if isinstance(item.get("text"), str) else joined})
        else:
            expected = "a string or an object" if may_be_objects else "a string"
            raise invalid(f"{name}[{place}]: expected {expected}, got {kind_of(item)}")
    return plain, shown


def _field_of(document: Mapping[str, Any], field: str, where: str) -> str:
    value = document.get(field)
    if not isinstance(value, str):
        came = "nothing" if value is None else kind_of(value)
        raise invalid(
            f"{where}.{field}: expected a string (rank_fields says which fields are read), got {came}"
        )
    return value


def rerank_answer(asked: Rerank, order: Sequence[int], scores: Sequence[float], usage: Usage) -> Any:
    """The answer in the request's dialect; `order` are the documents' places, best first, `scores` [N] by place."""
    order = order[: asked.top_n]
    if asked.is_tei:
        return [
            {"index": place, "score": scores[place]}
            | ({"text": asked.documents[place]} if asked.returns_documents else {})
            for place in order
        ]
    results: list[dict[str, Any]] = []
    for place in order:
        result: dict[str, Any] = {"index": place, "relevance_score": scores[place]}
        if asked.returns_documents:  # absent rather than null: pydantic clients refuse a null document
            result["document"] = asked.shown[place]
        results.append(result)
    answer = {
        "id": usage.request_id,
        "model": usage.model,
        "results": results,
        "usage": _usage(usage),
        "meta": _meta(usage, len(asked.documents)),
    }
    if asked.is_voyage:
        answer |= {"object": "list", "data": [_voyage(each) for each in results]}
    return answer


def _voyage(result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result, "document": result["document"]["text"]} if "document" in result else dict(result)


def _usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}


def _meta(usage: Usage, documents: int) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "api_version": {"version": usage.api_version},
        "billed_units": {"search_units": math.ceil(documents / DOCUMENTS_A_SEARCH_UNIT)},
        "tokens": {"input_tokens": usage.tokens},
    }
    return meta | ({"warnings": [str(usage.cut)]} if usage.cut.cut_pairs else {})


def pairs_answer(scores: Sequence[float], created: int, usage: Usage) -> dict[str, Any]:
    """vLLM's answer to /score, in the order of the pairs."""
    return {
        "id": usage.request_id,
        "object": "list",
        "created": created,
        "model": usage.model,
        "data": [{"index": place, "object": "score", "score": score} for place, score in enumerate(scores)],
        "usage": _usage(usage),
    } | ({"meta": {"warnings": [str(usage.cut)]}} if usage.cut.cut_pairs else {})
