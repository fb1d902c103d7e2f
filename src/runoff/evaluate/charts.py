"""The published charts of reranked retrieval, as SVG: bars, depth curves, quality against time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runoff.contracts import MissingExtraError
from runoff.evaluate.matrix import Judgement
from runoff.evaluate.measures import Point, pareto_front

INK, MUTED = "#1f2933", "#8794a3"
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#b7791f", "#319795", "#718096")
PANELS = 3
"""Panels side by side: at three a label of twelve letters stays readable on a laptop."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One retriever, as means over the sets: its own NDCG@10 and each reranker's; depth curves by reranker; and what
    each way costs."""

    retriever: str
    alone: float
    rerankers: Mapping[str, float]
    curves: Mapping[str, Mapping[int, float]]
    points: Sequence[Point]


def panels(judgements: Sequence[Judgement]) -> list[Panel]:
    """A panel for each retriever: means over the sets that it was judged on."""
    found = []
    for first in dict.fromkeys(each.first for each in judgements):
        own = [each for each in judgements if each.first == first]
        systems = [system.name for system in own[0].systems.values() if system.is_model_alone]
        points: dict[str, list[Point]] = {}
        for each in own:
            for point in each.points():
                points.setdefault(point.name, []).append(point)
        found.append(
            Panel(
                first,
                _mean(each.systems[first].ndcg.mean() for each in own),
                {name: _mean(each.systems[name].ndcg.mean() for each in own) for name in systems},
                {name: _mean_curve([each.curves[name] for each in own]) for name in systems},
                [
                    Point(name, _mean(p.milliseconds for p in each), _mean(p.figure for p in each))
                    for name, each in points.items()
                    if len(each) == len(own)
                ],
            )
        )
    return found


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _mean_curve(curves: Sequence[Mapping[int, Any]]) -> dict[int, float]:
    """Depths that all sets have: a small corpus ends sooner than a large one."""
    shared = [depth for depth in curves[0] if all(depth in curve for curve in curves)]
    return {depth: _mean(curve[depth].mean() for curve in curves) for depth in shared}


def bars(found: Sequence[Panel]) -> str:
    """A panel for each retriever: a bar for each reranker, dashed the retriever alone. Bars begin at 0."""
    most = max(len(panel.rerankers) for panel in found)
    figure, axes = _figure(len(found), 1.3 + 0.34 * max(most, 2))
    highest = max(max([panel.alone, *panel.rerankers.values()]) for panel in found)
    for axis, panel in zip(axes, found, strict=False):
        names, values = list(panel.rerankers), list(panel.rerankers.values())
        colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
        axis.barh(range(len(names)), values, height=0.7, color=colours)
        for row, value in enumerate(
            values
        ):  # behind the dashed line too, which would run through the figures
            said = f"{value:.3f} ({value - panel.alone:+.3f})"
            axis.text(max(value, panel.alone) + 0.02 * highest, row, said, va="center", fontsize=8)
        axis.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
        axis.set_ylim(max(most, 2) - 0.4, -0.6)  # the first on top, and one bar as thick as the others
        axis.axvline(panel.alone, color=INK, linestyle="--", linewidth=1)
        axis.set_title(f"{_short(panel.retriever)} alone {panel.alone:.3f}", fontsize=9, color=INK)
        axis.set_xlim(0, 1.45 * highest)
        axis.set_xlabel("NDCG@10", fontsize=8)
    return _svg(figure)


def depth_curves(found: Sequence[Panel]) -> str:
    """NDCG@10 by how many candidates are reranked."""
    figure, axes = _figure(len(found), 3.2)
    for axis, panel in zip(axes, found, strict=False):
        depths = sorted({depth for curve in panel.curves.values() for depth in curve})
        for number, (name, curve) in enumerate(panel.curves.items()):
            places = [depths.index(depth) for depth in curve]
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(
                places, list(curve.values()), marker="o", markersize=3.5, color=colour, label=_short(name)
            )
        axis.axhline(panel.alone, color=INK, linestyle="--", linewidth=1)
        axis.set_xticks(range(len(depths)), [str(depth) for depth in depths], fontsize=8)
        axis.set_xlabel("candidates reranked", fontsize=8)
        axis.set_ylabel("NDCG@10", fontsize=8)
        axis.set_title(_short(panel.retriever), fontsize=9, color=INK)
    if found[
        0
    ].curves:  # once, below: the colours are the same in all panels, and curves lie anywhere in them
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=PANELS, fontsize=7, frameon=False)
    return _svg(figure)


def quality_against_time(found: Sequence[Panel]) -> str:
    """NDCG@10 by milliseconds a query, all retrievers together, with the line of those that nothing beats."""
    figure, (axis, *_) = _figure(1, 4.0, width=7.5)
    from matplotlib.ticker import LogLocator, NullLocator

    points = [
        Point(
            f"{_short(panel.retriever)} > {point.name}" if point.name != panel.retriever else panel.retriever,
            max(point.milliseconds, 0.01),
            point.figure,
        )
        for panel in found
        for point in panel.points
    ]
    front = pareto_front(points)
    best = {point.name for point in front}
    others = [point for point in points if point.name not in best]
    axis.scatter([p.milliseconds for p in others], [p.figure for p in others], s=14, color=MUTED)
    axis.plot(
        [p.milliseconds for p in front], [p.figure for p in front], color=COLOURS[0], marker="o", markersize=5
    )
    for point in front:
        place = (point.milliseconds, point.figure)
        axis.annotate(
            point.name, place, (-6, 5), textcoords="offset points", fontsize=7, color=INK, ha="right"
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(0.2, 0.15)  # room for the labels left of the points
    axis.set_xlabel("milliseconds a query (logarithmic)", fontsize=8)
    axis.set_ylabel("NDCG@10", fontsize=8)
    return _svg(figure)


def _figure(count: int, height: float, width: float | None = None) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            f"a report's charts need matplotlib ({error}). Install it: pip install 'runoff[eval]'"
        ) from error
    columns = min(count, PANELS)
    rows = -(-count // columns)
    figure = Figure(figsize=(width or 4.4 * columns, height * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for number, axis in enumerate(axes):
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.set_visible(number < count)
    return figure, axes


def _short(name: str) -> str:
    """A model's name without whose it is, and at most 28 letters."""
    last = "+".join(part.removesuffix("/model").rsplit("/", 1)[-1] for part in name.split("+"))
    return last if len(last) <= 28 else last[:25] + "..."


def _svg(figure: Any) -> str:
    """The chart's <svg> element. Text stays text, so that it can be searched and read aloud."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "runoff"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
