"""Device and precision -> engine, with the reason: the one place where that is decided."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from runoff.contracts import InputError, MissingExtraError, Precision, UnsupportedModelError
from runoff.engine.native import kernels, kind_of, native_module
from runoff.engine.threads import thread_count

EngineName = Literal["native", "torch", "reference", "sentence-transformers"]

NOT_BUILT = (
    "the native engine was not built (no C++17 compiler at installation): install one, such as the package g++, "
    "and reinstall runoff"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine runs a model, where, in which precision, and why.

    Of the native engine also its instruction set and threads. With `is_on_trial` the precision stays only if it
    passes when the model is loaded: int8 its self-check, fp16 on a GPU a run without overflow; bf16 takes the place
    of either.
    """

    engine: EngineName
    device: str
    precision: str
    reason: str
    instruction_set: str | None = None
    threads: int | None = None
    is_on_trial: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What a user asked for, and what the model allows.

    `obstacle` is why Runoff's own engines cannot run it, if they cannot. `is_static`: a table of vectors, which
    has no products to speed up. `stored` is the precision of a checkpoint that `runoff quantize` wrote.
    """

    device: str | None = None
    precision: Precision = "auto"
    backend: str = "torch"
    threads: int | None = None
    engine: str | None = None
    obstacle: UnsupportedModelError | None = None
    is_static: bool = False
    stored: str | None = None


def choose_engine(demand: Demand) -> Choice:
    """The engine for a model.

    Raises `InputError` for a precision no engine has there, `MissingExtraError` where the engine needed
    is not installed (its message carries the obstacle).
    """
    precision = demand.precision
    if precision not in get_args(Precision):
        raise InputError(f"precision must be {_either(get_args(Precision))}, got {precision!r}")
    engine = demand.engine or os.environ.get("RUNOFF_ENGINE") or None
    if engine is not None and engine not in get_args(EngineName):
        raise InputError(f"engine must be {_either(get_args(EngineName))}, got {engine!r}")
    device = _normal(demand.device or (default_device() if engine != "native" else "cpu"))
    if demand.obstacle is not None:
        if engine not in (None, "sentence-transformers"):
            raise UnsupportedModelError(f"engine={engine!r} cannot run this model: {demand.obstacle}")
        return _delegate(device, precision, f"Runoff's engines cannot run it: {demand.obstacle}")
    if demand.backend not in ("torch", "onnx", "openvino"):
        raise InputError(f"backend must be 'torch', 'onnx' or 'openvino', got {demand.backend!r}")
    if demand.stored is not None:
        return _prepacked(demand, engine)
    if demand.backend != "torch":
        return _delegate(device, precision, f"backend={demand.backend!r} was asked for")
    if engine == "sentence-transformers":
        return _delegate(device, precision, "engine='sentence-transformers' was asked for")
    if demand.is_static:
        _refuse_lower(precision, "a static table is summed in fp32")
        return Choice("reference", "cpu", "fp32", "a static table: its rows are summed in numpy")
    if engine == "torch" or (engine is None and device != "cpu"):
        return _torch(device, precision, "it was asked for" if engine else f"it shall run on {device}")
    return _on_cpu(device, demand, engine)


def _on_cpu(device: str, demand: Demand, engine: str | None) -> Choice:
    """The native engine, or numpy's where that was asked for or the native one is not there."""
    if device != "cpu":
        raise InputError(f"engine={engine!r} runs on a CPU alone; for device={device!r} choose 'torch'")
    isa = os.environ.get("RUNOFF_ISA", "")
    obstacle = "engine='reference' was asked for" if engine == "reference" else _native_obstacle(isa)
    if obstacle:
        if engine == "native":
            raise UnsupportedModelError(f"engine='native' cannot run here: {obstacle}")
        _refuse_lower(demand.precision, obstacle)
        return Choice("reference", "cpu", "fp32", f"packed numpy forward: {obstacle}")
    if demand.precision in ("fp16", "fp8"):
        raise InputError(
            f"precision={demand.precision!r} is for GPUs; on a CPU choose 'auto', 'fp32', 'bf16' or 'int8'"
        )
    return _native(demand.precision, isa, demand.threads)


def _either(names: Sequence[str]) -> str:
    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _normal(device: str) -> str:
    """One name for each device: "cpu:0" is the CPU."""
    return "cpu" if device.startswith("cpu:") else device


def _torch(device: str, precision: str, why: str) -> Choice:
    """The packed forward in PyTorch. What the card and the model allow is seen when it is loaded."""
    if not is_installed("torch"):
        raise MissingExtraError(
            f"the GPU engine needs PyTorch, which is not installed ({why}): pip install 'runoff[torch]'"
        )
    if precision == "int8":
        raise InputError(
            "precision='int8' is for the CPU engine; on a GPU choose 'auto', 'bf16', 'fp16', 'fp8' or 'fp32'"
        )
    reason = f"packed forward in PyTorch, since {why}"
    if precision != "auto":
        return Choice("torch", device, precision, f"{reason}; {precision} was asked for")
    if device.startswith("cuda"):
        return Choice(
            "torch",
            device,
            "fp16",
            f"{reason}; fp16, eight times finer than bf16 and as fast",
            is_on_trial=True,
        )
    return Choice("torch", device, "fp32", f"{reason}; fp32 is what is known to be right there")


def _native_obstacle(isa: str) -> str | None:
    """Why the native engine does not run here, if it does not."""
    if isa == "numpy":
        return "RUNOFF_ISA=numpy is set"
    return NOT_BUILT if native_module() is None else None


def _native(precision: str, isa: str, threads: int | None) -> Choice:
    has = kernels(isa)
    name, where = str(has["name"]), f"{has['name']} kernels" + (" (RUNOFF_ISA)" if isa else "")
    setting = os.environ.get("RUNOFF_PRECISION", "auto") if precision == "auto" else precision
    if setting not in ("auto", "fp32", "bf16", "int8"):
        raise InputError(f"RUNOFF_PRECISION must be auto, fp32, bf16 or int8, got {setting!r}")
    count = thread_count(threads)
    if setting != "auto":
        source = "was asked for" if precision != "auto" else "by RUNOFF_PRECISION"
        reason = f"{where}; {setting} {source}{_how(setting, name)}"
        return Choice("native", "cpu", setting, reason, name, count)
    if has["has_fast_i8"]:
        reason = f"{where}; int8 is the fastest here, if its self-check agrees with bf16, which else takes its place"
        return Choice("native", "cpu", "int8", reason, name, count, is_on_trial=True)
    if has["has_fast_i16"]:
        reason = f"{where}; bf16 is the fastest here{_how('bf16', name)}"
        return Choice("native", "cpu", "bf16", reason, name, count)
    return Choice("native", "cpu", "fp32", f"{where}; nothing is faster than fp32 here", name, count)


def _how(precision: str, isa: str) -> str:
    """What "bf16" means on this processor."""
    if precision != "bf16":
        return ""
    if kind_of("bf16", isa) == "i16":
        return ", in 16-bit fixed point, which is more exact"
    return ", in fp32, which is as fast here and more exact"


def _prepacked(demand: Demand, engine: str | None) -> Choice:
    """A checkpoint whose weights are packed already runs in its own precision, on the native engine alone."""
    stored, device = str(demand.stored), _normal(demand.device or "cpu")
    is_wanted = demand.precision in ("auto", stored) and device == "cpu" and demand.backend == "torch"
    if not is_wanted or engine not in (None, "native"):
        raise InputError(
            f"this checkpoint was written by runoff quantize for {stored} on a CPU; precision={demand.precision!r}, "
            f"device={device!r}, backend={demand.backend!r}, engine={engine!r} need the model that it was made from"
        )
    isa = os.environ.get("RUNOFF_ISA", "")
    if obstacle := _native_obstacle(isa):
        raise UnsupportedModelError(
            f"a checkpoint written by runoff quantize needs the native engine, but {obstacle}"
        )
    name = str(kernels(isa)["name"])
    reason = f"{name} kernels; {stored} as the checkpoint was quantized"
    return Choice("native", "cpu", stored, reason, name, thread_count(demand.threads))


def _refuse_lower(precision: str, why: str) -> None:
    if precision not in ("auto", "fp32"):
        raise InputError(f"precision={precision!r} is not available: {why}; choose 'fp32' or 'auto'")


def default_device() -> str:
    """ "cuda" where an NVIDIA driver is loaded, its cards are not hidden (CUDA_VISIBLE_DEVICES of nothing or -1) and
    a torch that can use them is installed, else "cpu".

    Imports nothing heavy, so it looks for the package without loading it.
    """
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if is_hidden or not (os.path.exists("/dev/nvidiactl") and is_installed("torch")):
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
    if precision in ("int8", "fp8"):
        raise InputError(
            f"precision={precision!r} is not available through sentence-transformers; choose 'bf16', 'fp16' or 'fp32'"
        )
    return Choice("sentence-transformers", device, "fp32" if precision == "auto" else precision, reason)
