"""TREC runs and qrels, BEIR's among them: read, and written whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runoff.contracts import InputError
from runoff.data.atomic import replace_file
from runoff.data.encoding import not_utf8

Run = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score) pairs, best first."""

Qrels = dict[str, dict[str, int]]
"""Query id -> document id -> relevance."""


def read_trec_run(path: str | Path) -> Run:
    """The run of a file with lines `query Q0 document rank score tag`, each query's list by score
    descending, ties as in the file. `InputError` with file and line for a line of another form."""
    run: Run = {}
    for number, fields in _lines(Path(path)):
        if len(fields) != 6:
            raise InputError(
                f"{path}:{number}: expected 6 fields (query Q0 document rank score tag), got {len(fields)}"
            )
        run.setdefault(fields[0], []).append((fields[2], _number(fields[4], path, number)))
    for pairs in run.values():
        pairs.sort(key=lambda pair: -pair[1])
    return run


def write_trec_run(
    path: str | Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str = "runoff"
) -> None:
    """Writes `run` as TREC lines, ranks from 1 in the order given; the file is whole or not there."""
    lines = []
    for query, pairs in run.items():
        for rank, (document, score) in enumerate(pairs, start=1):
            for name in (query, document, tag):
                if not name or any(letter.isspace() for letter in name):
                    raise InputError(
                        f"a TREC run separates fields by blanks, so ids cannot be empty or have any: {name!r}"
                    )
            # repr keeps every digit of a float, so that reading back gives the same scores and ties.
            lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")
    replace_file(Path(path), "".join(lines))


def read_qrels(path: str | Path, split: str = "test") -> Qrels:
    """Judgements of a TREC file (`query 0 document relevance`), a BEIR tsv (with its header), or a BEIR
    folder (its qrels/`split`.tsv)."""
    qrels: Qrels = {}
    for _, query, document, grade in judgements(qrels_file(path, split)):
        qrels.setdefault(query, {})[document] = grade
    return qrels


def qrels_file(path: str | Path, split: str = "test") -> Path:
    """The file of judgements that `path` is, or that a BEIR folder has for `split`."""
    file = Path(path)
    if file.is_dir():
        file = file / "qrels" / f"{split}.tsv" if (file / "qrels").is_dir() else file / f"{split}.tsv"
    return file


def judgements(file: Path) -> Iterator[tuple[int, str, str, int]]:
    """(line, query id, document id, relevance) of each judgement in a TREC file or a BEIR tsv."""
    for number, fields in _lines(file):
        if number == 1 and fields[0] in ("query-id", "query_id", "qid"):
            continue
        if len(fields) not in (3, 4):
            raise InputError(
                f"{file}:{number}: expected 4 fields (query 0 document relevance) or 3 (query document "
                f"relevance), got {len(fields)}"
            )
        yield number, fields[0], fields[-2], int(_number(fields[-1], file, number))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and fields of the lines that are not blank."""
    if not path.is_file():
        raise InputError(f"expected a file at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number}: {not_utf8(error, 'line')}") from error
            if text.strip():
                yield number, text.split()


def _number(text: str, path: str | Path, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}:{line}: expected a number, got {text!r}") from None
