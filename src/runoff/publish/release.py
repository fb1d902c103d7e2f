"""`publish`: a run's folder -> a model's folder, whole or not at all."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runoff.calibration.stored import read_calibration
from runoff.checkpoint.files import read_json
from runoff.checkpoint.layout import read_checkpoint
from runoff.checkpoint.modular import weight_digests
from runoff.checkpoint.quantized import QUANTIZATION
from runoff.contracts import FloatArray, InputError, Pair
from runoff.data.atomic import new_folder
from runoff.distill.run import CURVES, MODEL
from runoff.publish.card import HUB_ID, Facts, model_card
from runoff.publish.export import Verified, verify, write_model
from runoff.publish.figures import read_figures
from runoff.publish.run import read_rows, read_run

PUBLISHED = "runoff_published.json"
"""What a published folder is known by: the run, the weights and what was verified, for programs."""

FORMAT_VERSION = 1
CARD = "README.md"
INT8_SUFFIX = "-int8"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. `repository` is the hub's ORG/NAME where it is meant for one; `judged` are files of `runoff
    judge`; `rows` the folder that was trained on, whose manifest has counts and licences of subsets."""

    run: Path
    out: Path
    version: str
    precision: str = "bf16"
    repository: str | None = None
    licence: str | None = None
    language: str | None = None
    base_model: str | None = None
    judged: Sequence[Path] = ()
    rows: Path | None = None
    replaces: bool = False

    @property
    def name(self) -> str:
        return self.repository or self.out.resolve().name

    @property
    def int8_out(self) -> Path:
        return self.out.with_name(self.out.name + INT8_SUFFIX)


@dataclass(frozen=True, slots=True)
class Tools:
    """What other rooms do: `score` gives Runoff's raw fp32 scores of `pairs` by the model in a folder, `quantize`
    writes the int8 form of the model in one folder to another and answers what it measured (None: no int8)."""

    pairs: Sequence[Pair]
    score: Callable[[Path, Sequence[Pair]], FloatArray]
    quantize: Callable[[Path, Path], Mapping[str, Any]] | None = None


def publish(order: Order, tools: Tools) -> dict[str, Any]:
    """Writes `order.out` (and OUT-int8), each in one step once it was proven to load and score; answers what was done.

    Raises `InputError` for a run that is not finished, a place that is taken or figures of other weights, and
    `CheckpointError` for files that do not give the run's scores; then nothing was written.
    """
    run = read_run(order.run)
    rows = read_rows(order.rows, run) if order.rows else {}
    check_place(order, with_int8=tools.quantize is not None)
    source = order.run / MODEL
    with ExitStack() as stack:
        draft = stack.enter_context(new_folder(order.out.resolve()))
        size = write_model(source, draft, order.precision)
        by_runoff = tools.score(draft, tools.pairs)
        verified = verify(source, draft, order.precision, tools.pairs, by_runoff)
        facts = _facts(order, run, rows, draft, size, verified)
        _write(draft / CARD, model_card(facts))
        if tools.quantize is not None:
            int8_draft = stack.enter_context(new_folder(order.int8_out.resolve()))
            facts = replace(
                facts,
                int8=tools.quantize(draft, int8_draft),
                int8_name=order.name + INT8_SUFFIX,
                command=f"{facts.command} --int8",
            )
            _write(draft / CARD, model_card(facts))
        _write(draft / PUBLISHED, json.dumps(_record(facts), indent=2, ensure_ascii=False) + "\n")
        _sync(draft)
    return {
        "out": str(order.out),
        "name": order.name,
        "precision": order.precision,
        "bytes": size,
        "verified": verified.as_dict(),
        "weights_sha256": dict(facts.digests),
        "judged_sets": sorted({line["collection"] for line in facts.judged}),
        "licence": order.licence,
        "stale_int8": _stale_int8(order, facts),
        "int8": None if facts.int8 is None else {**facts.int8, "out": str(order.int8_out)},
    }


def check_place(order: Order, *, with_int8: bool) -> None:
    """Raises `InputError` unless the folders may be written: new, empty, or published before and to be replaced."""
    out, run = order.out.resolve(), order.run.resolve()
    if out == run or out in run.parents or run in out.parents:
        raise InputError(f"{order.out} and the run's folder lie in one another; expected a folder beside it")
    marks = [(out, PUBLISHED)]
    if with_int8:
        marks.append((order.int8_out.resolve(), QUANTIZATION))
    for folder, mark in marks:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            continue
        if not (folder / mark).is_file():
            raise InputError(
                f"{folder} holds what Runoff did not publish, and is never replaced. Choose another name"
            )
        if not order.replaces:
            raise InputError(
                f"{folder} was published before. Choose another name, or replace it with --force"
            )


def _facts(
    order: Order, run: Mapping[str, Any], rows: Mapping[str, Any], draft: Path, size: int, verified: Verified
) -> Facts:
    checkpoint = read_checkpoint(draft, "reranker")
    digests, run_digests = weight_digests(draft), weight_digests(order.run / MODEL)
    judged = read_figures(order.judged, [digests, run_digests])
    judges_run = any(line["is_own"] and line["weights_sha256"] != digests for line in judged)
    has_curves = (order.run / CURVES).is_file()
    if has_curves:
        (draft / CURVES).write_bytes((order.run / CURVES).read_bytes())
    backbone = str(run["backbone"].get("name") or "")
    is_on_hub = HUB_ID.fullmatch(backbone) and not Path(backbone).exists()
    return Facts(
        name=order.name,
        source_name=order.run.resolve().name,
        run=run,
        precision=order.precision,
        megabytes=size / 1e6,
        max_length=checkpoint.text.max_length,
        activation=checkpoint.activation,
        verified=verified,
        digests=digests,
        version=order.version,
        command=_command(order),
        licence=order.licence,
        language=order.language,
        base_model=order.base_model or (backbone if is_on_hub else None),
        rows=rows,
        judged=judged,
        judges_run_weights=judges_run,
        has_curves=has_curves,
        calibration=read_calibration(draft),
    )


def _stale_int8(order: Order, facts: Facts) -> str | None:
    """OUT-int8 where it stands there from before, made of other weights."""
    about = read_json(order.int8_out / QUANTIZATION, default={})
    made_of = (about.get("source") or {}).get("sha256")
    return str(order.int8_out) if about and made_of != facts.digests else None


def _command(order: Order) -> str:
    """The command line, with names that mean something on another machine."""
    words = ["runoff", "publish", order.run.resolve().name, order.out.resolve().name]
    words += ["--precision", order.precision]
    for option, value in (("--licence", order.licence), ("--language", order.language)):
        words += [option, value] if value else []
    words += ["--base-model", order.base_model] if order.base_model else []
    words += ["--rows", order.rows.resolve().name] if order.rows else []
    for path in order.judged:
        words += ["--judged", path.name]
    return shlex.join(words)


def _record(facts: Facts) -> dict[str, Any]:
    return {
        "kind": "published",
        "format_version": FORMAT_VERSION,
        "runoff_version": facts.version,
        "name": facts.name,
        "precision": facts.precision,
        "weights_sha256": dict(facts.digests),
        "verified": facts.verified.as_dict(),
        "run": dict(facts.run),
        "judged": [dict(line) for line in facts.judged],
        "int8": None if facts.int8 is None else {"name": facts.int8_name, "measured": facts.int8["measured"]},
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _sync(folder: Path) -> None:
    """Waits until the disk has every file, before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
