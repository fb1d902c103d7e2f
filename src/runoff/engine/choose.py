"""Device and precision -> engine, with the reason: the one place where that is decided."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

from runoff.contracts import InputError, MissingExtraError, Precision, UnsupportedModelError

EngineName = Literal["reference", "sentence-transformers"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine runs a model, where, in which precision, and why."""

    engine: EngineName
    device: str
    precision: str
    reason: str


def choose_engine(
    device: str | None = None,
    precision: Precision = "auto",
    backend: str = "torch",
    obstacle: UnsupportedModelError | None = None,
) -> Choice:
    """The engine for a model; `obstacle` is why Runoff's own engines cannot run it, if they cannot.

    Raises `InputError` for a precision no engine has there, `MissingExtraError` where the engine needed
    is not installed (its message carries the obstacle).
    """
    if precision not in ("auto", "fp32", "bf16", "int8"):
        raise InputError(f"precision must be 'auto', 'fp32', 'bf16' or 'int8', got {precision!r}")
    device = device or default_device()
    device = "cpu" if device.startswith("cpu:") else device
    if obstacle is not None:
        return _delegate(device, precision, f"Runoff's engines cannot run it: {obstacle}")
    if backend not in ("torch", "onnx", "openvino"):
        raise InputError(f"backend must be 'torch', 'onnx' or 'openvino', got {backend!r}")
    if backend != "torch":
        return _delegate(device, precision, f"backend={backend!r} was asked for")
    if device != "cpu":
        return _delegate(device, precision, f"it shall run on {device}")
    if precision in ("bf16", "int8"):
        raise InputError(
            f"precision={precision!r} needs a native CPU engine, which this version does not have yet; on a CPU "
            "choose 'fp32' or 'auto'"
        )
    return Choice("reference", "cpu", "fp32", "packed numpy forward: the CPU engine of this version")


def default_device() -> str:
    """ "cuda" where an NVIDIA driver is loaded and what would use it is installed, else "cpu".

    Imports nothing heavy, so it looks for the packages without loading them.
    """
    has_driver = os.path.exists("/dev/nvidiactl")
    if not (has_driver and is_installed("torch") and is_installed("sentence_transformers")):
        return "cpu"
    # PyTorch's CPU builds say so in their version; they would refuse the device.
    return "cpu" if importlib.metadata.version("torch").endswith("+cpu") else "cuda"


def is_installed(package: str) -> bool:
    """Whether `package` could be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def _delegate(device: str, precision: str, reason: str) -> Choice:
    if not is_installed("sentence_transformers"):
        raise MissingExtraError(
            f"this model goes to sentence-transformers, which is not installed ({reason}). "
            "Install the torch extra: pip install 'runoff[torch]'"
        )
    if precision == "int8":
        raise InputError(
            "precision='int8' is not available through sentence-transformers; choose 'bf16' or 'fp32'"
        )
    return Choice("sentence-transformers", device, "fp32" if precision == "auto" else precision, reason)
