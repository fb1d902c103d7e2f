"""Device, precision and model lead to one engine, with the reason; what is missing is named."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from runoff.contracts import InputError, MissingExtraError, UnsupportedModelError
from runoff.engine import choose, native
from runoff.engine.choose import NOT_BUILT, Demand, choose_engine, default_device, is_installed

OBSTACLE = UnsupportedModelError("config.json has model_type 'deberta-v2'")


def install(
    monkeypatch: pytest.MonkeyPatch, *packages: str, has_driver: bool = False, torch_version: str = "2.13.0"
) -> None:
    """Makes `packages`, and no other, importable as far as anyone asks; and an NVIDIA driver loaded or not."""
    monkeypatch.setattr(choose.importlib.metadata, "version", lambda name: {"torch": torch_version}[name])

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in packages else None

    def exists(path: str | os.PathLike[str]) -> bool:
        return has_driver if os.fspath(path) == "/dev/nvidiactl" else path_exists(path)

    path_exists = os.path.exists
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(os.path, "exists", exists)


BOTH = ("torch", "sentence_transformers")


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("packages", [(), BOTH])
def test_a_cpu_runs_our_own_engine_whatever_is_installed(
    precision: Any, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages)
    for device in (None, "cpu"):
        choice = choose_engine(Demand(device, precision))
        assert (choice.engine, choice.device, choice.precision) == ("native", "cpu", "fp32")
        assert choice.instruction_set in choice.reason


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        (
            {"engine": "sentence-transformers"},
            ("cpu", "fp32", "engine='sentence-transformers' was asked for"),
        ),
        (
            {"engine": "sentence-transformers", "device": "cuda:1", "precision": "fp16"},
            ("cuda:1", "fp16", "was asked for"),
        ),
        ({"backend": "onnx"}, ("cpu", "fp32", "backend='onnx' was asked for")),
        ({"backend": "openvino"}, ("cpu", "fp32", "backend='openvino' was asked for")),
        ({"obstacle": OBSTACLE}, ("cpu", "fp32", f"Runoff's engines cannot run it: {OBSTACLE}")),
        ({"obstacle": OBSTACLE, "precision": "bf16"}, ("cpu", "bf16", f"{OBSTACLE}")),
    ],
)
def test_what_our_engine_does_not_run_is_delegated_with_the_reason(
    arguments: dict[str, Any], choice: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *BOTH)
    found = choose_engine(Demand(**arguments))
    device, precision, reason = choice
    assert (found.engine, found.device, found.precision) == ("sentence-transformers", device, precision)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"obstacle": OBSTACLE}, "deberta-v2"),
        ({"backend": "onnx"}, "backend='onnx'"),
    ],
)
@pytest.mark.parametrize("packages", [(), ("torch",)])
def test_without_the_extra_the_error_names_it_and_the_reason(
    arguments: dict[str, Any], reason: str, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages)
    with pytest.raises(MissingExtraError, match=r"pip install 'runoff\[torch\]'") as raised:
        choose_engine(Demand(**arguments))
    assert reason in str(raised.value)
    assert isinstance(raised.value, ImportError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"precision": "fp4"},
            "precision must be 'auto', 'fp32', 'bf16', 'int8', 'fp16' or 'fp8', got 'fp4'",
        ),
        ({"precision": "fp4", "obstacle": OBSTACLE}, "got 'fp4'"),
        ({"precision": "fp16"}, "precision='fp16' is for GPUs"),
        ({"precision": "fp8"}, "precision='fp8' is for GPUs"),
        ({"precision": "fp16", "engine": "reference"}, "precision='fp16' is not available"),
        ({"precision": "fp8", "obstacle": OBSTACLE}, "not available through sentence-transformers"),
        (
            {"engine": "fast"},
            "engine must be 'native', 'torch', 'reference' or 'sentence-transformers', got 'fast'",
        ),
        ({"engine": "native", "device": "cuda"}, "runs on a CPU alone"),
        ({"engine": "torch", "stored": "int8"}, "written by runoff quantize for int8"),
        ({"backend": "jax"}, "backend must be 'torch', 'onnx' or 'openvino', got 'jax'"),
        ({"precision": "bf16", "is_static": True}, "a static table is summed in fp32"),
        ({"precision": "int8", "is_static": True}, "a static table is summed in fp32"),
        ({"precision": "fp32", "stored": "int8"}, "written by runoff quantize for int8"),
        ({"device": "cuda", "stored": "int8"}, "written by runoff quantize for int8"),
        ({"precision": "int8", "obstacle": OBSTACLE}, "not available through sentence-transformers"),
        ({"precision": "int8", "device": "cuda"}, "precision='int8' is for the CPU engine"),
    ],
)
def test_what_no_engine_offers_is_refused(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *BOTH)
    with pytest.raises(InputError, match=message):
        choose_engine(Demand(**arguments))


@pytest.mark.parametrize(
    ("packages", "has_driver", "device"),
    [
        (BOTH, True, "cuda"),
        (BOTH, False, "cpu"),
        (("torch",), True, "cuda"),
        (("sentence_transformers",), True, "cpu"),
        ((), True, "cpu"),
    ],
)
def test_a_gpu_is_the_default_only_where_something_can_use_it(
    packages: tuple[str, ...], has_driver: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages, has_driver=has_driver)
    assert default_device() == device
    choice = choose_engine(Demand())
    assert (choice.engine == "torch") == (device == "cuda")
    assert choice == choose_engine(Demand(device))


@pytest.mark.parametrize(
    ("arguments", "device", "precision", "is_on_trial"),
    [
        ({"device": "cuda"}, "cuda", "fp16", True),
        ({"device": "cuda:0,cuda:1"}, "cuda:0,cuda:1", "fp16", True),
        ({"device": "cuda:1", "precision": "bf16"}, "cuda:1", "bf16", False),
        ({"device": "cuda", "precision": "fp8"}, "cuda", "fp8", False),
        ({"device": "mps"}, "mps", "fp32", False),
        ({"engine": "torch"}, "cpu", "fp32", False),
        ({"engine": "torch", "precision": "fp16"}, "cpu", "fp16", False),
    ],
)
def test_a_gpu_runs_the_packed_forward_in_pytorch(
    arguments: dict[str, Any],
    device: str,
    precision: str,
    is_on_trial: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "torch")
    choice = choose_engine(Demand(**arguments))
    assert (choice.engine, choice.device) == ("torch", device)
    assert (choice.precision, choice.is_on_trial) == (precision, is_on_trial)


def test_without_pytorch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"it shall run on cuda\): pip install 'runoff\[torch\]'"):
        choose_engine(Demand("cuda"))


def test_an_engine_may_be_set_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_ENGINE", "reference")
    assert choose_engine(Demand("cpu")).engine == "reference"
    assert choose_engine(Demand("cpu", engine="native")).engine == "native"


def test_an_engine_that_cannot_run_the_model_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedModelError, match="deberta-v2"):
        choose_engine(Demand("cpu", engine="native", obstacle=OBSTACLE))


def test_a_static_table_stays_on_the_cpu_whatever_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *BOTH)
    choice = choose_engine(Demand("cuda", is_static=True))
    assert (choice.engine, choice.device) == ("reference", "cpu")


def test_a_quantized_checkpoint_stays_on_the_cpu_where_a_gpu_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, *BOTH, has_driver=True)
    choice = choose_engine(Demand(stored="int8"))
    assert (choice.engine, choice.device) == ("native", "cpu")


def test_a_cpu_build_of_torch_is_not_sent_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *BOTH, has_driver=True, torch_version="2.13.0+cpu")
    assert default_device() == "cpu"


@pytest.mark.parametrize(("visible", "device"), [("", "cpu"), ("-1", "cpu"), ("0", "cuda"), ("1,2", "cuda")])
def test_hidden_cards_are_not_chosen(visible: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *BOTH, has_driver=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert default_device() == device


def test_the_number_of_the_cpu_changes_nothing() -> None:
    assert choose_engine(Demand("cpu:0")) == choose_engine(Demand("cpu"))


def kernels_with(monkeypatch: pytest.MonkeyPatch, *, has_fast_i16: bool, has_fast_i8: bool) -> None:
    """A processor whose kernels can do this much."""
    can = {"name": "some", "has_fast_i16": has_fast_i16, "has_fast_i8": has_fast_i8}
    monkeypatch.setattr(choose, "kernels", lambda isa: can)
    monkeypatch.setattr(native, "kernels", lambda isa: can)
    monkeypatch.delenv("RUNOFF_PRECISION", raising=False)


@pytest.mark.parametrize(
    ("has_fast_i16", "has_fast_i8", "precision", "is_on_trial"),
    [(True, True, "int8", True), (True, False, "bf16", False), (False, False, "fp32", False)],
)
def test_auto_is_the_fastest_precision_and_int8_is_on_trial(
    has_fast_i16: bool,
    has_fast_i8: bool,
    precision: str,
    is_on_trial: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels_with(monkeypatch, has_fast_i16=has_fast_i16, has_fast_i8=has_fast_i8)
    choice = choose_engine(Demand("cpu"))
    assert (choice.precision, choice.is_on_trial) == (precision, is_on_trial)
    assert precision in choice.reason


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_precision_that_is_asked_for_is_not_on_trial(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_with(monkeypatch, has_fast_i16=True, has_fast_i8=True)
    choice = choose_engine(Demand("cpu", precision))
    assert (choice.precision, choice.is_on_trial) == (precision, False)
    monkeypatch.setenv("RUNOFF_PRECISION", precision)
    by_setting = choose_engine(Demand("cpu"))
    assert (by_setting.precision, by_setting.is_on_trial) == (precision, False)
    assert "RUNOFF_PRECISION" in by_setting.reason


def test_a_precision_asked_for_counts_more_than_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_PRECISION", "bf16")
    assert choose_engine(Demand("cpu", "int8")).precision == "int8"


def test_a_setting_that_is_no_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNOFF_PRECISION", "fast")
    with pytest.raises(InputError, match="RUNOFF_PRECISION must be auto, fp32, bf16 or int8, got 'fast'"):
        choose_engine(Demand("cpu"))


def test_an_instruction_set_may_be_forced_and_an_unknown_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNOFF_ISA", "portable")
    choice = choose_engine(Demand("cpu"))
    assert choice.instruction_set == "portable"
    assert "RUNOFF_ISA" in choice.reason
    monkeypatch.setenv("RUNOFF_ISA", "mmx")
    with pytest.raises(InputError, match=r"RUNOFF_ISA='mmx': this processor has .*portable"):
        choose_engine(Demand("cpu"))


@pytest.mark.parametrize("is_built", [True, False])
def test_without_the_native_engine_numpy_runs_and_says_why(
    is_built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_built:
        monkeypatch.setenv("RUNOFF_ISA", "numpy")
    else:
        monkeypatch.setattr(choose, "native_module", lambda: None)
    why = "RUNOFF_ISA=numpy" if is_built else NOT_BUILT
    choice = choose_engine(Demand("cpu"))
    assert (choice.engine, choice.precision) == ("reference", "fp32")
    assert why in choice.reason
    with pytest.raises(InputError, match="precision='int8' is not available"):
        choose_engine(Demand("cpu", "int8"))
    with pytest.raises(UnsupportedModelError, match="needs the native engine"):
        choose_engine(Demand("cpu", stored="int8"))


def test_a_static_table_is_summed_in_numpy() -> None:
    assert choose_engine(Demand("cpu", is_static=True)).engine == "reference"


def test_a_quantized_checkpoint_runs_in_its_own_precision() -> None:
    for precision in ("auto", "int8"):
        choice = choose_engine(Demand("cpu", precision, stored="int8"))
        assert (choice.engine, choice.precision, choice.is_on_trial) == ("native", "int8", False)


def test_a_package_is_looked_for_without_importing_it() -> None:
    assert is_installed("this_package_does_not_exist") is False
    assert is_installed("numpy") is True
    assert choose.is_installed("xml.dom") is True
