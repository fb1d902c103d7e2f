"""Judged sets x retrievers x rerankers, one after the other, with what was kept of an earlier run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli import contestants
from runoff.cli.options import load_embedder, progress_bar

if TYPE_CHECKING:
    from runoff.contracts import Scorer
    from runoff.data.trec import Run
    from runoff.embedder import Embedder
    from runoff.evaluate.judged import Judged
    from runoff.evaluate.kept import KeptScores
    from runoff.evaluate.matrix import Judgement

BM25 = "bm25"
BOTH = "bm25+"


class Bench:
    """Runs what the options of `runoff judge` ask for. `scored`: pairs scored now; `kept`: that were known before."""

    def __init__(
        self,
        options: argparse.Namespace,
        rerankers: Mapping[str, Scorer],
        facts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._options, self._rerankers, self._facts = options, rerankers, facts
        self._out: Path | None = options.out.expanduser() if options.out else None
        self._deepest = max(options.depth, options.curve or 0)
        self._embedders: dict[str, Embedder] = {}
        self.scored = self.kept = 0

    def judged(self, judged: Judged) -> Iterator[Judgement]:
        """A judgement for each retriever."""
        from runoff.evaluate.matrix import judge

        scores = self.scores(judged)
        for name in self._options.retriever or [BM25]:
            lists, seconds = self.lists(judged, name)
            asked = sum(map(len, lists.values())) * len(scores)
            unknown = self.unknown(scores, lists)
            with progress_bar(unknown, "pairs", self._options) as bar:
                bar.set_description(f"{judged.name}, {shown(name)}")
                found = judge(
                    judged,
                    lists,
                    scores,
                    self._options.fuse or (1.0,),
                    depth=self._options.depth,
                    curve=self._options.curve,
                    first=shown(name),
                    milliseconds=None if seconds is None else 1000 * seconds / max(1, len(judged.queries)),
                    advance=bar.update,
                )
            self.scored += unknown
            self.kept += asked - unknown
            self._write_runs(found)
            yield found

    def scores(self, judged: Judged) -> dict[str, KeptScores]:
        """Each reranker's scores of a set, with what was kept of them."""
        from runoff.evaluate.kept import KeptScores

        return {
            name: KeptScores(judged, model, self._file(judged, "scores", name), _model(self._facts[name]))
            for name, model in self._rerankers.items()
        }

    def unknown(self, scores: Mapping[str, KeptScores], lists: Run) -> int:
        """How many pairs are left to score, to the greatest depth."""
        return sum(
            kept.unknown(query, [document for document, _ in pairs])
            for kept in scores.values()
            for query, pairs in lists.items()
        )

    def _write_runs(self, judgement: Judgement) -> None:
        """Each system's own lists, for other tools to read."""
        from runoff.data.trec import write_trec_run

        for system in judgement.systems.values():
            if system.model is None:
                continue
            name = f"{judgement.first}+{system.model}" if system.weight is None else system.name
            if (file := self._file(judgement.judged, "runs", name)) is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_trec_run(file, judgement.ranked(system.name), tag=slug(system.name))

    def _file(self, judged: Judged, kind: str, name: str) -> Path | None:
        """OUT/SET/KIND/NAME.trec; None without --out."""
        return None if self._out is None else self._out / judged.name / kind / f"{slug(name)}.trec"

    # --- first stages ------------------------------------------------------------------------------------

    def lists(self, judged: Judged, name: str) -> tuple[Run, float | None]:
        """A retriever's lists to the greatest depth, and the seconds that they took (None: made elsewhere)."""
        from runoff.evaluate.stages import hybrid_lists, run_lists
        from runoff.search.fusion import Fusion

        if Path(name).expanduser().is_file():
            return run_lists(Path(name).expanduser(), judged, self._deepest), None
        if not judged.has_texts:
            from runoff.contracts import InputError

            raise InputError(
                f"{judged.name} has judgements and no texts, so {name} finds nothing: expected the file of a TREC run "
                "as --retriever, or the set's BEIR folder as DATA"
            )
        if not name.startswith(BOTH):
            return self._kept(judged, name)
        words, by_words = self._kept(judged, BM25)
        vectors, by_vectors = self._kept(judged, name.removeprefix(BOTH))
        fusion = Fusion(self._options.fusion)
        return hybrid_lists([words, vectors], fusion.fused, self._deepest), by_words + by_vectors

    def _kept(self, judged: Judged, name: str) -> tuple[Run, float]:
        from runoff.evaluate.kept import kept_lists
        from runoff.evaluate.stages import bm25_lists, dense_lists

        identity: dict[str, Any] = {"retriever": shown(name)}
        if name != BM25:
            embedder = self._embedder(name)
            identity |= _model(contestants.model_facts(embedder, "embedder"))

        def retrieve() -> Run:
            if name == BM25:
                return bm25_lists(judged.documents, judged.queries, self._deepest)
            count = len(judged.documents) + len(judged.queries)
            with progress_bar(count, "texts", self._options) as bar:
                bar.set_description(f"{judged.name}, {shown(name)}")
                return dense_lists(judged.documents, judged.queries, embedder, self._deepest, bar.update)

        file = self._file(judged, "lists", shown(name))
        run, seconds, _ = kept_lists(judged, file, identity, self._deepest, retrieve)
        return run, seconds

    def _embedder(self, name: str) -> Embedder:
        if name not in self._embedders:
            self._embedders[name] = load_embedder(self._options, name, self._options.precision)
        return self._embedders[name]


def shown(name: str) -> str:
    """What a retriever is called in figures."""
    return (
        BOTH + contestants.shown(name.removeprefix(BOTH))
        if name.startswith(BOTH)
        else contestants.shown(name)
    )


def slug(name: str) -> str:
    """A file's name for a system's."""
    return "".join(letter if letter.isalnum() or letter in "-_.+()" else "-" for letter in name)


def _model(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("weights_sha256", "engine", "precision", "max_length")}
