"""Result lines of races -> Markdown: who is how fast, what each engine took, and who was left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runoff.bench.published import ABLATION, H100, SOURCE, THROUGHPUT, machine_for
from runoff.bench.record import Row
from runoff.bench.shapes import SHAPES
from runoff.bench.specs import BASELINE, ENGINES, is_ours

MIB_A_GB = 1e9 / 2**20


def race_page(rows: Sequence[Row]) -> str:
    """The page of one race: lines of one machine and form."""
    measured = [row for row in rows if "pairs_a_second" in row]
    if not measured:
        return "\n\n".join(["# Race", "Nothing could be measured.", left_out(rows)]) + "\n"
    is_ablation = rows[0]["settings"]["form"] == "ablation"
    parts = ["# Race", circumstances(measured)]
    parts += [ablation(rows)] if is_ablation else [summary(measured)]
    for model in models_of(measured):
        here = [row for row in measured if row["settings"]["model"] == model]
        parts.append(f"## {model}\n\n{of_model(here)}")
    parts += [operations(measured), left_out(rows), LEGEND]
    return "\n\n".join(part for part in parts if part) + "\n"


LEGEND = """\
pairs/s: the median of the timed passes, tokenisation included. spread: slowest less fastest pass over the median.
x ST fp32: over sentence-transformers in fp32 with SDPA at its best batch, of the same race. x best: over the fastest
other engine that is not Runoff. ids: pairs/s where the documents' token ids are given. tokenise: seconds of tokenising
all pairs alone. peak: of device memory on a GPU, of the process on a CPU. Spearman, max diff: with the scores of
sentence-transformers in fp32, or where it did not run of the numpy engine, on the first 64 pairs."""


def circumstances(rows: Sequence[Row]) -> str:
    """Machine, pairs, weights, command and date of a race, in a few sentences."""
    first = rows[-1]
    settings = first["settings"]
    pairs = "; ".join(dict.fromkeys(_pairs(row) for row in rows))
    lines = [
        f"{machine(first)}, {settings['threads']} threads, max_length {settings['max_length']}; "
        f"{settings['passes']} timed passes after a warm-up, taken in turn on a CPU.",
        f"Pairs: {pairs}.",
    ]
    if random := [model for model in models_of(rows) if _weights(rows, model) == "random"]:
        lines.append(
            f"Random weights in the true shape, since the published ones were not to be had: {', '.join(random)}."
        )
    if found := {model: _weights(rows, model) for model in models_of(rows) if model not in random}:
        lines.append("Weights: " + ", ".join(f"{model} {commit}" for model, commit in found.items()) + ".")
    lines.append(f"`{first['command']}`, {first['date']}.")
    return "\n".join(lines)


def machine(row: Row) -> str:
    about = row["machine"]
    gpu = row.get("about", {}).get("gpu")
    cpu = f"{about['cpu']}, {about['cores']} cores"
    return f"{gpu} ({cpu})" if gpu else cpu


def _pairs(row: Row) -> str:
    source = row["settings"]["source"]
    kind = {"stand-in": "made with the lengths of natural-questions"}.get(source, f"of {source}")
    lengths = f"mean {row['mean_tokens']:.0f} tokens, median {row['median_tokens']:.0f}, at most {row['most_tokens']}"
    return f"{row['pairs']:,} {kind} ({lengths})"


def _weights(rows: Iterable[Row], model: str) -> str:
    return next(str(row["settings"]["weights"]) for row in rows if row["settings"]["model"] == model)


def models_of(rows: Iterable[Row]) -> list[str]:
    """Models in the order of the published tables, others behind them."""
    names = list(dict.fromkeys(row["settings"]["model"] for row in rows))
    order = list(SHAPES)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def summary(rows: Sequence[Row]) -> str:
    """A line for each model: Runoff's best, the best other, sentence-transformers in fp32, the article's figure."""
    machine_there = machine_for(str(rows[-1].get("about", {}).get("gpu", "")), rows[-1]["settings"]["device"])
    head = [
        "model",
        "Runoff",
        "pairs/s",
        "best other",
        "pairs/s",
        "times",
        "ST fp32",
        "times",
        f"article, {machine_there}",
    ]
    body = []
    for model in models_of(rows):
        here = [row for row in rows if row["settings"]["model"] == model]
        ours = _best([row for row in here if is_ours(row["settings"]["engine"])])
        other = _best([row for row in here if not is_ours(row["settings"]["engine"])])
        base = _best([row for row in here if row["settings"]["engine"] == BASELINE])
        body.append(
            [
                model,
                _label(ours).removeprefix("Runoff "),
                _rate(ours),
                _label(other),
                _rate(other),
                _times(ours, other),
                _rate(base),
                _times(ours, base),
                shown(THROUGHPUT[machine_there].get(model), ",.4g"),
            ]
        )
    return f"## Throughput\n\n{table(head, body, texts=(0, 1, 3))}"


def of_model(rows: Sequence[Row]) -> str:
    """Every engine of one model, the fastest on top."""
    head = [
        "engine",
        "attention",
        "batch",
        "pairs/s",
        "spread",
        "x ST fp32",
        "x best",
        "ids",
        "tokenise",
        "peak MiB",
    ]
    head += ["Spearman", "max diff", "W", "pairs/J"]
    base = _best([row for row in rows if row["settings"]["engine"] == BASELINE])
    body = []
    for row in sorted(rows, key=lambda row: -row["pairs_a_second"]):
        others = [each for each in rows if not is_ours(each["settings"]["engine"]) and each is not row]
        size = "its own" if row["size"] is None else f"{row['size']:,} {row['unit']}"
        body.append(
            [
                _label(row),
                row["attention"],
                size,
                _rate(row),
                f"{row['spread']:.1%}",
                _times(row, base),
                _times(row, _best(others)),
                shown(row["pairs_a_second_of_ids"], ",.4g"),
                shown(row["tokenize_seconds"], ".3g"),
                shown(row["peak_mib"], ",.0f"),
                shown(row.get("spearman"), ".4f"),
                shown(row.get("max_difference"), ".2g"),
                shown(row["watts"], ".0f"),
                shown(row["pairs_a_joule"], ".3g"),
            ]
        )
    ended = [f"- {_label(row)}: {row['ended']}." for row in rows if row.get("ended")]
    notes = "\n\nWhere doubling the batch ended early:\n\n" + "\n".join(ended) if ended else ""
    return table(_without_empty(head, body), body, texts=(0, 1, 2)) + notes


def _without_empty(head: list[str], body: list[list[str]]) -> list[str]:
    """The head without columns that say nothing in any line; takes them out of `body` too."""
    empty = [place for place in range(len(head)) if all(line[place] == "" for line in body)]
    for line in body:
        line[:] = [cell for place, cell in enumerate(line) if place not in empty]
    return [cell for place, cell in enumerate(head) if place not in empty]


def ablation(rows: Sequence[Row]) -> str:
    """Precision x attention: pairs a second and peak memory in GB, a column for each model."""
    models = models_of(rows)
    found = {(row["settings"]["engine"], row["settings"]["model"]): row for row in rows}
    body = []
    for engine in dict.fromkeys(row["settings"]["engine"] for row in rows):
        spec = ENGINES[engine]
        cells = [_cell(found.get((engine, model))) for model in models]
        body.append([spec.label, spec.precision, spec.attention, *cells])
        if engine in ABLATION and any(model in ABLATION[engine][0] for model in models):
            rates, peaks = ABLATION[engine]
            told = [_told(rates.get(model), peaks.get(model)) for model in models]
            body.append([f"{SOURCE}, {H100}", spec.precision, spec.attention, *told])
    head = ["engine", "precision", "attention", *models]
    return f"## Precision and attention\n\nPairs a second (peak GB).\n\n{table(head, body, texts=(0, 1, 2))}"


def _cell(row: Row | None) -> str:
    if row is None or "pairs_a_second" not in row:
        return "left out"
    return _told(row["pairs_a_second"], None if row["peak_mib"] is None else row["peak_mib"] / MIB_A_GB)


def _told(rate: float | None, peak: float | None) -> str:
    return "" if rate is None else f"{rate:,.4g}" + ("" if peak is None else f" ({peak:.1f})")


def operations(rows: Sequence[Row]) -> str:
    """What a pair costs and what share of the device's peak was reached, for each model's best engine."""
    body = []
    for model in models_of(rows):
        best = _best([row for row in rows if row["settings"]["model"] == model and row["gflops_a_pair"]])
        if best is None:
            continue
        share = "" if best["utilisation"] is None else f"{best['utilisation']:.1%}"
        peak = shown(best["peak_tflops"], ",.4g")
        body.append(
            [
                model,
                f"{best['parameters'] / 1e6:,.1f}",
                f"{best['gflops_a_pair']:,.4g}",
                f"{best['gflops_needed_a_pair']:,.4g}",
                _label(best),
                f"{best['tflops']:.4g}",
                peak,
                share,
            ]
        )
    if not body:
        return ""
    head = [
        "model",
        "parameters, M",
        "GFLOP a pair",
        "needed",
        "fastest engine",
        "TFLOP/s",
        "peak",
        "utilisation",
    ]
    return (
        "## Operations\n\nOf the model: every token through every layer, attention as far as each layer sees. Needed: "
        "the same with one token in the last layer, where one is pooled.\n\n"
        + table(_without_empty(head, body), body, texts=(0, 4))
    )


def left_out(rows: Iterable[Row]) -> str:
    """Which engines did not run which model, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if why := row.get("left_out"):
            settings = row["settings"]
            reasons.setdefault(f"{ENGINES[settings['engine']].label}: {why}", []).append(settings["model"])
    if not reasons:
        return ""
    return "## Left out\n\n" + "\n".join(f"- {why} ({', '.join(models)})" for why, models in reasons.items())


# --- pieces ----------------------------------------------------------------------------------------------


def _best(rows: Sequence[Row]) -> Row | None:
    return max(rows, key=lambda row: row["pairs_a_second"], default=None)


def _label(row: Row | None) -> str:
    return "" if row is None else ENGINES[row["settings"]["engine"]].label


def _rate(row: Row | None) -> str:
    return "" if row is None else f"{row['pairs_a_second']:,.4g}"


def _times(row: Row | None, other: Row | None) -> str:
    return "" if row is None or other is None else f"{row['pairs_a_second'] / other['pairs_a_second']:.2f}"


def shown(value: Any, form: str = ".2f") -> str:
    """A number in that form; nothing for None."""
    return "" if value is None else f"{value:{form}}"


def table(head: Sequence[str], body: Iterable[Sequence[str]], texts: Sequence[int] = (0,)) -> str:
    """A Markdown table; columns other than `texts` hold numbers."""
    rule = ["---" if place in texts else "---:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])
