"""What stands between the CPU engine and the processor: each stage of a layer against measured peaks, one thread.

A stage is timed alone, as the engine runs it: blocks of 96 rows, the fastest of many repetitions. Its rate is in
multiplications a second; the peak of its kind of number is measured with the same instructions on registers alone, so
what is missing to 100 % is loads, stores, epilogues and the rest of the tile. `share` is the part of a layer's time.
Bytes: every weight is read once for each unit of 512 tokens; `weights` says what share of the unit's time that
takes at the bandwidth with which this machine reads memory (measured: the sum of 256 MiB).
`covered` is the time of all stages of all layers over that of the engine's forward of the same four sequences of
128 tokens on one thread: what is missing is embedding, head and the passage from stage to stage (above 100 %: the
last layer, which the engine computes for CLS alone).

Shapes are Ettin's and MiniLM-L6's with random weights. Lines go to benchmarks/results/roofline.jsonl, in the place
of those with the same settings and machine. RUNOFF_ISA chooses the instruction set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np

from peer_record import SHAPES, Row, checkpoint, chosen, circumstances, record, table

BLOCK, TOKENS, SEQUENCES = 96, 128, 4
KINDS = {"int8": "i8", "bf16": "i16", "fp32": "f32"}
REPETITIONS = 60
BANDWIDTH_FLOATS = 1 << 26


def bandwidth() -> float:
    """Bytes a second of one thread reading memory."""
    values = np.ones(BANDWIDTH_FLOATS, np.float32)
    seconds = [_seconds(values.sum) for _ in range(6)]
    return values.nbytes / min(seconds)


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def stages_of(encoder: Any, isa: str, kind: str) -> dict[str, tuple[float, float, str]]:
    """{stage: (multiplications, seconds, kind of number)} of one layer over all tokens; local layers as they come."""
    from runoff import _native as native
    from runoff.engine import packing

    rng = np.random.default_rng(0)
    tokens = SEQUENCES * TOKENS
    is_glu = encoder.family == "modernbert"
    forms = {"qkv": "store", "attn_out": "add", "mlp_in": "glu" if is_glu else "act", "mlp_out": "add"}
    found: dict[str, tuple[float, float, str]] = {}
    quantising = 0.0
    for part, form in forms.items():
        outputs, inputs = packing.matrix_shape(encoder, part)
        weight = rng.standard_normal((outputs, inputs), np.float32)
        matrix = native.Matrix.pack(kind, weight, None)
        rows = rng.standard_normal((BLOCK, inputs), np.float32)
        first, second = native.time_multiply(isa, matrix, rows, form, 1, REPETITIONS)  # activation 1 is GELU
        quantising += first * tokens / BLOCK if kind != "f32" else 0.0
        found[part] = (tokens * outputs * inputs, second * tokens / BLOCK, kind)
    size = len(packing.head_order(encoder))
    local = sum(encoder.is_local_layer) / encoder.layer_count if encoder.is_local_layer else 0.0
    seconds = products = 0.0
    for window, share in ((encoder.local_window, local), (-1, 1 - local)):
        if share:
            taken = native.time_attend(isa, TOKENS, window, size, REPETITIONS)
            positions = np.arange(TOKENS)
            away = np.abs(positions[:, None] - positions)
            seen = int((away <= window).sum()) if window >= 0 else TOKENS**2
            seconds += share * taken * SEQUENCES * encoder.head_count
            products += share * 2 * seen * size * SEQUENCES * encoder.head_count
    found["attention"] = (products, seconds, "f32")
    x = rng.standard_normal((BLOCK, encoder.hidden_size), np.float32)
    ones = np.ones(encoder.hidden_size, np.float32)
    norm = min(_seconds(lambda: native.probe_norm(isa, x, ones, None, 1e-5)) for _ in range(REPETITIONS))
    found["norms"] = (0, 2 * norm * tokens / BLOCK, "f32")
    if kind != "f32":
        found["quantising"] = (0, quantising, kind)
    return found


def forward_seconds(model: Any) -> float:
    """The engine's own forward of the same tokens."""
    from runoff.contracts import Encoded
    from runoff.text.batching import pack

    rng = np.random.default_rng(1)
    ids = [rng.integers(5, 1000, TOKENS).astype(np.int32) for _ in range(SEQUENCES)]
    batch = pack([Encoded(row, np.zeros_like(row)) for row in ids], range(SEQUENCES))
    engine = model._native.engine
    return min(_seconds(lambda: engine.forward(batch)) for _ in range(12))


def measured(shape: str, precision: str, isa: str, bytes_a_second: float, peaks: dict[str, float]) -> Row:
    from runoff import CrossEncoder
    from runoff import _native as native

    model = CrossEncoder(str(checkpoint(shape)), device="cpu", precision=precision, threads=1)
    encoder, kind = model._native.checkpoint.model.encoder, KINDS[precision]
    stages = stages_of(encoder, isa, kind)
    for each in (kind, "f32"):
        # What a neighbour on the same processor takes, it takes for moments: the highest that was seen is the peak.
        peaks[each] = max(peaks.get(each, 0.0), *(native.probe_peak(isa, each) for _ in range(3)))
    layer = sum(seconds for _, seconds, _ in stages.values())
    whole = forward_seconds(model)
    weights = {"i8": 1, "i16": 2, "f32": 4}[kind] * sum(
        products / (SEQUENCES * TOKENS) for name, (products, *_) in stages.items() if name != "attention"
    )
    return {
        "benchmark": "roofline",
        "settings": {"shape": shape, "precision": precision, "isa": isa, "threads": 1, "form": "full"},
        "tokens": SEQUENCES * TOKENS,
        "peak_gmacs": {name: round(peaks[name] / 1e9, 1) for name in dict.fromkeys((kind, "f32"))},
        "bandwidth_gb": round(bytes_a_second / 1e9, 1),
        "stages": {
            name: {
                "microseconds": round(seconds * 1e6, 1),
                "share": round(seconds / layer, 4),
                "gmacs": round(products / seconds / 1e9, 1) if products else None,
                "of_peak": round(products / seconds / peaks[of], 3) if products else None,
            }
            for name, (products, seconds, of) in stages.items()
        },
        "layer_microseconds": round(layer * 1e6, 1),
        "forward_microseconds": round(whole * 1e6, 1),
        "covered": round(layer * encoder.layer_count / whole, 3),
        "weights": round(weights / bytes_a_second / layer, 3),
        **circumstances({"runoff": version("runoff"), "numpy": np.__version__}),
    }


def printed(row: Row) -> str:
    head = ["stage", "us a layer", "share", "GMAC/s", "of peak"]
    body = [
        [
            name,
            f"{stage['microseconds']:.0f}",
            f"{stage['share']:.0%}",
            "-" if stage["gmacs"] is None else f"{stage['gmacs']:.1f}",
            "-" if stage["of_peak"] is None else f"{stage['of_peak']:.0%}",
        ]
        for name, stage in row["stages"].items()
    ]
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in row["peak_gmacs"].items())
    return (
        f"{row['settings']['shape']} in {row['settings']['precision']} ({row['settings']['isa']}; peaks in GMAC/s: "
        f"{peaks}; covered {row['covered']:.0%}; reading weights {row['weights']:.1%})\n{table(head, body)}\n"
    )


def main() -> int:
    """Measures, records and prints; exit code 1 without the native engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", help=f"comma-separated (default: {','.join(SHAPES)})")
    parser.add_argument("--precisions", help=f"comma-separated (default: {','.join(KINDS)})")
    parser.add_argument("--quick", action="store_true", help="17m only")
    options = parser.parse_args()
    from runoff.engine.native import kernels, native_module

    if native_module() is None:
        print("roofline: Runoff has no native engine here; nothing to measure", file=sys.stderr)
        return 1
    isa = kernels(os.environ.get("RUNOFF_ISA", ""))["name"]
    bytes_a_second, peaks = bandwidth(), dict[str, float]()
    for shape in chosen(options.shapes, ("17m",) if options.quick else SHAPES, SHAPES):
        rows = [
            measured(shape, precision, isa, bytes_a_second, peaks)
            for precision in chosen(options.precisions, tuple(KINDS), KINDS)
        ]
        record("roofline", rows)
        for row in rows:
            print(printed(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
