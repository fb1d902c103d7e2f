"""The model card of a published run. Every figure comes from the run's files, the judged results or a measurement."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runoff.calibration.stored import Calibration
from runoff.contracts import InputError
from runoff.publish.export import Verified
from runoff.publish.figures import Line, circumstances, commands, correlations, figures_table

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TAGS = ("sentence-transformers", "cross-encoder", "reranker", "runoff")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says. `name`: a hub id, or the folder's name; `source_name` is the run's folder, `run` its manifest,
    `rows` the manifest of what it was trained on, `int8` what `runoff quantize` answered (of `int8_name`)."""

    name: str
    source_name: str
    run: Mapping[str, Any]
    precision: str
    megabytes: float
    max_length: int | None
    activation: str
    verified: Verified
    digests: Mapping[str, str]
    version: str
    command: str
    licence: str | None = None
    language: str | None = None
    base_model: str | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)
    judged: Sequence[Line] = ()
    judges_run_weights: bool = False
    has_curves: bool = False
    int8: Mapping[str, Any] | None = None
    int8_name: str = ""
    calibration: Calibration | None = None

    @property
    def short_name(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def backbone(self) -> str:
        """What it was trained from, by its name on the hub where that is known."""
        return self.base_model or str(self.run["backbone"].get("name") or "an encoder")


def model_card(facts: Facts) -> str:
    """README.md of the published model."""
    sections = [
        _front_matter(facts),
        _opening(facts),
        _usage(facts),
        _probabilities(facts),
        _judged(facts),
        _training(facts),
        _rows(facts),
        _exactness(facts),
        _int8(facts),
        _repeat(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: Facts) -> str:
    """Only what is known: no licence that nobody stated, no base model that is a folder of one machine."""
    keys: dict[str, Any] = {
        "license": facts.licence,
        "language": facts.language,
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "base_model": facts.base_model,
        "datasets": sorted({row["dataset"] for row in subsets(facts.rows, facts.run) if row["dataset"]}),
        "tags": list(_TAGS),
    }
    lines = []
    for key, value in keys.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_plain(each, key)}" for each in value)] if value else []
        elif value:
            lines.append(f"{key}: {_plain(value, key)}")
    return "\n".join(["---", *lines, "---"])


def _plain(value: str, key: str) -> str:
    """A value that YAML reads as the text that it is."""
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*", value):
        raise InputError(f"expected letters, digits, dots, dashes and slashes as {key}, got {value!r}")
    # "no" is Norwegian, and false.
    return (
        json.dumps(value) if value.lower() in ("no", "yes", "on", "off", "true", "false", "null") else value
    )


def _opening(facts: Facts) -> str:
    limit = "" if facts.max_length is None else f", pairs of up to {facts.max_length:,} tokens"
    return f"""# {facts.short_name}

A reranker: it reads a query and a document together and gives one score, higher for a better answer.
{facts.run["parameters"] / 1e6:.1f}M parameters, {facts.megabytes:.1f} MB in {facts.precision}{limit}. Trained from
`{facts.backbone}` with Runoff {facts.run["versions"].get("runoff", facts.version)}."""


def _usage(facts: Facts) -> str:
    kind = (
        "The scores are raw, with no activation: compare them within one query only."
        if facts.activation == "identity"
        else f"The scores come out of the activation `{facts.activation}`: compare them within one query only."
    )
    return f"""## Use it

```python
from runoff import CrossEncoder  # or: from sentence_transformers import CrossEncoder

model = CrossEncoder("{facts.name}")
documents = ["Bees make honey out of nectar.", "The hive was painted last summer."]
for result in model.rank("how is honey made", documents, return_documents=True):
    print(result["score"], result["text"])
```

{kind}"""


def _probabilities(facts: Facts) -> str:
    if facts.calibration is None:
        return ""
    on = facts.calibration.fitted_on
    return f"""## Probabilities

`calibration.json` turns raw scores into probabilities of relevance ({facts.calibration.method}); in Runoff
`model.rank(query, documents, threshold=0.5)` keeps what is at least so probable. sentence-transformers leaves it aside.
Fitted on {", ".join(on.names) or "pairs"}: {on.pairs:,} pairs of {on.queries:,} queries, {on.relevant:,} of them
relevant ({on.relevance}). The expected calibration error is {on.ece_after:.4f} on queries held out ({on.ece_before:.4f}
for a sigmoid of the raw score), the Brier score {on.brier_after:.4f} ({on.brier_before:.4f}). In another collection,
or among other candidates, it is another."""


def _judged(facts: Facts) -> str:
    if not facts.judged:
        return ""
    depth = ", ".join(str(each) for each in dict.fromkeys(line["depth"] for line in facts.judged))
    parts = [
        f"""## How good it is

NDCG@10 of the first stage's {depth} candidates in its own order, in the model's, and by the sum of both
z-scores (+). In brackets the 95 % interval of the difference from the first stage, by paired bootstrap over the
queries.

{figures_table(facts.judged, facts.short_name)}""",
        "\n".join(correlations(facts.judged)),
        f"Judged in {circumstances(facts.judged)}"
        + (", with the run's fp32 weights, before they were rounded." if facts.judges_run_weights else "."),
    ]
    return "\n\n".join(part for part in parts if part)


def _start(facts: Facts) -> list[tuple[str, str]]:
    """What the run itself started from, where that is not what it says it was trained from: a reranker gone on with."""
    found = facts.run["backbone"]
    name = str(found.get("name") or "")
    if facts.base_model is None or not name or name == facts.base_model:
        return []
    digest = str(found.get("sha256") or "")
    return [("start", f"`{name}`" + (f", weights' SHA-256 {digest[:16]}..." if digest else ""))]


def _training(facts: Facts) -> str:
    run = facts.run
    rows = [("backbone", facts.backbone), *_start(facts)]
    rows += [
        (key.replace("_", " "), _said(value))
        for key, value in run["recipe"].items()
        if key != "backbone" and value not in (None, [], "", 0)
    ]
    rows += [
        ("steps", f"{run['steps']:,}"),
        ("pairs", f"{run['pairs']:,}"),
        ("tokens", f"{run['tokens']:,}"),
        (
            "time",
            f"{duration(run['seconds'])} ({run['pairs'] / max(run['seconds'], 1e-9):,.1f} pairs a second)",
        ),
        ("trained parameters", _said(run.get("trained_parameters"))),
        ("arithmetic", _said(run.get("precision"))),
        ("machine", _said({key: value for key, value in run["machine"].items() if key != "flags"})),
        ("versions", _said(run["versions"])),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows if value)])
    return f"## Training\n\n{table}\n\n{_evaluations(facts)}"


def _evaluations(facts: Facts) -> str:
    run, metric = facts.run, facts.run.get("metric")
    best, last = run.get("best"), run.get("last")
    if not metric or not best or not last:
        return "Nothing was evaluated on the way; the model is that of the last step."
    text = (
        f"`{metric}` was best at step {best['step']:,} with {best['value']:.4f}, and {last['value']:.4f} at the last "
        f"evaluation, step {last['step']:,}; the {run['chosen']} one is published."
    )
    evaluations = {each["step"]: each["metrics"] for each in run["evaluations"]}
    names = list(dict.fromkeys(name for metrics in evaluations.values() for name in metrics))
    shown = sorted({min(evaluations, default=0), best["step"], last["step"]} & evaluations.keys())
    if shown:
        cells = (
            f"| {step:,} | {' | '.join(_number(evaluations[step].get(name)) for name in names)} |"
            for step in shown
        )
        head = [f"| step | {' | '.join(names)} |", f"|---:|{'---:|' * len(names)}"]
        text += "\n\n" + "\n".join([*head, *cells])
    return text + (
        "\n\n![Loss, learning rate and evaluations over the steps](curves.svg)" if facts.has_curves else ""
    )


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else ""


def _rows(facts: Facts) -> str:
    parts = ["## Data"]
    if counts := _said(facts.run["rows"].get("counts") or {}):
        parts.append(f"`{facts.run['rows'].get('folder', 'rows')}`: {counts}.")
    if found := subsets(facts.rows, facts.run):
        lines = ["| subset | from | rows taken | held out | licence |", "|---|---|---:|---:|---|"]
        for row in found:
            taken, held_out = (_count(row[key]) for key in ("taken", "held_out"))
            licence = row["licence"] or "not stated"
            lines.append(f"| {row['name']} | {row['source']} | {taken} | {held_out} | {licence} |")
        parts.append("\n".join(lines))
    else:
        parts.append("\n".join(_teachers(facts.run)))
    parts = [part for part in parts if part]
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def subsets(manifest: Mapping[str, Any], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, source, hub dataset, rows and licence of each subset of a mixture; without its manifest, what the run
    knows. Empty where nothing was mixed."""
    identity = (run["rows"].get("identity") or {}).get("mixture") or {}
    mixture = manifest.get("mixture") or identity
    counted = manifest.get("subsets") or {}
    found = []
    for subset in mixture.get("subsets") or ():
        record = counted.get(subset["name"], {})
        found.append(
            {
                "name": subset["name"],
                "source": subset.get("dataset") or subset.get("folder") or "",
                "dataset": subset.get("dataset"),
                "taken": record.get("taken"),
                "held_out": record.get("held_out"),
                "licence": record.get("licence") or subset.get("licence"),
            }
        )
    return found


def _teachers(run: Mapping[str, Any]) -> Iterator[str]:
    """A line for each part of the labels, where they were made by `runoff label`."""
    identity = run["rows"].get("identity") or {}
    for part in identity.get("scores") or ():
        said = _said({key: value for key, value in part.items() if key not in ("folder", "candidates")})
        yield f"- Labels from `{part.get('folder', 'scores')}`: {said}"
    for column, weight in (identity.get("columns") or {}).items():
        yield f"- Labels from the column `{column}`, weight {weight:g}"
    if identity.get("positive_bonus"):
        yield f"- A judged answer gets {identity['positive_bonus']:g} on top"


def _exactness(facts: Facts) -> str:
    verified = facts.verified
    digests = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in facts.digests.items())
    return f"""## The files

Loaded in sentence-transformers and compared with the run's own fp32 model on {verified.pairs} pairs, whose
scores spread by {verified.spread:.4g}: the largest difference is {verified.from_run:.3g}, the noise (spread of the
differences over that of the scores) {verified.noise:.2g}. Runoff's scores differ from sentence-transformers' by
{verified.between_programs:.2g} at most.

| weights | SHA-256 |
|---|---|
{digests}"""


def _int8(facts: Facts) -> str:
    if facts.int8 is None:
        return ""
    measured = facts.int8["measured"]
    return f"""## In int8

`{facts.int8_name}` is the same model for Runoff on a CPU: {facts.int8["bytes_after"] / 1e6:.1f} MB,
{facts.int8["matrices"]["int8"]} matrices in int8 and {facts.int8["matrices"]["16 bits"]} in 16 bits. Compared with
fp32 on {measured["on"]}: noise {measured["noise"]:.4f}, Spearman's rank correlation {measured["spearman"]:.5f},
largest difference {measured["largest_difference"]:.4f}."""


def _repeat(facts: Facts) -> str:
    """The command lines that are known from the files."""
    lines = [str(facts.run["command"])] if facts.run.get("command") else []
    lines += [*commands(facts.judged), facts.command]
    listed = "\n".join(lines)
    return f"""## Repeat it

```
{listed}
```

The rows and the recipe above decide the run `{facts.source_name}`; `runoff_published.json` has all of it for
programs."""


def duration(seconds: float) -> str:
    """ "50 s", "12 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _said(value: Any) -> str:
    """A value of a manifest in words; of a mapping its scalars and short lists."""
    if isinstance(value, Mapping):
        parts = ((str(key).replace("_", " "), _said(each)) for key, each in value.items() if each is not None)
        return ", ".join(f"{key} {said}" for key, said in parts if said)
    if isinstance(value, (list, tuple)):
        return " ".join(_said(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value or "").replace("|", "/").replace("\n", " ")
