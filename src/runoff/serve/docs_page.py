"""The page at /docs: the OpenAPI description as HTML, whole in itself, with nothing fetched from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{padding:.75rem;overflow:auto;border:1px solid #8886;border-radius:4px}h2{margin-top:2rem}code{font-size:.95em}"
)


def docs_page(openapi: Mapping[str, Any]) -> str:
    """Each route with what it does, an example of a body, and its statuses."""
    info = openapi["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(info['title'])}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{html.escape(info['title'])}</h1><p>{html.escape(info['description'])}</p>",
        "<p>The machine-readable form of this page: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(route['summary'])}</p>")
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, example in content.get("examples", {}).items():
                body = html.escape(json.dumps(example["value"], indent=2, ensure_ascii=False))
                parts.append(f"<p>{html.escape(name)}</p><pre>{body}</pre>")
            shared = openapi["components"]["responses"]
            told = {
                code: shared[code] if "$ref" in each else each for code, each in route["responses"].items()
            }
            statuses = "; ".join(f"{code} {html.escape(each['description'])}" for code, each in told.items())
            parts.append(f"<p>{statuses}</p>")
    return "\n".join(parts)
