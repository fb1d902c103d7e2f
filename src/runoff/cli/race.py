"""`runoff race`: rerankers x engines by the published speed protocol, as lines, tables and pictures."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.cli.machine import gpus, processor
from runoff.cli.options import CommandParser, Commands, new_command, positive
from runoff.cli.terminal import Column, Terminal, note, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.bench.plan import Plan
    from runoff.bench.record import Row

EXAMPLES = """\
  runoff race --quick                                          two minutes: Ettin's smallest on this machine
  runoff race --models ettin --out raced                       the six sizes on every engine that is installed
  runoff race --models ./mine,bge-reranker-base --pairs log.jsonl --count 200
  runoff race --device cuda --models ettin,gte-reranker-modernbert-base --out h100
  runoff race --device cuda --models 150m --ablation           precision x attention, with peak memory
  runoff race --latency --models 17m,32m                       p50 and p95 of one query with 100 documents
  runoff race --growth length --models 17m                     what 16 to 8,192 tokens cost
  runoff race --models 17m --compare earlier/race.jsonl        what became faster since
"""
MODEL_SETS = ("ettin", "others", "all")
GROWTHS = ("length", "documents", "threads")
LEFT_UNSAID = ("cache", "peers", "out", "name", "json", "debug", "run", "again", "compare")
"""Options that say nothing of what was measured: a recorded command is without them."""


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "race",
        run,
        summary="how fast rerankers are here, on every engine, by the published protocol",
        description="Scores the same pairs with each model on each engine: sizes of batches doubled until memory\n"
        "runs out (on a CPU until larger ones only get slower), a warm-up, three timed passes, the median.\n"
        "Writes race.jsonl, race.md and race.svg after each model; an interrupted race goes on where it was.\n"
        "docs/race.md has the protocol.",
        examples=EXAMPLES,
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--latency", action="store_true", help="milliseconds of one query instead of pairs a second"
    )
    kind.add_argument("--growth", choices=GROWTHS, help="how cost grows with it instead")
    kind.add_argument("--ablation", action="store_true", help="every precision with every attention")
    parser.add_argument(
        "--quick", action="store_true", help="few pairs, few engines, the smallest model: a first look"
    )
    _add_entrants(parser)
    _add_protocol(parser)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out", metavar="FOLDER", type=Path, default=Path("race"), help="(default: ./%(default)s)"
    )
    group.add_argument(
        "--name",
        default="race",
        help="of the files there, with _latency, _growth_length and the like behind it (default: %(default)s)",
    )
    group.add_argument("--again", action="store_true", help="measure anew what is there already")
    group.add_argument(
        "--compare", metavar="FILE", type=Path, help="the .jsonl of an earlier race to set beside it"
    )
    group.add_argument(
        "--cache", metavar="FOLDER", type=Path, help="of made checkpoints and exports (default: the user's)"
    )
    parser.later(_add_named)


def _add_entrants(parser: CommandParser) -> None:
    group = parser.add_argument_group("models and pairs")
    group.add_argument(
        "--models",
        metavar="A,B",
        help="names of the published tables (17m, MiniLM-L6, bge-reranker-base, ...), hub ids, folders, NAME@REVISION, "
        f"or {', '.join(MODEL_SETS)} (default: the published table of this kind of machine)",
    )
    group.add_argument("--random", action="store_true", help="random weights in the true shapes; asks no hub")
    group.add_argument("--pairs", metavar="FILE", help="your own, as `runoff score` reads them (- for stdin)")
    group.add_argument("--count", metavar="N", type=positive, help="pairs (default: by the model's size)")
    group.add_argument(
        "--max-length", metavar="TOKENS", type=positive, default=512, help="(default: %(default)s)"
    )


def _add_protocol(parser: CommandParser) -> None:
    group = parser.add_argument_group("protocol")
    group.add_argument("--device", help="cpu, cuda or cuda:N (default: what is there)")
    group.add_argument(
        "--threads", metavar="COUNT", type=positive, help="of every engine (default: physical cores)"
    )
    group.add_argument(
        "--all-sizes", action="store_true", help="on a CPU: double the batch to the end, however slow"
    )
    group.add_argument(
        "--memory-limit", metavar="MIB", type=positive, help="address space of an engine's process"
    )
    group.add_argument("--peak-tflops", metavar="N", type=float, help="of the device, for its utilisation")
    group.add_argument("--isa", metavar="NAME", help="RUNOFF_ISA of Runoff's processes: avx2, portable, ...")
    group.add_argument(
        "--peers",
        metavar="FOLDER",
        type=Path,
        help="environments of other engines, as benchmarks/peer_setup.py makes them (default: build/peers, if there)",
    )


def _add_named(parser: CommandParser) -> None:
    """The option whose help needs the engines' names."""
    from runoff.bench.specs import DEFAULT_ENGINES

    parser.add_argument(
        "--engines",
        metavar="A,B",
        help="of " + ", ".join(dict.fromkeys([*DEFAULT_ENGINES["cpu"], *DEFAULT_ENGINES["cuda"]])) + ", and "
        "runoff-torch-PRECISION-ATTENTION (default: all that run on the device)",
    )


def run(options: argparse.Namespace) -> None:
    from runoff.bench.pages import write_page
    from runoff.bench.record import read_rows

    before = read_rows(_existing(options.compare)) if options.compare else []
    plan = _plan(options)
    rows: list[Row] = []
    try:
        for _, found in groupby(_rows(options, plan), key=lambda row: row["settings"]["model"]):
            rows += found
            _publish(plan, write_page(plan.file, rows[-1]))
    finally:
        if rows:  # interrupted in the midst of a model: what there is of it is in the page too
            write_page(plan.file, rows[-1])
    if not rows:
        from runoff.contracts import InputError

        raise InputError("nothing was raced: what was left out, and why, stands above; name other --models")
    if options.json:
        for row in rows:
            print_json(row, indent=None)
        return
    terminal = open_terminal()
    if rows[0]["benchmark"] == "race":
        _print_race(terminal, rows)
    else:
        for line in plan.file.with_suffix(".md").read_text("utf-8").splitlines():
            terminal.line(line)
    if options.compare:
        _print_changes(terminal, before, rows)
    note(f"{plan.file}, {plan.file.stem}.md and, with matplotlib, {plan.file.stem}.svg")


def _rows(options: argparse.Namespace, plan: Plan) -> Iterator[Row]:
    if options.latency:
        from runoff.bench.latency import latencies

        return latencies(plan, note)
    if options.growth:
        from runoff.bench.growth import growths

        return growths(plan, options.growth, plan.settings.threads, note)
    from runoff.bench.race import race

    return race(plan, note)


def _publish(plan: Plan, rows: Sequence[Row]) -> None:
    """Draws the picture; without matplotlib there is none."""
    from runoff.bench.plots import draw
    from runoff.contracts import MissingExtraError

    try:
        draw(rows, plan.file.with_suffix(".svg"))
    except MissingExtraError as error:
        note(f"no picture: {error}")


# --- what is asked for -----------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> Plan:
    from runoff.bench.plan import Plan, checked_engines
    from runoff.bench.process import Places, default_cache
    from runoff.bench.record import Circumstances
    from runoff.bench.specs import Settings, kind_of_device
    from runoff.engine.choose import default_device
    from runoff.engine.threads import thread_count

    device = options.device or default_device()
    kind = kind_of_device(device)
    settings = Settings(thread_count(options.threads), options.max_length, device, options.memory_limit)
    cpu = processor()
    engines = checked_engines(options.engines.split(",")) if options.engines else _engines(options, kind)
    form = "quick" if options.quick else "ablation" if options.ablation else "full"
    return Plan(
        models=_models(options, kind),
        engines=engines,
        settings=settings,
        places=Places((options.cache or default_cache()).expanduser(), _peers(options)),
        circumstances=Circumstances(_machine(), _command(options)),
        file=options.out.expanduser() / f"{_name(options)}.jsonl",
        is_named=bool(options.engines),
        pairs=_pairs(options),
        count=options.count,
        form=form,
        isa=options.isa,
        is_random=options.random,
        is_again=options.again,
        has_all_sizes=options.all_sizes,
        peak_tflops=options.peak_tflops,
        flags=cpu.flags,
    )


def _machine() -> dict[str, Any]:
    import platform

    cpu = processor()
    found = {"cpu": cpu.name, "cores": cpu.cores, "system": platform.system()}
    return found | {"instruction_sets": list(cpu.flags)} | ({"gpus": gpus()} if gpus() else {})


def _models(options: argparse.Namespace, kind: str) -> list[str]:
    """Names one by one; a set stands for its members."""
    from runoff.bench.shapes import ALL_LOCAL, ETTIN, OTHERS

    if not options.models:
        if options.quick:
            return ["17m"]
        if options.growth:
            return {"length": ["17m", ALL_LOCAL], "documents": ["17m", "MiniLM-L6"]}.get(
                options.growth, ["17m", "150m"]
            )
        if options.latency:
            return ["17m", "32m", "MiniLM-L6"]
        # The article's CPU table has MiniLM beside Ettin, its table of the H100 all.
        return [*ETTIN, *(OTHERS[:3] if kind == "cpu" else OTHERS)]
    sets = {"ettin": ETTIN, "others": OTHERS, "all": (*ETTIN, *OTHERS)}
    named = [each for name in options.models.split(",") for each in sets.get(name, (name,))]
    return list(dict.fromkeys(named))


def _engines(options: argparse.Namespace, kind: str) -> tuple[str, ...]:
    from runoff.bench import specs

    if options.growth:
        return specs.GROWTH_ENGINES[kind]
    if options.latency:
        return specs.LATENCY_ENGINES[kind]
    if options.ablation:
        return specs.ABLATION_ENGINES[kind]
    return (specs.QUICK_ENGINES if options.quick else specs.DEFAULT_ENGINES)[kind]


def _pairs(options: argparse.Namespace) -> Any:
    """The user's own pairs, None without."""
    if not options.pairs:
        return None
    from runoff.bench.pairs import PairSet
    from runoff.cli.inputs import STDIN, read_pairs

    source = "stdin" if options.pairs == STDIN else Path(options.pairs).name
    return PairSet(list(read_pairs(options.pairs)), source)


def _peers(options: argparse.Namespace) -> Path | None:
    if options.peers:
        return _existing(options.peers)
    here = Path("build") / "peers"
    return here.resolve() if here.is_dir() else None


def _existing(path: Path) -> Path:
    from runoff.contracts import InputError

    found = path.expanduser()
    if not found.exists():
        raise InputError(f"expected a file or folder at {path}, found nothing; check the path")
    return found.resolve()


def _name(options: argparse.Namespace) -> str:
    """Of the files: NAME alone for a race, NAME_latency and the like for what is no race."""
    kind = f"growth_{options.growth}" if options.growth else "latency" if options.latency else ""
    kind = "ablation" if options.ablation else kind
    return "_".join(part for part in (options.name, kind) if part)


def _command(options: argparse.Namespace) -> str:
    """The command, without what says nothing of the measurement or is this machine's own."""
    words = ["runoff", "race"]
    for name, value in vars(options).items():
        if name in LEFT_UNSAID or value in (None, False) or (name == "max_length" and value == 512):
            continue
        option = f"--{name.replace('_', '-')}"
        shown = Path(value).name if name == "pairs" else str(value)
        if name == "models":
            shown = ",".join(
                Path(each).name if Path(each).expanduser().is_dir() else each for each in shown.split(",")
            )
        words += [option] if value is True else [option, shown]
    return shlex.join(words)


# --- for people ------------------------------------------------------------------------------------------


def _print_race(terminal: Terminal, rows: Sequence[Row]) -> None:
    from runoff.bench.specs import BASELINE
    from runoff.bench.tables import shown

    columns = [
        Column("model"),
        Column("engine"),
        *(
            Column(title, is_number=True)
            for title in ("batch", "pairs/s", "x ST fp32", "spread", "peak MiB", "Spearman")
        ),
    ]
    measured = [row for row in rows if "pairs_a_second" in row]
    bases = {
        row["settings"]["model"]: row["pairs_a_second"]
        for row in measured
        if row["settings"]["engine"] == BASELINE
    }
    body = []
    for row in measured:
        model, rate = row["settings"]["model"], row["pairs_a_second"]
        times = None if model not in bases else rate / bases[model]
        size = "its own" if row["size"] is None else f"{row['size']:,} {row['unit']}"
        body.append(
            [
                model,
                row["settings"]["engine"],
                size,
                f"{rate:,.4g}",
                shown(times),
                f"{row['spread']:.1%}",
                shown(row["peak_mib"], ",.0f"),
                shown(row.get("spearman"), ".4f"),
            ]
        )
    terminal.table(columns, body)
    for row in rows:
        if why := row.get("left_out"):
            settings = row["settings"]
            terminal.line(f"left out: {settings['model']}, {settings['engine']}: {why}")
    first = rows[0]
    if first["why_random"]:
        terminal.line(f"{first['settings']['model']} has random weights: {first['why_random']}")
    if first["why_stand_in"]:
        terminal.line(f"The pairs are a stand-in: {first['why_stand_in']}")


def _print_changes(terminal: Terminal, before: Sequence[Row], rows: Sequence[Row]) -> None:
    from runoff.bench.compare import changes

    found = changes(before, rows)
    if not found:
        terminal.line("Nothing of this race is in the earlier one.")
        return
    columns = [Column("model"), Column("engine")]
    columns += [Column(title, is_number=True) for title in ("before", "now", "times")]
    body = [
        [
            each.model,
            each.engine,
            f"{each.old:,.4g}",
            f"{each.new:,.4g}",
            f"{each.ratio:.2f}",
            ", ".join(each.differences) or "nothing",
        ]
        for each in found
    ]
    terminal.table([*columns, Column("what else differs", share=1)], body)
