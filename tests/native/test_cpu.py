"""The native engine finds the instruction sets that the operating system says this processor has."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

native = pytest.importorskip("runoff._native", reason="the native engine was not built")

CPUINFO = Path("/proc/cpuinfo")
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
# Best first, by the flags that Linux gives them.
NEEDS: dict[str, dict[str, set[str]]] = {
    "x86_64": {
        "avx512vnni": AVX512 | {"avx512_vnni"},
        "avx512": AVX512,
        "avxvnni": AVX2 | {"avx_vnni"},
        "avx2": AVX2,
    },
    "aarch64": {"neondot": {"asimddp"}, "neon": set()},
}


@pytest.mark.skipif(not CPUINFO.exists(), reason="needs Linux's /proc/cpuinfo")
@pytest.mark.skipif("RUNOFF_EMULATED" in os.environ, reason="this build has every instruction set, emulated")
def test_available_instruction_sets_are_those_of_the_processor() -> None:
    lines = CPUINFO.read_text("utf-8").splitlines()
    named = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    flags = set(named.split(":")[1].split())
    expected = [isa for isa, needs in NEEDS.get(platform.machine(), {}).items() if needs <= flags]
    assert native.available_isas() == [*expected, "portable"]
