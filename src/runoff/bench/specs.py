"""The engines that race, as data: names, what each needs, how it is set. Read here and in their processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runoff.contracts import InputError

Runner = Literal["runoff", "sentence-transformers", "onnxruntime", "openvino"]
Unit = Literal["tokens", "pairs"]


class UnavailableError(Exception):
    """An engine cannot run here, or failed; the message says why."""


class OutOfMemoryError(UnavailableError):
    """An engine wanted more memory than there is, or was killed for it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every engine of one race is used. `memory_mib`: the address space that a process may take."""

    threads: int = 2
    max_length: int = 512
    device: str = "cpu"
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """One engine: its name in tables, what runs it and how, the distributions and exports it needs, and where it runs.

    `flags`: one of these instruction sets, or it is left out on a CPU unless named. `unit`: what its batches are
    counted in. `least` is the smallest size tried.
    """

    label: str
    runner: Runner
    precision: str
    attention: str
    packages: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    exports: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    unit: Unit = "tokens"

    @property
    def is_ours(self) -> bool:
        return self.runner == "runoff"


_OURS = ("numpy", "tokenizers", "safetensors", "huggingface-hub")
_OURS_TORCH = (*_OURS, "torch")
_ST = ("sentence-transformers", "torch")
_ST_ONNX = (*_ST, "optimum-onnx", "onnxruntime")
_ST_OPENVINO = (*_ST, "optimum-intel", "openvino")
_ORT, _OV = ("onnxruntime", "tokenizers"), ("openvino", "tokenizers")
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "avx10")
_BOTH = ("cpu", "cuda")

ATTENTIONS = ("varlen", "triton", "flash_attention_2", "sdpa")
"""Of Runoff's torch engine, by their names in `model_kwargs`; "auto" is the fastest of them that fits."""
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")


def _native(precision: str, devices: tuple[str, ...] = ("cpu",)) -> Spec:
    """What `CrossEncoder` takes for the precision: the native engine on a CPU, torch's on a GPU."""
    return Spec(
        f"Runoff {precision}", "runoff", precision, "packed", _OURS, {"precision": precision}, devices=devices
    )


def _torch(precision: str, attention: str) -> Spec:
    shown = "" if attention == "auto" else f", {attention}"
    devices = _BOTH if attention in ("auto", "sdpa") and precision in ("fp32", "bf16") else ("cuda",)
    options = {"precision": precision, "engine": "torch", "attention": attention}
    return Spec(
        f"Runoff torch {precision}{shown}",
        "runoff",
        precision,
        attention,
        _OURS_TORCH,
        options,
        devices=devices,
    )


def _st(label: str, precision: str, attention: str = "sdpa", **more: Any) -> Spec:
    """sentence-transformers: batches of so many pairs, padded to the longest."""
    settings: dict[str, Any] = {"packages": _ST, "unit": "pairs", **more}
    return Spec(label, "sentence-transformers", precision, attention, **settings)


def _st_fa2(label: str, attention: str, unpads: bool) -> Spec:
    options = {"dtype": "bfloat16", "attention": "flash_attention_2", "unpads": unpads}
    return _st(label, "bf16", attention, options=options, devices=("cuda",))


def _runtime(
    label: str, runner: Runner, precision: str, file: str, exports: Sequence[str], **more: Any
) -> Spec:
    packages = _ORT if runner == "onnxruntime" else _OV
    flags = more.pop("flags", ())
    options = {"file": file, **more}
    return Spec(label, runner, precision, "eager", packages, options, tuple(exports), flags)


ENGINES: Mapping[str, Spec] = {
    "runoff-int8": _native("int8"),
    "runoff-bf16": _native("bf16", _BOTH),
    "runoff-fp32": _native("fp32", _BOTH),
    "runoff-auto": _native("auto", _BOTH),
    "runoff-fp16": _native("fp16", ("cuda",)),
    "runoff-fp8": _native("fp8", ("cuda",)),
    "runoff-reference": Spec(
        "Runoff's numpy reference",
        "runoff",
        "fp32",
        "packed",
        _OURS,
        {"precision": "fp32", "engine": "reference"},
    ),
    **{f"runoff-torch-{precision}": _torch(precision, "auto") for precision in PRECISIONS},
    **{
        f"runoff-torch-{precision}-{attention}": _torch(precision, attention)
        for precision in PRECISIONS
        for attention in ATTENTIONS
    },
    "st-fp32": _st("sentence-transformers fp32", "fp32", devices=_BOTH),
    "st-bf16": _st(
        "sentence-transformers bf16", "bf16", options={"dtype": "bfloat16"}, flags=_BF16, devices=_BOTH
    ),
    "st-bf16-fa2-padded": _st_fa2("sentence-transformers bf16, FA2 padded", "FA2 padded", unpads=False),
    "st-bf16-fa2": _st_fa2("sentence-transformers bf16, FA2 unpadded", "FA2 unpadded", unpads=True),
    "st-onnx": _st(
        "sentence-transformers, ONNX",
        "fp32",
        "exported",
        packages=_ST_ONNX,
        options={"backend": "onnx"},
        exports=("st-onnx",),
    ),
    "st-onnx-int8": _st(
        "sentence-transformers, ONNX int8",
        "int8",
        "exported",
        packages=_ST_ONNX,
        options={"backend": "onnx", "file": "model_*int8_*.onnx"},
        exports=("st-onnx",),
    ),
    "st-openvino": _st(
        "sentence-transformers, OpenVINO",
        "fp32",
        "exported",
        packages=_ST_OPENVINO,
        options={"backend": "openvino"},
        exports=("backbone", "st-openvino"),
    ),
    "st-openvino-int8": _st(
        "sentence-transformers, OpenVINO int8",
        "int8",
        "exported",
        packages=_ST_OPENVINO,
        options={"backend": "openvino", "file": "int8"},
        exports=("backbone", "st-openvino", "st-openvino-int8"),
    ),
    "ort-fp32": _runtime("ONNX Runtime fp32", "onnxruntime", "fp32", "model.onnx", ("onnx",)),
    "ort-int8": _runtime(
        "ONNX Runtime int8", "onnxruntime", "int8", "model-int8.onnx", ("onnx", "onnx-int8")
    ),
    "flashrank-way": _runtime(
        "ONNX Runtime int8, 100 pairs a batch",
        "onnxruntime",
        "int8",
        "model-int8.onnx",
        ("onnx", "onnx-int8"),
        group=100,
    ),
    "openvino-fp32": _runtime("OpenVINO fp32", "openvino", "fp32", "model.onnx", ("onnx",)),
    "openvino-bf16": _runtime(
        "OpenVINO bf16", "openvino", "bf16", "model.onnx", ("onnx",), hint="bf16", flags=_BF16
    ),
    "openvino-int8": _runtime(
        "OpenVINO int8", "openvino", "int8", "model-int8.xml", ("onnx", "openvino-int8")
    ),
}
BASELINE = "st-fp32"
REFERENCE = "runoff-reference"

_LEFT_OUT = ("runoff-auto", "runoff-torch-fp16", "runoff-torch-int8", "runoff-torch-fp8")
"""Not raced unless named: "auto" is one of the others."""

DEFAULT_ENGINES: Mapping[str, tuple[str, ...]] = {
    "cpu": tuple(
        name
        for name, spec in ENGINES.items()
        if "cpu" in spec.devices and name not in _LEFT_OUT and spec.attention not in ATTENTIONS[:3]
        and not name.endswith("-sdpa")
    ),
    "cuda": (
        "runoff-bf16", "runoff-fp16", "runoff-fp32", "st-fp32", "st-bf16", "st-bf16-fa2-padded", "st-bf16-fa2",
    ),
}  # fmt: skip
QUICK_ENGINES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("runoff-int8", "runoff-bf16", "runoff-fp32", "st-fp32", "ort-int8"),
    "cuda": ("runoff-bf16", "st-fp32", "st-bf16"),
}
LATENCY_ENGINES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("runoff-int8", "runoff-bf16", "runoff-fp32", "runoff-auto", "st-fp32", "ort-int8"),
    "cuda": ("runoff-bf16", "runoff-fp32", "st-fp32", "st-bf16", "st-bf16-fa2"),
}
GROWTH_ENGINES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("runoff-int8", "runoff-bf16", "runoff-fp32", "st-fp32"),
    "cuda": ("runoff-bf16", "st-fp32", "st-bf16", "st-bf16-fa2"),
}
ABLATION_ENGINES: Mapping[str, tuple[str, ...]] = {
    device: (
        "st-fp32",
        "st-bf16",
        "st-bf16-fa2-padded",
        "st-bf16-fa2",
        *(f"runoff-{precision}" for precision in ("fp32", "bf16", "int8") if device == "cpu"),
        *(f"runoff-torch-{precision}-{attention}" for precision in PRECISIONS for attention in ATTENTIONS),
    )
    for device in ("cpu", "cuda")
}


def kind_of_device(device: str) -> str:
    """ "cpu" or "cuda" of "cuda:1"; `InputError` for any other."""
    kind = device.partition(":")[0]
    if kind not in DEFAULT_ENGINES:
        raise InputError(f"expected cpu, cuda or cuda:N as the device of a race, got {device!r}")
    return kind


def is_ours(engine: str) -> bool:
    return engine.startswith("runoff")


def environment(engine: str, settings: Settings, isa: str | None) -> dict[str, str]:
    """Variables that must be set before the engine's process starts."""
    variables = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
    variables.pop("RUNOFF_PRECISION", None)  # each engine's name says its precision
    variables["RAYON_NUM_THREADS"] = str(settings.threads)
    if is_ours(engine):
        variables["OPENBLAS_NUM_THREADS"] = str(settings.threads)
        if isa:
            variables["RUNOFF_ISA"] = isa
    if not is_ours(engine) or "torch" in engine:
        variables["OMP_NUM_THREADS"] = str(settings.threads)
    return variables
