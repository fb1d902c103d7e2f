"""Ingestion: documents a second, memory and disk, and how long BM25 then takes over them.

Documents are made on the fly and kept nowhere: each is some sentences of Wikipedia leads (build/demo, see
recipes/demo_collection.py) under a title with a number of its own, drawn with a fixed seed; their lengths are
those of real passages, and the vocabulary grows with every document. They are written to a jsonl file, which a
fresh process ingests as `runoff index` would, with the token ids of a reranker stored; another fresh process
then searches. Memory is the peak of the resident set (VmHWM), reset before each stage where Linux allows it.
"seconds" is all of it, from opening the file to the index being complete; making the documents is not in it.
A line replaces that of the same settings and machine in benchmarks/results/ingest.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

LEADS = ROOT / "build" / "demo" / "wikipedia.jsonl"
NANO = ROOT / "models" / "runoff-nano"
RESULTS = ROOT / "benchmarks" / "results"
SIZES, QUICK_SIZES = (50_000, 200_000), (10_000,)
SENTENCES = (2, 8)
SEED = 20261124
QUERY_COUNT, TOP_K = 100, 100
PACKAGES = ("runoff", "pylance", "pyarrow", "tokenizers", "numpy")


def leads() -> list[dict[str, str]]:
    """The Wikipedia leads of the demo."""
    if not LEADS.is_file():
        sys.exit(f"expected {LEADS.relative_to(ROOT)}. Make it: python recipes/demo_collection.py")
    return [json.loads(line) for line in LEADS.open(encoding="utf-8")]


def made_documents(count: int) -> Iterator[dict[str, Any]]:
    """`count` records, the same on every run; the first of a larger count are those of a smaller one."""
    sources = leads()
    sentences = [each for lead in sources for each in re.split(r"(?<=[.!?])\s+", lead["text"])]
    drawn = random.Random(SEED)
    for number in range(count):
        title = f"{drawn.choice(sources)['title']} {number}"
        text = " ".join(drawn.choices(sentences, k=drawn.randint(*SENTENCES)))
        yield {"id": f"made-{number}", "title": title, "text": text, "year": 1900 + number % 125}


def made_queries(count: int) -> list[str]:
    """A title and three longer words of its lead each."""
    drawn = random.Random(SEED + 1)
    queries = []
    for lead in drawn.sample(leads(), count):
        words = re.findall(r"[^\W\d_]{5,}", lead["text"])
        queries.append(" ".join([lead["title"], *drawn.sample(words, min(3, len(words)))]))
    return queries


# --- in the measured process -----------------------------------------------------------------------------


def peak_mib() -> float:
    """Peak resident set since the last reset, MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


class Stages:
    """Seconds and peak memory of each stage; the peak of all is kept over the resets."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self.highest = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._reset()
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        peak = peak_mib()
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak)
        self.highest = max(self.highest, peak)

    def _reset(self) -> None:
        self.highest = max(self.highest, peak_mib())
        with suppress(OSError):  # not allowed: the peaks are then those since the process began
            Path("/proc/self/clear_refs").write_text("5")

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Counts every call of `owner.method` as the stage `name`."""
        real: Callable[..., Any] = getattr(owner, method)

        def watched(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return real(*arguments, **options)

        setattr(owner, method, watched)


def ingest_here(source: Path, path: Path, model: str) -> dict[str, Any]:
    """Ingests the jsonl file `source` into a new index at `path`, and says what it took."""
    import lance

    from runoff import CrossEncoder, Index
    from runoff.data.formats import read_documents
    from runoff.search.index import IngestOptions
    from runoff.search.table import Table

    reranker = CrossEncoder(model)
    index = Index.create(path, tokenizer=reranker)
    before = peak_mib()
    stages = Stages()
    stages.watch(Table, "append", "append")
    stages.watch(type(index._table.dataset.optimize), "compact_files", "compact")
    stages.watch(Table, "build_bm25", "bm25")
    stages.watch(Table, "_index_ids", "ids")
    stages.watch(lance.LanceDataset, "cleanup_old_versions", "clear_away")
    began = time.perf_counter()
    report = index.add(read_documents(source), IngestOptions(show_progress=False))
    seconds = time.perf_counter() - began
    assert report.bad == 0
    read_and_tokenise = seconds - sum(stages.seconds.values())
    return {
        "seconds": round(seconds, 2),
        "documents_a_second": round(report.added / seconds),
        "megabytes_a_second": round(source.stat().st_size / 1e6 / seconds, 2),
        "stage_seconds": {"read and tokenise": round(read_and_tokenise, 2), **_rounded(stages.seconds)},
        "peak_mib": round(max(stages.highest, peak_mib())),
        "peak_mib_before": round(before),
        "stage_peak_mib": _rounded(stages.peaks, 0),
        "index_bytes": index.info().bytes_on_disk,
    }


def search_here(path: Path) -> dict[str, Any]:
    """How long BM25's top 100 with texts takes on an open index, every query new, after one for warmth."""
    from runoff import Index
    from runoff.contracts import Query
    from runoff.search.retrieve import BM25

    began = time.perf_counter()
    index = Index.open(path)
    opened = time.perf_counter() - began
    bm25 = BM25(index)
    first, *queries = made_queries(QUERY_COUNT + 1)
    times = [_timed_ms(lambda query=query: bm25.retrieve(Query(query), TOP_K)) for query in (first, *queries)]
    return {
        "open_ms": round(opened * 1000, 1),
        "bm25_first_ms": round(times[0], 1),
        "bm25_median_ms": round(statistics.median(times[1:]), 1),
        "bm25_p95_ms": round(statistics.quantiles(times[1:], n=20)[-1], 1),
        "search_peak_mib": round(peak_mib()),
    }


def _timed_ms(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _rounded(values: dict[str, float], digits: int = 2) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


# --- around it --------------------------------------------------------------------------------------------


def measured(count: int, model: Path) -> dict[str, Any]:
    """The line of one run over `count` documents."""
    with tempfile.TemporaryDirectory(prefix="runoff-bench-") as folder:
        source, path = Path(folder) / "made.jsonl", Path(folder) / "index"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in made_documents(count))
        figures = {"documents": count, "source_bytes": source.stat().st_size}
        figures |= fresh_process("--ingest-here", str(source), str(path), str(model))
        figures |= fresh_process("--search-here", str(path))
    settings = {"documents": count, "tokenizer": model.name, "queries": QUERY_COUNT, "top_k": TOP_K}
    return {"benchmark": "ingest", "settings": settings, **figures, **circumstances()}


def fresh_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def circumstances() -> dict[str, Any]:
    """The machine, the versions, the command and the day."""
    from runoff.cli.machine import processor

    cpu = processor()
    return {
        "machine": {"cpu": cpu.name, "cores": cpu.cores, "system": platform.system()},
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }


def record(row: dict[str, Any]) -> None:
    """Puts the line in the place of the one with the same settings and machine, or at the end."""
    path = RESULTS / f"{row['benchmark']}.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    kept = [each for each in map(json.loads, lines) if _run_of(each) != _run_of(row)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in [*kept, row]), "utf-8")


def _run_of(row: dict[str, Any]) -> str:
    return json.dumps([row["settings"], row["machine"]], sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_SIZES[0]:,} documents")
    parser.add_argument("--documents", type=int, nargs="+", help=f"how many (default: {SIZES})")
    parser.add_argument("--model", type=Path, default=NANO, help="the reranker whose token ids are stored")
    parser.add_argument("--ingest-here", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--search-here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ingest_here:
        source, path, model = options.ingest_here
        print(json.dumps(ingest_here(Path(source), Path(path), model)))
    elif options.search_here:
        print(json.dumps(search_here(Path(options.search_here))))
    else:
        for count in options.documents or (QUICK_SIZES if options.quick else SIZES):
            row = measured(count, options.model)
            record(row)
            print(
                f"{count:>9,} documents: {row['documents_a_second']:,} a second, {row['megabytes_a_second']} MB/s, "
                f"peak {row['peak_mib']:,} MiB, {row['index_bytes'] / 1e6:,.0f} MB on disk, BM25 built in "
                f"{row['stage_seconds'].get('bm25', 0.0)} s; top {TOP_K} in {row['bm25_median_ms']} ms at the "
                f"median, {row['bm25_p95_ms']} ms at p95",
                flush=True,
            )


if __name__ == "__main__":
    main()
