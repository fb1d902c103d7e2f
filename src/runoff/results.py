"""What `predict` and `rank` answer: an ordinary array or list that also says what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from runoff.contracts import CutReport


class _WithCut:
    """What makes an array one that also says, in `cut`, how many pairs were cut to fit."""

    cut: CutReport

    @classmethod
    def of(cls, values: npt.NDArray[Any], cut: CutReport) -> Self:
        found: Self = np.asarray(values).view(cls)  # type: ignore[assignment]
        found.cut = cut
        return found

    def __array_finalize__(self, source: Any) -> None:
        self.cut = getattr(source, "cut", CutReport())


class Scores(_WithCut, npt.NDArray[np.float32] if TYPE_CHECKING else np.ndarray):  # type: ignore[misc]
    """An ordinary array of scores that also says, in `cut`, how many pairs were cut to fit."""


class Probabilities(_WithCut, npt.NDArray[np.float64] if TYPE_CHECKING else np.ndarray):  # type: ignore[misc]
    """An ordinary fp64 array of probabilities that also says, in `cut`, how many pairs were cut to fit."""


class Ranking(list[dict[str, Any]]):
    """An ordinary list of results that also says, in `cut`, how many pairs were cut to fit."""

    def __init__(self, results: Iterable[dict[str, Any]] = (), cut: CutReport | None = None) -> None:
        super().__init__(results)
        self.cut = cut or CutReport()

    @classmethod
    def of(
        cls,
        rows: Iterable[Any],
        cut: CutReport,
        scores: npt.NDArray[Any],
        probabilities: npt.NDArray[np.float64] | None = None,
        documents: Sequence[str] | None = None,
    ) -> Self:
        """The documents `rows`, in that order, with their part of `scores` [N] and of whatever else is given."""
        results: list[dict[str, Any]] = [{"corpus_id": int(row), "score": float(scores[row])} for row in rows]
        for result in results:
            row = result["corpus_id"]
            if probabilities is not None:
                result["probability"] = float(probabilities[row])
            if documents is not None:
                result["text"] = documents[row]
        return cls(results, cut)
