"""Runoff: the whole life of a cross-encoder reranker. Retrieval is the first round; the runoff decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["CrossEncoder", "Embedder", "Index", "Search", "__version__"]

if TYPE_CHECKING:
    from runoff.crossencoder import CrossEncoder
    from runoff.embedder import Embedder
    from runoff.search.index import Index
    from runoff.search.pipeline import Search

_HOMES = {
    "CrossEncoder": "runoff.crossencoder",
    "Embedder": "runoff.embedder",
    "Index": "runoff.search.index",
    "Search": "runoff.search.pipeline",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import runoff` costs next to nothing.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'runoff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
