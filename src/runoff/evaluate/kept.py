"""What judging has computed before: first stages' lists and rerankers' raw scores, in TREC files that outlast a crash.

Beside each file, FILE.json says what it was made of (`identity`), and that of anything else is refused: a second
question costs nothing, and nothing is ever mixed up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import InputError, Scorer
from runoff.data.atomic import replace_file
from runoff.data.trec import Run, read_trec_run, write_trec_run
from runoff.evaluate.judged import Judged
from runoff.ranking import check_finite

Identity = Mapping[str, Any]


def kept_lists(
    judged: Judged, file: Path | None, identity: Identity, depth: int, retrieve: Callable[[], Run]
) -> tuple[Run, float, bool]:
    """(the lists, seconds that retrieving took, whether they were kept): from `file` where it has all queries to that
    depth, else from `retrieve` and then written there. Raises `InputError` for a file of another identity."""
    mine = {"texts": judged.digest, **identity}
    if file is not None and (about := _about(file, mine)) and about["depth"] >= depth:
        run = read_trec_run(file)
        # A query that nothing was found for has no line: the queries are named beside the file.
        if judged.queries.keys() <= set(about["queries"]):
            share = len(judged.queries) / max(1, len(about["queries"]))
            return (
                {query: run.get(query, [])[:depth] for query in judged.queries},
                about["seconds"] * share,
                True,
            )
    begun = perf_counter()
    run = retrieve()
    seconds = perf_counter() - begun
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # First the lists: if the process dies in between, they are not known and made again.
        file.with_name(f"{file.name}.json").unlink(missing_ok=True)
        write_trec_run(file, run)
        _write_about(file, mine, {"depth": depth, "queries": list(run), "seconds": round(seconds, 3)})
    return run, seconds, False


class KeptScores:
    """Scores by query and document id, asked of `scorer` where they are not known.

    With a `file`, every query's new scores are added to it as TREC lines (`query Q0 document rank score tag`), and the
    file of an earlier run is gone on with. Beside it FILE.json says whose scores they are (`identity`: the set's
    texts, the model's weights, how it ran): another's are refused. `scored` counts pairs of this run alone,
    `milliseconds` is what a pair took over all runs.
    """

    def __init__(
        self,
        judged: Judged,
        scorer: Scorer,
        file: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self._judged, self._scorer, self._file = judged, scorer, file
        self._identity = {"texts": judged.digest, **(identity or {})}
        self._known: dict[str, dict[str, float]] = {}
        self.scored = self._timed_pairs = 0
        self._seconds = 0.0
        if file is not None:
            self._open(file)

    @property
    def milliseconds(self) -> float | None:
        """Of a pair, on average; None as long as none was scored."""
        return 1000 * self._seconds / self._timed_pairs if self._timed_pairs else None

    def unknown(self, query: str, documents: Sequence[str]) -> int:
        """How many of these pairs would have to be scored."""
        known = self._known.get(query, {})
        return sum(document not in known for document in documents)

    def of(
        self, query: str, documents: Sequence[str], advance: Callable[[int], object] = lambda _count: None
    ) -> npt.NDArray[np.float64]:
        """The raw scores of a query's documents (ids), [N]. `advance` hears of pairs that were scored now."""
        known = self._known.setdefault(query, {})
        if missing := [document for document in documents if document not in known]:
            begun = perf_counter()
            texts = [self._judged.documents[document] for document in missing]
            found = np.asarray(self._scorer.score(self._judged.queries[query], texts), np.float64)
            check_finite(found)
            self._seconds += perf_counter() - begun
            self._timed_pairs += len(missing)
            self.scored += len(missing)
            self._add(query, missing, found)
            known.update(zip(missing, map(float, found), strict=True))
            advance(len(missing))
        return np.array([known[document] for document in documents], np.float64)

    # --- the file ----------------------------------------------------------------------------------------

    def _open(self, file: Path) -> None:
        if about := _about(file, self._identity):
            self._seconds, self._timed_pairs = about["seconds"], about["pairs"]
        elif file.exists():
            raise InputError(
                f"{file} is there without {file.name}.json, which says whose scores it has: move it away"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        self._note(file)
        file.touch()
        self._known = _read(file)

    def _add(self, query: str, documents: Sequence[str], scores: npt.NDArray[np.float64]) -> None:
        if self._file is None:
            return
        first = len(self._known[query]) + 1
        # Ids with blanks would not survive a TREC file; repr keeps every digit.
        for id in (query, *documents):
            if not id or any(letter.isspace() for letter in id):
                raise InputError(
                    f"scores are kept as TREC lines, where ids cannot be empty or have blanks: {id!r}"
                )
        lines = "".join(
            f"{query} Q0 {document} {first + place} {float(score)!r} runoff\n"
            for place, (document, score) in enumerate(zip(documents, scores, strict=True))
        )
        with self._file.open("a", encoding="utf-8", newline="\n") as out:
            out.write(lines)
            out.flush()
            os.fsync(out.fileno())
        self._note(self._file)

    def _note(self, file: Path) -> None:
        _write_about(file, self._identity, {"pairs": self._timed_pairs, "seconds": round(self._seconds, 3)})


def _about(file: Path, identity: Identity) -> dict[str, Any] | None:
    """What stands beside a kept file; None where nothing does. `InputError` for another identity."""
    beside = file.with_name(f"{file.name}.json")
    if not beside.is_file():
        return None
    try:
        about: dict[str, Any] = json.loads(beside.read_text("utf-8"))
        found = about["identity"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{beside} is damaged: delete it and {file.name}, to have them made again") from None
    if found != dict(identity):
        names = [name for name in {**found, **identity} if found.get(name) != identity.get(name)]
        said = "; ".join(f"{name} {found.get(name)!r}, now {identity.get(name)!r}" for name in names)
        raise InputError(
            f"{file} was made of something else: {said}. Name another folder, or delete the file and the one beside it"
        )
    return about


def _write_about(file: Path, identity: Identity, facts: Mapping[str, Any]) -> None:
    text = json.dumps({"identity": dict(identity), **facts}, indent=1, ensure_ascii=False)
    replace_file(file.with_name(f"{file.name}.json"), text + "\n")


def _read(file: Path) -> dict[str, dict[str, float]]:
    """The scores of a file. A last line that a crash cut short is cut off the file."""
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with file.open("rb+") as out:
            out.truncate(len(whole))
    known: dict[str, dict[str, float]] = {}
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        fields = line.split()
        try:
            known.setdefault(fields[0], {})[fields[2]] = float(fields[4])
        except (IndexError, ValueError):
            raise InputError(
                f"{file}:{number}: expected `query Q0 document rank score tag`, got {line[:80]!r}"
            ) from None
    return known
