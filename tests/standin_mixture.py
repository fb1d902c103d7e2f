"""Stand-ins for mixtures: subsets in folders, and a dataset in the hub's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DATASET = "org/mixed"


def many_rows(count: int, name: str = "a", group: int = 1) -> list[Row]:
    """Rows of which `group` in a row share a query; the label is the row's number."""
    return [
        {"query": f"{name} query {row // group}", "document": f"{name} document {row}", "label": float(row)}
        for row in range(count)
    ]


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_mixture(path: Path, subsets: Sequence[Row], **keys: Any) -> Path:
    """A mixture's file as JSON."""
    path.write_text(json.dumps({"name": "ours", "subsets": list(subsets), **keys}), encoding="utf-8")
    return path


def write_dataset(folder: Path, configs: Mapping[str, Mapping[str, Sequence[Sequence[Row]]]]) -> Path:
    """Configuration -> split -> the rows of its files, as `push_to_hub` lays them out, with a card."""
    lines = ["---", "license: apache-2.0", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, files in splits.items():
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            for number, rows in enumerate(files):
                write_parquet(folder / config / f"{split}-{number:05d}-of-{len(files):05d}.parquet", rows)
    (folder / "README.md").write_text("\n".join([*lines, "---", "# mixed", ""]), encoding="utf-8")
    return folder
