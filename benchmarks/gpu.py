"""One command that says everything about Runoff's engine on a GPU: right or wrong, how fast, and what to do next.

    python benchmarks/gpu.py                          # the machine's GPU, all six Ettin shapes, under ten minutes
    python benchmarks/gpu.py --shapes 400m,1b         # the two large ones in a call of their own
    python benchmarks/gpu.py --device cpu --quick     # the same path without a GPU, to see that it works

In this order, each part printed and recorded as soon as it is known, so that an interrupted run has said what it had:

card      what matrix products and copies reach, which attentions and kernels run at all
right     every attention, kernel, precision and replay against fp32 with PyTorch's plain attention: largest
          difference and rank correlation of the scores (random weights, spread 2)
ways      pairs a second of packed batches that lie ready (no text): attentions, kernels, graphs, precisions and token
          budgets, one varied at a time from the usual choice
whole     `CrossEncoder.predict` of texts and `score` of stored token ids, by the usual choice: median of three passes;
          peak memory of the device; p50 and p95 of one query with 100 documents; beside it sentence-transformers in
          bf16, its best batch of three

Pairs have the lengths of natural questions (`runoff race` has the protocol), weights are random in the true shapes.
Lines go to benchmarks/results/gpu.jsonl (--out FILE). A part that fails is reported and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from runoff.bench.flops import flops_of, peak_tflops  # noqa: E402
from runoff.bench.pairs import drawn_lengths, made_pairs, made_request  # noqa: E402
from runoff.bench.published import H100, THROUGHPUT  # noqa: E402
from runoff.bench.random_weights import random_checkpoint  # noqa: E402
from runoff.bench.shapes import named_shape  # noqa: E402
from runoff.contracts import Batch, RunoffError  # noqa: E402
from runoff.text.batching import packed  # noqa: E402

SHAPES = ("17m", "32m", "68m", "150m", "400m", "1b")
CAP = 512
# pairs/s that are asked for on one H100: with tokenisation, with stored token ids, and the card's estimated limit
BARS = {
    "17m": (22_500, 90_000, 180_000),
    "32m": (17_000, 40_000, 73_000),
    "68m": (11_000, 16_000, 24_000),
    "150m": (6_500, 8_000, 13_000),
    "400m": (3_100, 3_300, 4_900),
    "1b": (1_500, 1_550, 1_800),
}
USUAL = {
    "precision": "fp16",
    "attention": "auto",
    "kernels": "auto",
    "replays": True,
    "fuses_mlp": False,
    "budget": None,
}
FEW: tuple[dict[str, Any], ...] = (
    {},
    {"attention": "triton"},
    {"attention": "triton", "fuses_mlp": True},
    {"fuses_mlp": True},
    {"precision": "fp8"},
)
"""Ways that every shape is timed in; 17m and 150m, which are bound by different things, in `ALL`."""
ALL: tuple[dict[str, Any], ...] = (
    *FEW,
    {"attention": "flash_attention_2"},
    {"attention": "sdpa"},
    {"kernels": "torch"},
    {"replays": False},
    {"precision": "bf16"},
    {"budget": 8_192},
    {"budget": 16_384},
    {"budget": 32_768},
    {"budget": 131_072},
)
CHECKED: tuple[dict[str, Any], ...] = (
    {"precision": "fp16"},
    {"precision": "bf16"},
    {"precision": "fp8"},
    {"attention": "triton"},
    {"fuses_mlp": True},
    {"kernels": "torch"},
    {"replays": False},
)
MEAN_TOKENS, FULL_BATCHES = (
    148,
    8,
)  # a row of ready batches is at least so many full ones: a short tail would show
Row = dict[str, Any]


class Report:
    """Lines of the run: recorded one by one, and kept for the table at the end."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path, self.rows = path, []
        self.began, self.seconds = time.perf_counter(), 60.0 * options.minutes
        self.about = {"device": options.device, "date": datetime.now(UTC).date().isoformat()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", "utf-8")

    def add(self, part: str, **facts: Any) -> None:
        row = {"benchmark": "gpu", "part": part, **facts, **self.about}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{part:6s} " + "  ".join(f"{name} {shown(value)}" for name, value in facts.items()), flush=True
        )

    def has_time(self) -> bool:
        return time.perf_counter() - self.began < self.seconds

    def attempt(self, part: str, work: Callable[[], None], **facts: Any) -> None:
        """Runs one part; what it raises becomes a line."""
        if not self.has_time():
            self.add(part, **facts, left_out=f"{self.seconds / 60:g} minutes are over")
            return
        try:
            work()
        except RunoffError as error:
            self.add(part, **facts, unavailable=str(error)[:200])
        except Exception as error:
            traceback.print_exc()
            self.add(part, **facts, failed=f"{type(error).__name__}: {error}"[:300])


def shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


# --- card --------------------------------------------------------------------------------------------


def card(report: Report, device: str, quick: bool) -> None:
    """What the card reaches in the two things that a forward is made of."""
    import torch

    size = 512 if quick else 8192
    facts: Row = {
        "torch": torch.__version__,
        "triton": installed("triton"),
        "flash_attn": installed("flash-attn"),
    }
    if device.startswith("cuda"):
        facts["name"] = torch.cuda.get_device_name(device)
        facts["memory_gib"] = torch.cuda.get_device_properties(device).total_memory / 2**30
        report.about["card"] = facts["name"]
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = seconds_of(lambda a=a, b=b: a @ b, device)
        facts[f"{dtype}".removeprefix("torch.") + "_tflops"] = 2 * size**3 / seconds / 1e12
    source = torch.randn(size, size, device=device)
    target = torch.empty_like(source)
    facts["copy_tb_a_second"] = 2 * 4 * size**2 / seconds_of(lambda: target.copy_(source), device) / 1e12
    report.add("card", **facts)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def seconds_of(work: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Seconds of one run, from a median of three rows of `repeats`."""
    for _ in range(3):
        work()
    found = []
    for _ in range(3):
        wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        wait(device)
        found.append((time.perf_counter() - began) / repeats)
    return statistics.median(found)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


# --- engines -----------------------------------------------------------------------------------------


def engine_of(folder: Path, device: str, **way: Any) -> Any:
    from runoff.checkpoint.layout import load_weights, read_checkpoint
    from runoff.engine.torch_engine import Settings, TorchEngine

    checkpoint = read_checkpoint(folder, "reranker")
    chosen = {**USUAL, **way}
    budget = chosen.pop("budget")
    engine = TorchEngine(checkpoint.model, load_weights(checkpoint), Settings(device, **chosen))
    engine.token_budget = budget or engine.token_budget
    return engine


def batches_of(lengths: np.ndarray, budget: int, vocabulary: int = 5_000) -> list[Batch]:
    """Packed batches of random ids: the longest sequences first, as many as fit into the budget."""
    generator = np.random.default_rng(0)
    found, part, count = [], [], 0
    for length in [*-np.sort(-np.minimum(lengths, CAP)), None]:
        if length is None or count + length > budget:
            ids = generator.integers(5, vocabulary, count).astype(np.int32)
            found.append(packed(ids, None, np.array(part, np.int64), np.arange(len(part))))
            part, count = [], 0
        part.append(length)
        count += length or 0
    return found


def run_all(engine: Any, batches: list[Batch]) -> np.ndarray:
    """Scores of all batches, four of them under way at a time."""
    waiting, scores = [], []
    for batch in batches:
        waiting.append(engine.start(batch))
        if len(waiting) > 4:
            scores.append(waiting.pop(0).result())
    return np.concatenate([*scores, *(each.result() for each in waiting)])[:, 0]


def right(report: Report, folder: Path, shape: str, device: str, count: int) -> None:
    """Every way's scores against fp32's."""
    from scipy.stats import spearmanr

    lengths = drawn_lengths(count, seed=3)
    plain = engine_of(folder, device, precision="fp32", attention="sdpa", kernels="torch", replays=False)
    batches = batches_of(lengths, 8_192)
    exact = run_all(plain, batches)
    del plain
    for way in CHECKED:

        def compare(way: Row = way) -> None:
            engine = engine_of(folder, device, **way)
            first = run_all(engine, batches)
            run_all(engine, batches)  # records graphs
            scores = run_all(engine, batches)
            report.add(
                "right",
                shape=shape,
                **way,
                used=f"{engine.attention}/{engine.kernels}",
                graphs=engine.graph_count,
                most=float(np.abs(scores - exact).max()),
                noise=float(np.std(scores - exact) / np.std(exact)),
                spearman=float(spearmanr(scores, exact).statistic),
                replays_differ=float(np.abs(scores - first).max()),
            )

        report.attempt("right", compare, shape=shape, **way)


def ways(report: Report, folder: Path, shape: str, options: argparse.Namespace, count: int) -> None:
    """Pairs a second of batches that lie ready."""
    for way in FEW[:2] if options.quick else ALL if shape in ("17m", "150m") else FEW:

        def measure(way: Row = way) -> None:
            engine = engine_of(folder, options.device, **way)
            full = 0 if options.quick else FULL_BATCHES * engine.token_budget // MEAN_TOKENS
            lengths = np.minimum(drawn_lengths(max(count, full)), CAP)
            batches = batches_of(lengths, engine.token_budget)
            for _ in range(3):  # compiles, records, and fills the caches
                run_all(engine, batches)
            taken = [timed(lambda: run_all(engine, batches), options.device) for _ in range(3)]
            seconds = statistics.median(taken)
            name = report.about.get("card", "")
            peak = peak_tflops(name, way.get("precision", "fp16"))
            flops = flops_of(folder, lengths)
            assert flops is not None, "the FLOPs of Ettin's shapes are known"
            rate = flops.needed / seconds / 1e12
            report.add(
                "ways",
                shape=shape,
                **way,
                used=f"{engine.attention}/{engine.kernels}",
                tokens=engine.token_budget,
                pairs_a_second=len(lengths) / seconds,
                spread=max(taken) / min(taken) - 1,
                tflops=rate,
                utilisation=rate / peak if peak else None,
            )

        report.attempt("ways", measure, shape=shape, **way)


def timed(work: Callable[[], Any], device: str) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


# --- the whole path ----------------------------------------------------------------------------------


def whole(report: Report, folder: Path, shape: str, options: argparse.Namespace, pairs: list[Any]) -> None:
    from runoff import CrossEncoder

    device = options.device
    model = CrossEncoder(folder, device=device, engine="torch", max_length=CAP)
    reset_memory(device)
    ids = model.tokenize([document for _, document in pairs])
    with_ids = [(query, document) for (query, _), document in zip(pairs, ids, strict=True)]
    native = model._native

    def texts() -> None:
        model.predict(pairs, activation_fn="identity", show_progress_bar=False)

    def stored() -> None:
        from runoff.contracts import LengthRules
        from runoff.scoring import pair_outputs

        pair_outputs(native, with_ids, "", LengthRules())

    rates = {}
    for name, work in (("texts", texts), ("stored", stored)):
        for _ in range(2):
            work()
        rates[name] = len(pairs) / statistics.median(timed(work, device) for _ in range(3))
    report.add(
        "whole", shape=shape, pairs=len(pairs), precision=model.choice.precision, how=model.choice.reason[-40:],
        texts_a_second=rates["texts"], stored_a_second=rates["stored"], peak_gb=peak_memory(device),
        tokenize_a_second=len(pairs) / timed(lambda: model.tokenize([d for _, d in pairs]), "cpu"),
        **latency(model, folder, options),
    )  # fmt: skip


def latency(model: Any, folder: Path, options: argparse.Namespace) -> Row:
    """p50 and p95 in milliseconds of one query with 100 documents of about 160 tokens, texts and stored ids."""
    requests = [made_request(folder, 100, 160, seed) for seed in range(3 if options.quick else 20)]
    found: dict[str, list[float]] = {"texts": [], "stored": []}
    for turn in range(2 if options.quick else 4):
        for request in requests:
            query, documents = request[0][0], [document for _, document in request]
            ids = model.tokenize(documents)
            for name, given in (("texts", documents), ("stored", ids)):
                seconds = timed(lambda query=query, given=given: model.score(query, given), options.device)
                if turn:
                    found[name].append(1000 * seconds)
    return {
        f"{name}_p{share}_ms": float(np.percentile(values, share))
        for name, values in found.items()
        for share in (50, 95)
    }


def others(report: Report, folder: Path, shape: str, options: argparse.Namespace, pairs: list[Any]) -> None:
    """sentence-transformers in bf16, with each attention that it can have here."""
    import torch
    from sentence_transformers import CrossEncoder

    kinds = ["sdpa", *(["flash_attention_2"] if installed("flash-attn") or installed("kernels") else [])]
    for kind in kinds:
        model = CrossEncoder(
            str(folder), device=options.device, max_length=CAP,
            model_kwargs={"dtype": torch.bfloat16, "attn_implementation": kind},
        )  # fmt: skip
        reset_memory(options.device)
        rates = {}
        for size in (8,) if options.quick else (64, 256, 1024):

            def score(model: Any = model, size: int = size) -> None:
                model.predict(
                    pairs, batch_size=size, show_progress_bar=False, activation_fn=torch.nn.Identity()
                )

            try:
                score()
                rates[size] = len(pairs) / statistics.median(timed(score, options.device) for _ in range(2))
            except torch.OutOfMemoryError:
                break
        best = max(rates, key=lambda size: rates[size])
        report.add("other", shape=shape, engine=f"sentence-transformers bf16 {kind}", batch=best,
                   texts_a_second=rates[best], peak_gb=peak_memory(options.device))  # fmt: skip


def reset_memory(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> float | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e9


# --- all of it ---------------------------------------------------------------------------------------


def table(rows: list[Row]) -> Iterator[str]:
    """The bars and what came of them, a line per shape."""
    yield f"{'':5s} {'texts/s':>9s} {'bar':>7s} {'article':>8s} {'s-t here':>9s} {'stored/s':>9s} {'bar':>7s} " \
          f"{'best way/s':>10s} {'TFLOP/s':>8s} {'of peak':>7s} {'GB':>5s} {'100 docs p50/p95 ms':>20s}"  # fmt: skip
    for shape in SHAPES:
        found = next(
            (r for r in rows if r["part"] == "whole" and r["shape"] == shape and "texts_a_second" in r), None
        )
        if found is None:
            continue
        here = [
            row for row in rows if row["part"] == "other" and row.get("shape") == shape and "batch" in row
        ]
        other = max((row["texts_a_second"] for row in here), default=float("nan"))
        best = max((r for r in rows if r["part"] == "ways" and r["shape"] == shape and "tflops" in r),
                   key=lambda row: row["pairs_a_second"], default={})  # fmt: skip
        text_bar, stored_bar, _ = BARS[shape]
        yield (
            f"{shape:5s} {found['texts_a_second']:9.0f} {text_bar:7d} {THROUGHPUT[H100][shape]:8.0f} "
            f"{other:9.0f} {found['stored_a_second']:9.0f} {stored_bar:7d} "
            f"{best.get('pairs_a_second', float('nan')):10.0f} {best.get('tflops', float('nan')):8.1f} "
            f"{best.get('utilisation') or float('nan'):7.1%} {found['peak_gb'] or float('nan'):5.1f} "
            f"{found['texts_p50_ms']:9.1f} / {found['texts_p95_ms']:.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="start nothing new after (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest shape, few pairs")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "bench", help="where checkpoints are made"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.jsonl", metavar="FILE"
    )
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    report = Report(options.out, options)
    report.attempt("card", lambda: card(report, options.device, options.quick))
    shapes = ["17m"] if options.quick else options.shapes.split(",")
    pairs: list[Any] = []
    for number, shape in enumerate(shapes):
        known = named_shape(shape)
        if known is None:
            parser.error(f"--shapes: no shape {shape!r}; there are {', '.join(SHAPES)}")
        folder = random_checkpoint(known, options.cache)
        pairs = pairs or made_pairs(folder, 48 if options.quick else 8_192)
        share = pairs[: max(1_024, len(pairs) >> number)]  # half as many for each larger shape
        few = 64 if options.quick else 1_024
        for part, work in (
            ("right", lambda f=folder, s=shape, n=few: right(report, f, s, options.device, n)),
            ("whole", lambda f=folder, s=shape, p=share: whole(report, f, s, options, p)),
            ("ways", lambda f=folder, s=shape, p=share: ways(report, f, s, options, len(p))),
            ("other", lambda f=folder, s=shape, p=share[:2_048]: others(report, f, s, options, p)),
        ):
            report.attempt(part, work, shape=shape)
    print("\n".join(table(report.rows)))
    return 0 if any(row["part"] == "whole" and "texts_a_second" in row for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
