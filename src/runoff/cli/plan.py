"""Before the long run: `runoff train --dry-run` and `--sweep`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runoff.cli.info import print_facts
from runoff.cli.terminal import open_terminal, print_json
from runoff.cli.train import trained

if TYPE_CHECKING:
    from runoff.distill.train import Job, Watching

SWEEP_SUBSET = 0.15
"""The share of the data on which the published recipe's rates were swept."""


def dry_run(options: argparse.Namespace, job: Job) -> None:
    from dataclasses import asdict

    from runoff.distill.plan import plan

    found = plan(job, options.out.expanduser())
    rows, recipe = job.rows, job.recipe
    if job.machine.rank:
        return
    if options.json:
        print_json({**asdict(found), "recipe": recipe.as_dict()})
        return
    shown = {
        "rows": f"{rows.count:,} of {rows.queries:,} queries; {len(job.split.held_out):,} held out; "
        f"labels {rows.mean:.3g} on average, deviation {rows.deviation:.3g}",
        "steps": f"{found.steps:,} of {recipe.global_batch:,} pairs; at most {found.left_out:,} rows fill no batch",
        "tokens": f"{found.tokens[0]:.0f} a pair (median), {found.tokens[1]:.0f} (95 %), {found.tokens[2]:.0f} (most); "
        f"{100 * found.cut_pairs:.1f} % are cut at {recipe.max_length:,}",
        "model": f"{found.parameters:,} parameters, {found.trained_parameters:,} of them trained, in {found.precision}",
        "speed": f"{found.pairs_per_second:,.1f} pairs/s, {found.tokens_per_second:,.0f} tokens/s a process",
        "time": f"{_duration(found.seconds)}, without {found.evaluations} evaluations",
        "memory": f"{found.memory / 1e9:.2f} GB at most, over a batch of the longest rows too",
        "disk": f"{found.disk / 1e9:.2f} GB of {found.disk_free / 1e9:.0f} GB free",
    }
    print_facts(open_terminal(), "a dry run; nothing was written", shown)


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def sweep(options: argparse.Namespace, job: Job, watching: Watching) -> None:
    """A run for each rate, in RUN/rate-..., on the same subset; each can be gone on with like any other."""
    from dataclasses import replace

    from runoff.contracts import InputError
    from runoff.distill.rows import split
    from runoff.distill.run import Run, plot

    if watching.metric is None:
        raise InputError(
            "expected held-out queries (or --evaluate) to compare rates by, nothing is evaluated"
        )
    share = job.recipe.subset if options.subset else SWEEP_SUBSET
    out, found = options.out.expanduser(), []
    for rate in dict.fromkeys(options.sweep):
        recipe = replace(job.recipe, learning_rate=rate, subset=share)
        part = split(job.rows, len(job.split.held_out), recipe)
        report = trained(options, replace(job, recipe=recipe, split=part), out / f"rate-{rate:g}", watching)
        last = report.last or {}
        found.append({"learning_rate": rate, "loss": report.loss, str(report.metric): last.get("value")})
    if job.machine.rank:
        return
    metric = str(watching.metric)
    best = max(found, key=lambda entry: entry[metric])
    lines = {
        f"{entry['learning_rate']:g}": Run(out / f"rate-{entry['learning_rate']:g}").lines()
        for entry in found
    }
    plot(lines, out / "sweep.svg", metric)
    if options.json:
        print_json({"rates": found, "best": best["learning_rate"], "metric": metric, "subset": share})
        return
    shown = {
        f"{entry['learning_rate']:g}": f"{metric} {entry[metric]:.4f}, loss {entry['loss']:.4f}"
        for entry in found
    }
    shown["best"] = f"{best['learning_rate']:g}; curves in {out / 'sweep.svg'}"
    print_facts(open_terminal(), f"learning rates on {100 * share:g} % of the queries", shown)
