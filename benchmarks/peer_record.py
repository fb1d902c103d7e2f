"""Result lines, tables and plots of the engine benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from peer_engines import BASELINE, ENGINES, Settings, UnavailableError, is_ours
from peer_process import PEERS, ROOT, Peer, environment_with

RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]

OURS, OTHERS, BASE = "#c2410c", "#94a3b8", "#475569"
"""Colours: Runoff, the other engines, sentence-transformers' default."""


# --- arguments ---------------------------------------------------------------------------------------


def parser_of(doc: str, engines: Sequence[str], shapes: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all these benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pairs, the smallest shape, few engines")
    parser.add_argument("--shapes", help=f"comma-separated (default: {','.join(shapes)})")
    parser.add_argument("--engines", help=f"comma-separated (default: {','.join(engines)})")
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine (default: 2)")
    parser.add_argument("--isa", help="RUNOFF_ISA of Runoff's processes: avx2, portable, ...")
    parser.add_argument(
        "--peers",
        type=Path,
        default=PEERS,
        metavar="FOLDER",
        help="where other engines' environments are, as made by benchmarks/peer_setup.py",
    )
    parser.add_argument("--plot", action="store_true", help="only draw the plot of the recorded lines")
    return parser


def chosen(given: str | None, default: Sequence[str], known: Iterable[str]) -> list[str]:
    """The names of a comma-separated option, checked."""
    names = given.split(",") if given else list(default)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def started(
    names: Sequence[str], checkpoint: Path, options: argparse.Namespace, max_length: int
) -> dict[str, Peer]:
    """The engines of these names that run here, loaded; says why of each that does not."""
    peers: dict[str, Peer] = {}
    for name in names:
        peer = None
        try:
            peer = Peer(
                name,
                checkpoint,
                Settings(options.threads, max_length),
                isa=options.isa,
                peers=options.peers,
                is_named=bool(options.engines),
            )
            peer.about = peer.load()["about"]
            peers[name] = peer
        except UnavailableError as error:
            print(f"  left out: {ENGINES[name].label}: {error}", flush=True)
            if peer is not None:
                peer.close()
    return peers


def run(
    script: str,
    options: argparse.Namespace,
    shapes: Sequence[str],
    measured: Callable[[str, argparse.Namespace], list[Row]],
    printed: Callable[[list[Row]], str],
) -> int:
    """Measures, records and prints, shape by shape, and draws; 1 where nothing could be measured."""
    benchmark = Path(script).stem
    has_any = False
    for shape in shapes:
        began = time.perf_counter()
        rows = measured(shape, options)
        if rows:
            record(benchmark, rows)
            has_any = True
            print(f"{printed(rows)}\n  took {time.perf_counter() - began:.0f} s\n", flush=True)
    if has_any:
        plot_elsewhere(script, options.peers)
    return int(not has_any)


# --- lines -------------------------------------------------------------------------------------------


def circumstances(versions: dict[str, str]) -> Row:
    """Machine, versions, command and date of a result line."""
    from runoff.cli.machine import processor

    cpu = processor()
    set_here = {name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_"))}
    return {
        "machine": {
            "cpu": cpu.name,
            "cores": cpu.cores,
            "system": platform.system(),
            "instruction_sets": list(cpu.flags),
        },
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **versions},
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        **({"environment": set_here} if set_here else {}),
    }


def command() -> str:
    """This command, without where the environments lie."""
    words = list(sys.argv[1:])
    if "--peers" in words:
        place = words.index("--peers")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("--peers=")]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def rows_of(benchmark: str) -> list[Row]:
    path = RESULTS / f"{benchmark}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def record(benchmark: str, rows: Sequence[Row]) -> None:
    """Puts lines in the place of those with the same settings and machine, or at the end; all or none."""
    new = {_key(row) for row in rows}
    kept = [row for row in rows_of(benchmark) if _key(row) not in new]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{benchmark}.jsonl"
    draft = path.with_suffix(".unfinished")
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows]), "utf-8")
    draft.replace(path)


def _key(row: Row) -> str:
    return json.dumps([row["settings"], row["machine"]], sort_keys=True)


def for_plot(benchmark: str) -> list[Row]:
    """The full lines if there are any, else all, of the machine and instruction set measured last."""
    rows = rows_of(benchmark)
    rows = [row for row in rows if row["settings"]["form"] == "full"] or rows
    if not rows:
        sys.exit(f"no lines in benchmarks/results/{benchmark}.jsonl")
    return [row for row in rows if same_machine(row, rows[-1])]


def same_machine(row: Row, other: Row) -> bool:
    return row["machine"] == other["machine"] and row["settings"].get("isa") == other["settings"].get("isa")


# --- comparing ---------------------------------------------------------------------------------------


def agreement(scores: Sequence[float], reference: Sequence[float] | None) -> Row:
    """Spearman correlation with the reference's scores, and the largest difference."""
    if reference is None:
        return {"spearman": None, "max_difference": None}
    mine, theirs = np.asarray(scores), np.asarray(reference)
    ranks = [np.argsort(np.argsort(each, kind="stable")).astype(float) for each in (mine, theirs)]
    return {
        "spearman": round(float(np.corrcoef(*ranks)[0, 1]), 6),
        "max_difference": float(f"{np.abs(mine - theirs).max():.3g}"),
    }


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Aligned columns; every one but the first is numbers."""
    lines = [list(head), *(list(line) for line in body)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if column == 0 else '>'}{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{value:{form}}"


# --- plots -------------------------------------------------------------------------------------------


def plot_elsewhere(script: str, peers: Path) -> None:
    """Draws the plot of `script` in the first environment that has matplotlib."""
    try:
        python = environment_with(("matplotlib", "numpy"), peers).python
    except UnavailableError as error:
        print(f"no plot: {error}")
        return
    subprocess.run([python, script, "--plot"], check=True)


def colour(engine: str) -> str:
    return OURS if is_ours(engine) else BASE if engine == BASELINE else OTHERS


def axes_grid(columns: int, *, height: float = 4.0, width: float = 4.2) -> tuple[Any, Any]:
    """(figure, axes) in a row, drawn without a display."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "runoff"
    matplotlib.rcParams["font.size"] = 9
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(width * columns, height), squeeze=False, layout="constrained"
    )
    for each in axes[0]:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def save(figure: Any, name: str) -> None:
    path = RESULTS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    print(f"drew {path.relative_to(ROOT)}")


def caption(row: Row) -> str:
    machine = row["machine"]
    best = next(
        (
            name
            for name in ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimd")
            if name in machine["instruction_sets"]
        ),
        "",
    )
    used = row["settings"].get("isa") or best
    return f"{machine['cpu']}, {row['settings']['threads']} threads, {used}".rstrip(", ")
