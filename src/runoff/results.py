"""What `predict` and `rank` answer: an ordinary array or list that also says what was cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from runoff.contracts import CutReport


class Scores(npt.NDArray[np.float32] if TYPE_CHECKING else np.ndarray):  # type: ignore[misc]
    """An ordinary array of scores that also says, in `cut`, how many pairs were cut to fit."""

    cut: CutReport

    @classmethod
    def of(cls, values: npt.NDArray[Any], cut: CutReport) -> Self:
        scores: Self = np.asarray(values).view(cls)  # type: ignore[assignment]
        scores.cut = cut
        return scores

    def __array_finalize__(self, source: Any) -> None:
        self.cut = getattr(source, "cut", CutReport())


class Ranking(list[dict[str, Any]]):
    """An ordinary list of results that also says, in `cut`, how many pairs were cut to fit."""

    def __init__(self, results: Iterable[dict[str, Any]] = (), cut: CutReport | None = None) -> None:
        super().__init__(results)
        self.cut = cut or CutReport()
