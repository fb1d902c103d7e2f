"""Candidates or labels -> a subset of each query's rows, by the rules of `runoff.data.sampling`."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runoff.contracts import FloatArray, InputError, MissingExtraError
from runoff.data.sampling import AnchorRule, BandRule, Rows, head_and_band, quantile_anchors
from runoff.data.shards import Place, Shards
from runoff.distill import candidates as candidate_shards
from runoff.distill import labels as label_shards
from runoff.distill import teacher as score_shards
from runoff.distill.labels import ScoreTable, is_positive
from runoff.distill.teacher import pair_key

if TYPE_CHECKING:
    import pyarrow as pa

Rule = AnchorRule | BandRule
PICTURES = (".svg", ".png", ".pdf")
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class SampleReport:
    """Rows and positives before and after, and all scores before and after: what a plot shows."""

    queries: int
    before: FloatArray
    after: FloatArray
    positives: int

    def quantiles(self) -> dict[str, list[float]]:
        """The scores at `LEVELS`, before and after; empty where there are no rows."""
        return {
            name: np.quantile(part, LEVELS).tolist() if len(part) else []
            for name, part in (("before", self.before), ("after", self.after))
        }


def sample(
    source: str | Path,
    out: str | Path,
    rule: Rule,
    scores: str | Path | None = None,
    advance: Callable[[int], object] = lambda _count: None,
) -> SampleReport:
    """Writes what the rule takes of each query to `out`, as a folder of the same kind, in the same order.

    Candidates are sampled by a folder of `scores` that covers them; labels by their labels. What is taken of a query
    depends on its rows, its id and the rule's seed alone. Raises `InputError` for a folder that is neither,
    candidates without scores, and pairs that have none.
    """
    rows = Shards.found(source, (candidate_shards.KIND, label_shards.KIND))
    manifest = rows.checked()
    has_labels = rows.kind == label_shards.KIND
    if has_labels == (scores is not None):
        raise InputError(
            "labels are sampled by their own label: leave the scores out"
            if has_labels
            else "candidates are sampled by a teacher's scores: name the folder that runoff teach wrote"
        )
    table = None if scores is None else ScoreTable(Shards(scores, score_shards.KIND))
    made = Shards(out, rows.kind)
    made.begin(
        {
            "rule": {"name": type(rule).__name__, **asdict(rule)},
            "scores": table.identity if table else None,
            "from": manifest["identity"],
        }
    )
    schema = label_shards.schema_of(manifest) if has_labels else candidate_shards.schema()
    before, after, queries, positives = [], [], 0, 0
    for number, file in enumerate(rows.files()):
        shard = _whole(rows, file, schema.names)
        values = _values(shard, Place(file, 0), table)
        taken, count = _taken(shard, values, rule)
        made.write(number, {name: shard.column(name).take(taken) for name in schema.names}, schema)
        queries += count
        positives += int(is_positive(shard)[taken].sum())
        before.append(values)
        after.append(values[taken])
        advance(len(values))
    report = SampleReport(queries, _joined(before), _joined(after), positives)
    counts = {"queries": queries, "pairs": len(report.after), "positives": positives}
    made.finish(
        {"counts": counts, "columns": schema.names, "levels": LEVELS, "quantiles": report.quantiles()}
    )
    return report


def _whole(rows: Shards, file: Path, names: list[str]) -> pa.Table:
    """One shard, which holds whole queries."""
    import pyarrow as pa

    return pa.Table.from_batches([batch for _, batch in rows.batches(names, files=[file])])


def _values(shard: pa.Table, first: Place, table: ScoreTable | None) -> FloatArray:
    if table is None:
        labels: FloatArray = shard.column("label").to_numpy()
        return labels
    texts = zip(shard.column("query").to_pylist(), shard.column("document").to_pylist(), strict=True)
    return table.of([pair_key(query, document) for query, document in texts], first)


def _taken(shard: pa.Table, values: FloatArray, rule: Rule) -> tuple[Rows, int]:
    """The rows that the rule takes, ascending, and of how many queries."""
    positives = is_positive(shard)
    parts: list[npt.NDArray[Any]] = []
    for id, start, end in _queries(shard):
        part, number = slice(start, end), zlib.crc32(id.encode())
        if isinstance(rule, AnchorRule):
            found = quantile_anchors(values[part], positives[part], rule, number)
        else:
            found = head_and_band(values[part], positives[part], rule, number)
        parts.append(found + start)
    return (np.concatenate(parts) if parts else np.zeros(0, np.int64)), len(parts)


def _queries(shard: pa.Table) -> Iterator[tuple[str, int, int]]:
    """(query id, its first row, the row after its last) of each query."""
    start = 0
    for id, rows in groupby(shard.column("query_id").to_pylist()):
        count = sum(1 for _ in rows)
        yield id, start, start + count
        start += count


def _joined(parts: list[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def check_plot(path: str | Path) -> None:
    """Raises `MissingExtraError` without matplotlib, and `InputError` for a place where no picture can be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("a plot needs matplotlib: pip install 'runoff[eval]'")
    target = Path(path)
    if target.suffix.lower() not in PICTURES or not target.parent.is_dir():
        raise InputError(
            f"expected a file ending in {', '.join(PICTURES)} in a folder that is there, got {path}"
        )


def plot(report: SampleReport, path: str | Path, score: str = "score") -> None:
    """Draws how the scores lie before and after, as a picture file; raises what `check_plot` raises."""
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    counts, shares = figure.subplots(1, 2)
    edges = np.histogram_bin_edges(report.before, bins=60)
    for values, name, colour in (
        (report.before, "before", "#94a3b8"),
        (report.after, "after", "#c2410c"),
    ):
        label = f"{name}: {len(values):,} rows"
        counts.hist(values, edges, color=colour, alpha=0.75, label=label)
        shares.hist(values, edges, color=colour, density=True, histtype="step", linewidth=1.6)
    counts.set_yscale("log")
    counts.set(xlabel=score, ylabel="rows")
    shares.set(xlabel=score, ylabel="density")
    counts.legend(frameon=False, fontsize=8)
    for axis in (counts, shares):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
