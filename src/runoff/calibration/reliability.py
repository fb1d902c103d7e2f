"""How far probabilities are from what comes true: bins, errors, thresholds, and the diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from runoff.calibration.curve import finite, flags_of

BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017."""

FEWEST = 20
"""Fewest relevant pairs, and fewest that are not, that a curve is fitted to; fewest that a precision is told of."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """How many pairs lie in a bin, their mean probability, and the share of them that is relevant."""

    pairs: int
    probability: float
    relevant: float


def reliability_bins(
    probabilities: npt.ArrayLike,
    relevant: npt.ArrayLike,
    bins: int = BINS,
    equal: Literal["mass", "width"] = "mass",
) -> list[ReliabilityBin]:
    """At most `bins` bins that are not empty, from the least probable to the most.

    Of equal mass (Nixon et al. 2019), about as many pairs in each, where equal probabilities stay together; or of
    equal width (Guo et al. 2017), where nearly all candidates of a query lie in the first, since few are relevant.
    """
    values, flags = finite(probabilities), flags_of(relevant)
    if equal == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    else:
        firsts = [len(values) * part // bins for part in range(1, bins)] if len(values) else []
        edges = np.unique(np.sort(values)[np.array(firsts, np.int64)])
    places = np.searchsorted(edges, values, side="right")
    groups = (places == place for place in range(len(edges) + 1))
    return [
        ReliabilityBin(int(group.sum()), float(values[group].mean()), float(flags[group].mean()))
        for group in groups
        if group.any()
    ]


def expected_calibration_error(
    probabilities: npt.ArrayLike, relevant: npt.ArrayLike, bins: int = BINS
) -> float:
    """The mean over the pairs of |share relevant - mean probability| of their bin (Guo et al. 2017), the bins of equal
    mass."""
    found = reliability_bins(probabilities, relevant, bins)
    total = sum(each.pairs for each in found)
    return sum(each.pairs * abs(each.relevant - each.probability) for each in found) / max(total, 1)


def brier_score(probabilities: npt.ArrayLike, relevant: npt.ArrayLike) -> float:
    """The mean squared difference of probability and relevance."""
    return float(np.mean((finite(probabilities) - flags_of(relevant)) ** 2))


class Threshold(NamedTuple):
    """What is kept at a threshold: the share of it that is relevant, how many pairs, and the share of all relevant."""

    threshold: float
    precision: float
    pairs: int
    recall: float


def threshold_for(
    probabilities: npt.ArrayLike, relevant: npt.ArrayLike, precision: float
) -> Threshold | None:
    """The lowest threshold whose kept pairs are relevant to at least this share; None where no 20 pairs are."""
    values, flags = finite(probabilities), flags_of(relevant)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(flags[order])
    kept = np.arange(1, len(values) + 1)
    is_last = np.append(values[1:] != values[:-1], True)
    rows = np.flatnonzero(is_last & (hits >= precision * kept) & (kept >= FEWEST))
    if not len(rows):
        return None
    row = int(rows[-1])
    return Threshold(float(values[row]), float(hits[row] / kept[row]), row + 1, float(hits[row] / hits[-1]))


# --- the diagram -----------------------------------------------------------------------------------------


def draw(series: Mapping[str, npt.ArrayLike], relevant: npt.ArrayLike, path: Path, kind: str) -> None:
    """Draws the reliability diagram of each of `series` (name -> probabilities [N]) as a picture file.

    Above, the share of relevant pairs over the mean probability of each bin, of equal mass (line) and of equal width
    (squares); below, how many pairs the latter hold. `kind` is svg, png or pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(series), 5.2), layout="constrained")
    panels = figure.subplots(2, len(series), squeeze=False, height_ratios=(3, 1), sharex=True, sharey="row")
    for (name, values), (upper, lower), colour in zip(
        series.items(), panels.T, ("#64748b", "#c2410c") * len(series), strict=False
    ):
        error, brier = expected_calibration_error(values, relevant), brier_score(values, relevant)
        upper.set_title(f"{name}\nECE {error:.3f}, Brier {brier:.3f}", fontsize=10)
        upper.plot((0, 1), (0, 1), color="#cbd5e1", linewidth=1.0, zorder=0)
        looks: tuple[tuple[Literal["mass", "width"], str, str], ...] = (
            ("mass", "o", "-"),
            ("width", "s", ""),
        )
        for equal, marker, line in looks:
            found = reliability_bins(values, relevant, equal=equal)
            at = [each.probability for each in found], [each.relevant for each in found]
            label = f"{len(found)} bins of {_range([each.pairs for each in found])} pairs"
            fill = colour if equal == "mass" else "none"
            upper.plot(*at, color=colour, marker=marker, mfc=fill, markersize=5, ls=line, lw=1.2, label=label)
        upper.legend(frameon=False, fontsize=8, loc="upper left")
        lower.hist(finite(values), np.linspace(0.0, 1.0, BINS + 1), color=colour, edgecolor="white")
        lower.set(yscale="log", xlabel="probability")
        for axis in (upper, lower):
            axis.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share relevant")
    panels[1, 0].set(ylabel="pairs", ylim=(0.7, None))
    figure.savefig(path, format=kind)


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
