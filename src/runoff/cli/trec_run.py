"""A file of queries -> a TREC run: written whole at the end, kept query by query on the way there."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.options import is_terminal
from runoff.cli.terminal import note, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.contracts import Query
    from runoff.data.trec import Run
    from runoff.search.pipeline import Search, SearchResult


def write_run(options: argparse.Namespace, search: Search, queries: Sequence[Query], top_k: int) -> None:
    """Answers every query and writes `options.run_file`; says what was done."""
    from runoff.data.trec import write_trec_run

    target = _checked_target(Path(options.run_file).expanduser())
    _check_ids(search, queries)
    began = time.perf_counter()
    journal = Journal(target, _identity(options, search, queries, top_k))
    run: Run = dict(journal.read())
    if run:
        note(f"{len(run):,} of {len(queries):,} queries were answered before and are kept")
    left = [query for query in queries if query.id not in run]
    with journal:
        for result in _with_progress(search.search_many(left, top_k, options.where), len(left)):
            pairs = comparable_scores(result, search.options.depth if search.reranker else top_k)
            journal.add(str(result.query.id), pairs)
            run[str(result.query.id)] = pairs
    tag = "runoff" if search.reranker is None else f"runoff-{Path(search.reranker.name).name}"
    write_trec_run(target, {str(query.id): run[str(query.id)] for query in queries}, tag.replace(" ", "_"))
    journal.remove()
    facts = {"run": str(target), "queries": len(queries), "lines": sum(map(len, run.values()))}
    seconds = time.perf_counter() - began
    if options.json:
        print_json({**facts, "seconds": round(seconds, 2)})
    else:
        open_terminal().line(
            f"{target}: {facts['queries']:,} queries, {facts['lines']:,} lines, in {seconds:.1f} s"
        )


def comparable_scores(result: SearchResult, depth: int) -> list[tuple[str, float]]:
    """Ids and scores that fall with the rank, as readers of runs sort by them.

    Hits beyond `depth` were not reranked and have the first stage's scores, on another scale: these are
    moved to begin 1 below the last reranked one.
    """
    head, rest = result.hits[:depth], result.hits[depth:]
    pairs = [(hit.id, hit.score) for hit in head]
    return pairs + [(hit.id, pairs[-1][1] - 1.0 + hit.score - rest[0].score) for hit in rest]


class Journal:
    """Answers as they come, in a hidden file beside the run, for the same command to go on with.

    The first line says what they are answers to; a file with another first line is begun anew. A last line
    that was cut short by a kill counts as not there.
    """

    def __init__(self, target: Path, identity: dict[str, Any]) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self._first = json.dumps(identity, sort_keys=True)
        self._answers: list[str] = []

    def read(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Query ids and their (document id, score) pairs."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines[0] != self._first:
            return
        # What follows the last line end is empty, or was cut short.
        for line in lines[1:-1]:
            self._answers.append(line)
            query, pairs = json.loads(line)
            yield query, [(id, score) for id, score in pairs]

    def __enter__(self) -> Journal:
        if self._answers:
            # Written on where it was cut short: a full disk must not cost the answers there are.
            self._file = self.path.open("r+", encoding="utf-8", newline="\n")
            self._file.seek(sum(len(f"{line}\n") for line in [self._first, *self._answers]))
            self._file.truncate()
        else:
            self._file = self.path.open("w", encoding="utf-8", newline="\n")
            self._file.write(f"{self._first}\n")
            self._file.flush()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, query: str, pairs: list[tuple[str, float]]) -> None:
        self._file.write(json.dumps([query, pairs]) + "\n")
        self._file.flush()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _identity(
    options: argparse.Namespace, search: Search, queries: Sequence[Query], top_k: int
) -> dict[str, Any]:
    """All that decides the answers."""
    from runoff.search.index import Index

    assert isinstance(search.source, Index)
    names = ("where", "no_rerank", "revision", "precision", "max_length", "device")
    return {
        "queries": [[query.id, query.text] for query in queries],
        "index": [str(search.source.path.resolve()), search.source.version],
        "model": search.reranker.name if search.reranker else None,
        "options": {**asdict(search.options), **{name: getattr(options, name) for name in names}},
        "top_k": top_k,
    }


def _checked_target(target: Path) -> Path:
    """Where to write, links followed: a run takes the place of a file, and must not take that of a device."""
    from runoff.contracts import InputError

    is_special = target.exists() and not target.is_file()
    if is_special or not target.parent.is_dir():
        found = f"no folder {target.parent}"
        if is_special:
            found = "a folder" if target.is_dir() else "something that is no ordinary file"
        raise InputError(
            f"cannot write a run to {target}: expected a file in a folder that is there, found {found}"
        )
    return target.resolve()


def _check_ids(search: Search, queries: Sequence[Query]) -> None:
    """Refuses ids that a run cannot hold before the work, rather than after it."""
    from runoff.contracts import InputError
    from runoff.search.index import Index

    remedy = "a TREC run separates fields by blanks. Change the ids, or take --json in place of --run"
    if blank := [query.id for query in queries if any(map(str.isspace, query.id or " "))]:
        raise InputError(f"{len(blank)} query ids hold blanks, such as {blank[0]!r}: {remedy}")
    if isinstance(search.source, Index) and (
        count := search.source.count(r"regexp_like(id, '[\s\x1c-\x1f]')")
    ):
        raise InputError(f"{count} document ids hold blanks: {remedy}")


def _with_progress(results: Iterator[SearchResult], count: int) -> Iterator[SearchResult]:
    if not is_terminal(sys.stderr):
        return results
    from tqdm import tqdm

    bar: Iterator[SearchResult] = tqdm(results, total=count, unit=" queries", file=sys.stderr)
    return bar
