"""`runoff info`: what would run here, what a model is, what an index holds."""

from __future__ import annotations

import argparse
import math
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runoff import __version__
from runoff.cli.machine import EXTRAS, gpus, installed_version, processor
from runoff.cli.options import DEFAULT_MODEL, Commands, add_model_options, find_either, new_command
from runoff.cli.terminal import Piece, Terminal, open_terminal, print_json

if TYPE_CHECKING:
    from runoff.checkpoint.layout import Checkpoint
    from runoff.model import FoundModel, ModelOptions

EXAMPLES = """\
  runoff info                                              this machine: processor, extras, engine
  runoff info --model cross-encoder/ettin-reranker-32m-v1  a model: size, limits, what runs it and why
  runoff info --index notes.index                          an index: documents, whose tokens and vectors
"""

Facts = dict[str, Any]


def add_to(commands: Commands) -> None:
    parser = new_command(
        commands,
        "info",
        run,
        summary="say what would run here, and what a model or an index is",
        description="Prints which engine would run a model on this machine, in which precision, and why. Loads no\n"
        "weights. Send its output along when you report a problem.",
        examples=EXAMPLES,
    )
    parser.add_argument("--index", metavar="PATH", help="say what the index at PATH holds")
    add_model_options(parser, f"default: {DEFAULT_MODEL}, if it is installed")


def run(options: argparse.Namespace) -> None:
    facts: dict[str, Facts] = {"machine": machine_facts()}
    facts["model"] = model_facts(options, options.model or DEFAULT_MODEL)
    if options.index:
        facts["index"] = index_facts(options.index)
    if options.json:
        print_json(facts)
        return
    terminal = open_terminal()
    _print_machine(terminal, facts["machine"])
    print_facts(terminal, "model", facts["model"])
    if options.index:
        print_facts(terminal, "index", facts["index"])


# --- this machine --------------------------------------------------------------------------------------


def machine_facts() -> Facts:
    """What this machine has."""
    cpu = processor()
    extras = {name: installed_version(distribution) for name, (distribution, _) in EXTRAS.items()}
    return {
        "runoff": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu.name,
        "cores": cpu.cores,
        "instructions": list(cpu.flags),
        "kernels": kernel_facts(),
        "gpus": gpus(),
        "torch": installed_version("torch"),
        "extras": extras,
    }


def kernel_facts() -> Facts:
    """What the native engine would run by here, or why there is none."""
    from runoff.engine.choose import NOT_BUILT
    from runoff.engine.native import native_module
    from runoff.engine.threads import thread_count

    module = native_module()
    if module is None:
        return {"missing": NOT_BUILT}
    return {"instruction_sets": module.available_isas(), "threads": thread_count()}


def _print_machine(terminal: Terminal, facts: Facts) -> None:
    extras = facts["extras"]
    shown = {
        "runoff": f"{facts['runoff']}, Python {facts['python']}, {facts['system']}",
        "processor": f"{facts['processor']}, {facts['cores']} cores for this process",
        "instructions": " ".join(facts["instructions"]) or "not known on this system",
        "kernels": _kernels_shown(facts["kernels"]),
        "GPUs": ", ".join(facts["gpus"]) or "none visible",
        "torch": facts["torch"] or "not installed",
        "extras": ", ".join(name for name, version in extras.items() if version) or "none installed",
    }
    if facts["gpus"] and not facts["torch"]:
        shown["GPUs"] += " (unused: they need the torch extra)"
    print_facts(terminal, "this machine", shown)
    for name, version in extras.items():
        if version is None:
            terminal.line(
                f"  {'missing':12}  {name}: {EXTRAS[name][1]}. ",
                Piece(f"pip install 'runoff[{name}]'", "cyan"),
            )


def _kernels_shown(facts: Facts) -> str:
    if "missing" in facts:
        return f"{facts['missing']}. Until then numpy computes, several times slower"
    best, *others = facts["instruction_sets"]
    return (
        f"{best} (also compiled and possible here: {', '.join(others) or 'none'}), {facts['threads']} threads"
    )


# --- a model -------------------------------------------------------------------------------------------


def model_facts(options: argparse.Namespace, name: str) -> Facts:
    """What a model is and what would run it; for one that nothing here can run, the reason."""
    from runoff.contracts import CheckpointNotFoundError, MissingExtraError
    from runoff.model import ModelOptions

    asked = ModelOptions(
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        max_length=options.max_length,
        revision=options.revision,
        local_files_only=options.local_files_only,
    )
    try:
        found, role = find_either(name, asked)
    except CheckpointNotFoundError as error:
        if options.model is not None:
            raise
        return {"name": name, "engine": "none", "reason": str(error)}
    except MissingExtraError as error:
        return {"name": name, "engine": "none", "reason": str(error)}
    facts: Facts = {"name": name, "kind": role, **asdict(found.choice), "folder": str(found.folder)}
    del facts["is_on_trial"]  # the reason says it in words
    if role == "reranker":
        facts["calibration"] = _calibration_facts(found)
    if found.checkpoint is not None and found.choice.engine != "sentence-transformers":
        facts |= _checkpoint_facts(found, asked)
    return facts


def _calibration_facts(found: FoundModel) -> str | None:
    from runoff.calibration.stored import read_calibration

    calibration = read_calibration(found.folder)
    if calibration is None:
        return None
    on = calibration.fitted_on
    return (
        f"{calibration.method}, fitted on {', '.join(on.names) or 'pairs'}: expected calibration error "
        f"{on.ece_after:.4f} (before {on.ece_before:.4f})"
    )


def _checkpoint_facts(found: FoundModel, asked: ModelOptions) -> Facts:
    from runoff.checkpoint.config import StaticConfig
    from runoff.checkpoint.layout import load_weights
    from runoff.checkpoint.weights import canonical_shapes
    from runoff.model import load_native_tokenizer

    checkpoint = found.checkpoint
    assert checkpoint is not None
    model, encoder = checkpoint.model, checkpoint.model.encoder
    tokenizer = load_native_tokenizer(found, asked)
    load_weights(checkpoint)  # a checkpoint that would be refused is refused here too
    facts: Facts = {"family": "static table" if isinstance(encoder, StaticConfig) else encoder.family}
    facts["parameters"] = sum(math.prod(shape) for shape in canonical_shapes(model).values())
    if not isinstance(encoder, StaticConfig):
        facts |= {"layers": encoder.layer_count, "hidden": encoder.hidden_size, "heads": encoder.head_count}
    return facts | {
        "max_length": tokenizer.max_length,
        "pooling": "+".join(model.pooling),
        "head": [_step_name(step) for step in model.head],
        "outputs": model.output_size,
        "activation": checkpoint.activation,
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.vocabulary_size,
        "prompts": dict(checkpoint.prompts),
        "quantized": _quantized_facts(checkpoint),
    }


def _quantized_facts(checkpoint: Checkpoint) -> str | None:
    """What a checkpoint that `runoff quantize` wrote was made from, and its measured noise."""
    if checkpoint.quantization is None:
        return None
    about = checkpoint.quantization.about
    measured, source = about.get("measured") or {}, about.get("source") or {}
    return f"from {source.get('name')}, noise {measured.get('noise')} on {measured.get('on')}"


def _step_name(step: Any) -> str:
    sizes = (
        f" {step.in_features}->{step.out_features} {step.activation}" if hasattr(step, "out_features") else ""
    )
    return type(step).__name__ + sizes


# --- an index ------------------------------------------------------------------------------------------


def index_facts(path: str) -> Facts:
    """What `Index.info` says."""
    from runoff.search.index import Index

    return asdict(Index.open(path).info())


# --- how facts look ------------------------------------------------------------------------------------


def print_facts(terminal: Terminal, title: str, facts: Facts) -> None:
    """A title and a line per fact; facts that say nothing are passed over."""
    terminal.line()
    terminal.line(Piece(title, "bold"))
    said = {name: value for name, value in facts.items() if value is not None and value != {} and value != []}
    width = max([12, *map(len, said)])
    for name, value in said.items():
        terminal.line(Piece(f"  {name.replace('_', ' '):{width}}  ", "dim"), _shown(name, value))


def _shown(name: str, value: Any) -> str:
    if name == "bytes_on_disk":
        return f"{value / 1e6:,.1f} MB"
    if name == "columns":
        return ", ".join(f"{column} ({kind})" for column, kind in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return " -> ".join(map(str, value)) if name == "head" else ", ".join(map(str, value))
    return str(value)
