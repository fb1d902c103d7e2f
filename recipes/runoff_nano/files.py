"""Files that are whole or not there."""

import json
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def edit_json(path: Path, changes: dict | None = None, drop: tuple = (), indent: int | None = 2) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | (changes or {})
    content = {key: value for key, value in content.items() if key not in drop}
    write_atomically(path, (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode())
