"""What turns raw scores into shown ones: by name, by sentence-transformers' torch modules, or by any function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from runoff.checkpoint.config import ACTIVATIONS as NAMES
from runoff.contracts import FloatArray, InputError
from runoff.engine.reference import ACTIVATIONS

_KEEPING_ORDER = ("identity", "sigmoid", "tanh")


class Activation:
    """A function of scores [N, L]; `keeps_order` where a higher raw score never becomes a lower shown one."""

    def __init__(self, name: str, function: Callable[[FloatArray], Any], keeps_order: bool) -> None:
        self.name = name
        self.keeps_order = keeps_order
        self._function = function

    @classmethod
    def of(cls, value: Any) -> Self:
        """From an `Activation`, a name ("sigmoid", "torch.nn.modules.linear.Identity"), or a callable.

        A callable gets a torch tensor where torch is loaded, as in sentence-transformers, else an array.
        """
        if isinstance(value, cls):
            return value
        name = value if isinstance(value, str) else f"{type(value).__module__}.{type(value).__qualname__}"
        if name in ("torch.nn.modules.activation.GELU",):  # its exact and tanh forms share a class
            pass
        elif name in NAMES:
            return cls(NAMES[name], ACTIVATIONS[NAMES[name]], NAMES[name] in _KEEPING_ORDER)
        if isinstance(value, str) or not callable(value):
            raise InputError(
                f"activation_fn must be a callable or one of {sorted(ACTIVATIONS)}, got {value!r}"
            )
        return cls(name, value, keeps_order=False)

    def __call__(self, scores: FloatArray) -> FloatArray:
        if "torch" in sys.modules and self._function not in ACTIVATIONS.values():
            from runoff.engine.delegated import apply_to_tensor

            return apply_to_tensor(self._function, scores)
        return np.asarray(self._function(scores), dtype=np.float32)

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


def softmax(scores: FloatArray) -> FloatArray:
    """Scores [N, L] as shares of 1 among the L labels of each pair."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return result
