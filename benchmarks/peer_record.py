"""What the benchmarks that race engines have in common: options, checkpoints, result lines, tables and plots.

The engines, their processes, the pairs and the checkpoints with random weights are runoff.bench's; `runoff race` itself
measures throughput, latency and growth.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from peer_setup import PEERS, ROOT

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from runoff.bench import plots  # noqa: E402
from runoff.bench import record as lines  # noqa: E402
from runoff.bench.process import Places, environment_with  # noqa: E402
from runoff.bench.random_weights import random_checkpoint  # noqa: E402
from runoff.bench.shapes import named_shape  # noqa: E402
from runoff.bench.specs import UnavailableError  # noqa: E402
from runoff.cli.machine import processor  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "bench"
SHAPES = ("17m", "32m", "68m", "150m", "MiniLM-L6")
Row = dict[str, Any]


def places(options: argparse.Namespace) -> Places:
    return Places(BUILD, options.peers)


def checkpoint(shape: str) -> Path:
    """The folder of a shape's checkpoint with random weights, made if it is not there."""
    found = named_shape(shape)
    assert found is not None, shape
    return random_checkpoint(found, BUILD)


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
    cpu = processor()
    machine = {"cpu": cpu.name, "cores": cpu.cores, "system": platform.system()}
    return lines.Circumstances(machine | {"instruction_sets": list(cpu.flags)}, command()).of(versions)


def command() -> str:
    """This command, without where the environments lie."""
    words = list(sys.argv[1:])
    if "--peers" in words:
        place = words.index("--peers")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("--peers=")]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def rows_of(benchmark: str) -> list[Row]:
    return lines.read_rows(RESULTS / f"{benchmark}.jsonl")


def record(benchmark: str, rows: Sequence[Row]) -> None:
    """Puts lines in the place of those with the same settings and machine, or at the end; all or none."""
    lines.record(RESULTS / f"{benchmark}.jsonl", rows)


def for_plot(benchmark: str) -> list[Row]:
    """The full lines if there are any, else all, of the machine and instruction set measured last."""
    rows = rows_of(benchmark)
    rows = [row for row in rows if row["settings"]["form"] == "full"] or rows
    if not rows:
        sys.exit(f"no lines in benchmarks/results/{benchmark}.jsonl")
    return [row for row in rows if same_machine(row, rows[-1])]


def same_machine(row: Row, other: Row) -> bool:
    return row["machine"] == other["machine"] and row["settings"].get("isa") == other["settings"].get("isa")


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


def axes_grid(columns: int, *, height: float = 4.0, width: float = 4.2) -> tuple[Any, Any]:
    """(figure, axes) in a row, drawn without a display."""
    return plots.panels(columns, height=height, width=width, columns=columns)


def save(figure: Any, name: str) -> None:
    path = RESULTS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    print(f"drew {path.relative_to(ROOT)}")


def caption(row: Row) -> str:
    return plots.caption(row)
