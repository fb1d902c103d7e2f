"""Compiles the Triton kernels for sm_80, sm_89 and sm_90 without a card, and prints what came of each, as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from runoff.engine import triton_kernels, triton_products

HEADS = {"HEADS": 12, "SIZE": 64, "TURNS": True}
NORM = {"IS_FP8": False}
LOOKUPS = ("ids", "positions", "types")
KERNELS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "attend_tiles all": ("attend_tiles", {**HEADS, "WINDOW": -1, "BLOCK_M": 64, "BLOCK_N": 64}, {"num_stages": 2}),
    "attend_tiles window": ("attend_tiles", {**HEADS, "WINDOW": 64, "BLOCK_M": 64, "BLOCK_N": 64}, {"num_stages": 2}),
    "attend_tiles 32": (
        "attend_tiles",
        {**HEADS, "SIZE": 32, "TURNS": False, "WINDOW": -1, "BLOCK_M": 64, "BLOCK_N": 64},
        {"num_stages": 2},
    ),
    "attend_first": ("attend_first", {**HEADS, "WINDOW": -1, "BLOCK_N": 64}, {}),
    "norm_rows": (
        "norm_rows",
        {"SIZE": 768, "BLOCK": 1024, "ROWS": 2, "SOURCE": 1, "KEEPS": 1, "HAS_BIAS": False, **NORM},
        {},
    ),
    "norm_rows embeds": (
        "norm_rows",
        {"SIZE": 384, "BLOCK": 512, "ROWS": 4, "SOURCE": 3, "KEEPS": 2, "HAS_BIAS": True, **NORM},
        {},
    ),
    "activate_rows": (
        "activate_rows",
        {"SIZE": 1152, "BLOCK": 2048, "ROWS": 1, "ACTIVATION": 1, "IS_GATED": True, "IS_FP8": False},
        {},
    ),
    "activated_product": (
        "activated_product",
        {"K": 768, "SIZE": 1152, "ACTIVATION": 1, "IS_GATED": True, "HAS_BIAS": False,
         "BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP": 8},
        {"num_warps": 8, "num_stages": 3},
    ),
    "rotate_rows": ("rotate_rows", {"PARTS": 24, "HALF": 32, "BLOCK": 1024}, {}),
}  # fmt: skip
TYPES = {
    **dict.fromkeys(("hidden", "cosines", "sines", "weight", "bias", "scales"), "*fp32"),
    **dict.fromkeys(("offsets", "tiles", *LOOKUPS), "*i32"),
    **dict.fromkeys(("scale", "eps"), "fp32"),
    **dict.fromkeys(("count", "stride"), "i32"),
}
FP8_KERNELS = ("norm_rows", "activate_rows")


def compiled(name: str, capability: int, is_fp8: bool = False) -> dict[str, int]:
    function_name, constants, options = KERNELS[name]
    constants = {**constants, "IS_FP8": True} if is_fp8 else constants
    module = triton_products if function_name == "activated_product" else triton_kernels
    function = getattr(module, function_name)
    types = {arg: TYPES.get(arg, "*bf16") for arg in function.arg_names if arg not in constants}
    if is_fp8:
        types["out"] = "*fp8e4nv"
    if function_name == "activated_product":  # its weight and bias are a matrix's, not a norm's
        types |= dict.fromkeys(("weight", "bias"), "*bf16")
    place = function.arg_names.index
    source = ASTSource(
        function,
        {arg: types.get(arg, "constexpr") for arg in function.arg_names},
        constexprs={(place(arg),): value for arg, value in constants.items()},
        attrs={(place(arg),): [["tt.divisibility", 16]] for arg, kind in types.items() if kind[0] == "*"},
    )
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(source, target=target, options={"num_warps": 4, **options})
    return {"shared_bytes": result.metadata.shared, **disassembled(result.asm["cubin"])}


def disassembled(binary: bytes) -> dict[str, int]:
    """Bytes of stack that a kernel spills to, and how many instructions multiply matrices."""
    tool = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    return {"spilled_bytes": int(stack[1]), "matrix": len(re.findall(r"\b(?:HGMMA|HMMA)\b", code))}


def main() -> None:
    found = {f"{name} sm_{cap}": compiled(name, cap) for cap in (80, 90) for name in KERNELS}
    found |= {f"{name}-fp8 sm_{cap}": compiled(name, cap, True) for cap in (89, 90) for name in FP8_KERNELS}
    json.dump(
        {name.replace(" ", "-", name.count(" ") - 1): facts for name, facts in found.items()}, sys.stdout
    )


if __name__ == "__main__":
    main()
