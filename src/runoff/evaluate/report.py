"""Judgements -> report.md, report.json and report.html, one page that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from runoff.data.atomic import replace_file
from runoff.evaluate.charts import bars, depth_curves, panels, quality_against_time
from runoff.evaluate.matrix import Change, Judgement, System
from runoff.evaluate.measures import pareto_front

Line = Mapping[str, Any]
Rows = Sequence[Sequence[str]]
SHOWN = ("ndcg@10", "mrr@10", "map@100", "recall@100", "precision@10", "success@1")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: right; border-bottom: 1px solid #e4e7eb; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; }
th { font-weight: 600; color: #52606d; } .note { color: #52606d; } .wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
"""


def write_report(folder: Path, judgements: Sequence[Judgement], lines: Sequence[Line], examples: int) -> None:
    """Writes the three files into the folder, each whole or not at all. `examples`: queries shown that a reranker
    helped most, and as many that it hurt most."""
    replace_file(folder / "report.json", _as_json(judgements, lines))
    replace_file(folder / "report.md", _as_markdown(judgements, lines, examples))
    replace_file(folder / "report.html", _as_html(judgements, lines, examples))


def _as_json(judgements: Sequence[Judgement], lines: Sequence[Line]) -> str:
    """The lines, and NDCG@10 of each query."""
    queries = [
        {
            "collection": each.judged.name,
            "first_stage": each.first,
            "system": system.name,
            "ndcg_at_10": dict(zip(each.queries, [round(float(v), 6) for v in system.ndcg], strict=True)),
        }
        for each in judgements
        for system in each.systems.values()
    ]
    return json.dumps({"systems": list(lines), "queries": queries}, ensure_ascii=False, indent=1) + "\n"


# --- tables ----------------------------------------------------------------------------------------------


def _verdict(judgement: Judgement) -> str:
    """Whether reranking is worth it here, in a sentence."""
    systems = [system for system in judgement.systems.values() if system.model is not None]
    if not systems:
        return f"{judgement.first} alone reaches {judgement.systems[judgement.first].ndcg.mean():.4f}."
    best = max(systems, key=lambda system: float(system.ndcg.mean()))
    gain = judgement.difference(best.name)
    if not gain.is_significant:
        word = "No system surely differs from the retriever alone" if gain.mean > 0 else "No reranker helps"
        return f"{word}: the best, {best.name}, {gain}. {len(judgement.queries)} queries can show no more."
    if gain.mean < 0:
        return f"Reranking hurts: even the best, {best.name}, {gain}."
    share = gain.mean / max(
        1e-9, float((judgement.ceiling["ndcg@10"] - judgement.systems[judgement.first].ndcg).mean())
    )
    return f"Reranking helps: {best.name} {gain}, {share:.0%} of what the best order of these candidates would add."


def _systems_table(judgement: Judgement) -> tuple[Sequence[str], Rows]:
    times = {point.name: f"{point.milliseconds:,.1f}" for point in judgement.points()}
    rows = []
    for system in judgement.systems.values():
        against = "" if system.model is None else str(judgement.difference(system.name))
        figures = [f"{system.figures[name].mean():.4f}" for name in SHOWN]
        rows.append([system.name, *figures, against, times.get(system.name, "")])
    ceiling = [f"{judgement.ceiling[name].mean():.4f}" for name in SHOWN]
    rows.append(["best order of these candidates", *ceiling, "", ""])
    titles = ["system", *(_title(name) for name in SHOWN), "NDCG@10 against the retriever", "ms a query"]
    return titles, rows


def _title(name: str) -> str:
    measure, cut = name.split("@")
    return f"{measure.upper() if len(measure) < 5 else measure.capitalize()}@{cut}"


def _curve_table(judgement: Judgement) -> tuple[Sequence[str], Rows]:
    depths = sorted({depth for curve in judgement.curves.values() for depth in curve})
    rows = [
        [name, *(f"{curve[depth].mean():.4f}" if depth in curve else "" for depth in depths)]
        for name, curve in judgement.curves.items()
    ]
    return ["reranked candidates", *(f"{depth}" for depth in depths)], rows


def _pair_table(judgement: Judgement) -> tuple[Sequence[str], Rows]:
    """Each system against each that stands below it."""
    names = list(judgement.systems)[1:]
    rows = [
        [f"{one} minus {other}", str(judgement.difference(one, other))]
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    ]
    return ["difference of NDCG@10", "mean (95 % interval)"], rows


def _front_table(judgement: Judgement) -> tuple[Sequence[str], Rows]:
    rows = [[p.name, f"{p.milliseconds:,.1f}", f"{p.figure:.4f}"] for p in pareto_front(judgement.points())]
    return ["no other is as fast and better", "ms a query", "NDCG@10"], rows


def _changes(judgement: Judgement, system: System, count: int) -> tuple[Sequence[str], Rows]:
    gained, lost = judgement.changes(system.name, count)
    rows = [
        [
            judgement.judged.queries[change.query] or change.query,
            f"{change.before:.2f}",
            f"{change.after:.2f}",
            _first(judgement, change, change.first_before),
            _first(judgement, change, change.first_after),
        ]
        for change in [*gained, *lost]
    ]
    return ["query", "before", "after", "first before", "first after"], rows


def _first(judgement: Judgement, change: Change, document: str | None) -> str:
    if document is None:
        return ""
    text = judgement.judged.documents.get(document, document)
    grade = judgement.judged.grades[change.query].get(document)
    return f"[{'not judged' if grade is None else f'grade {grade}'}] {text[:140]}{'...' if len(text) > 140 else ''}"


def _tables(judgement: Judgement, examples: int) -> Iterator[tuple[str, tuple[Sequence[str], Rows]]]:
    """(title, (columns, rows)) of everything about one retriever on one set."""
    yield "", _systems_table(judgement)
    if judgement.curves:
        yield "By depth", _curve_table(judgement)
    if len(judgement.systems) > 2:
        yield "Between systems", _pair_table(judgement)
    if judgement.milliseconds is not None and judgement.curves:
        yield "Quality and time", _front_table(judgement)
    for system in judgement.systems.values():
        if system.is_model_alone and judgement.judged.has_texts and examples:
            yield f"Queries that {system.name} changed most", _changes(judgement, system, examples)


def _heading(judgement: Judgement) -> str:
    line = judgement.facts()
    return (
        f"{line['queries']:,} of {line['queries_judged']:,} queries, {line['documents']:,} documents. The first "
        f"{line['depth']} candidates by {judgement.first} hold {line['positives_in_lists']:.0%} of the positives."
        + (
            f" {empty:,} queries have none and count 0."
            if (empty := line["queries_without_candidates"])
            else ""
        )
    )


def _about(lines: Sequence[Line]) -> Iterator[str]:
    for name in ("command", "date"):
        if name in lines[0]:
            yield f"{name}: {lines[0][name]}"
    if "machine" in lines[0]:
        machine = lines[0]["machine"]
        yield "machine: " + (
            ", ".join(map(str, machine.values())) if isinstance(machine, Mapping) else str(machine)
        )
    yield (
        "NDCG, MRR, MAP, recall, precision and success are pytrec_eval's, the ideal order over all judgements. "
        "Intervals are 95 %, by paired bootstrap over the queries; * marks those on one side of 0."
    )


# --- Markdown --------------------------------------------------------------------------------------------


def _as_markdown(judgements: Sequence[Judgement], lines: Sequence[Line], examples: int) -> str:
    parts = ["# Is reranking worth it?\n"]
    for each in judgements:
        parts.append(f"## {each.judged.name}, {each.first}\n")
        parts.append(_heading(each) + "\n")
        parts += [f"- {gap}\n" for gap in each.judged.gaps]
        parts.append(f"**{_verdict(each)}**\n")
        for title, (columns, rows) in _tables(each, examples):
            if title:
                parts.append(f"### {title}\n")
            parts.append(_markdown_table(columns, rows))
    parts.append("## How\n")
    parts += [f"- {said}" for said in _about(lines)]
    return "\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[str], rows: Rows) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    rule = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([row(columns), rule, *map(row, rows)]) + "\n"


# --- HTML ------------------------------------------------------------------------------------------------


def _as_html(judgements: Sequence[Judgement], lines: Sequence[Line], examples: int) -> str:
    found = panels(judgements)
    parts = ["<h1>Is reranking worth it?</h1>"]
    parts += [
        f"<p><b>{escape(each.judged.name)}, {escape(each.first)}:</b> {escape(_verdict(each))}</p>"
        for each in judgements
    ]
    if any(panel.rerankers for panel in found):
        over = len({each.judged.name for each in judgements})
        means = f" (means over {over} sets)" if over > 1 else ""
        parts.append(f"<h2>Each reranker over each retriever{means}</h2>")
        parts.append("<p class=note>Dashed: the retriever alone.</p>" + bars(found))
        parts.append("<h2>How deep</h2>" + depth_curves(found))
        parts.append("<h2>Quality against time</h2>")
        parts.append(
            "<p class=note>Joined: nothing else is as fast and better.</p>" + quality_against_time(found)
        )
    for each in judgements:
        parts.append(f"<h2>{escape(each.judged.name)}, {escape(each.first)}</h2>")
        parts.append(f"<p>{escape(_heading(each))}</p>")
        parts += [f"<p class=note>{escape(str(gap))}</p>" for gap in each.judged.gaps]
        for title, (columns, rows) in _tables(each, examples):
            parts.append(f"<h3>{escape(title)}</h3>" if title else "")
            parts.append(_html_table(columns, rows))
    parts.append("<h2>How</h2>")
    parts += [f"<p class=note>{escape(said)}</p>" for said in _about(lines)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Is reranking worth it?</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _html_table(columns: Sequence[str], rows: Rows) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="text"' if len(text) > 40 else ""
    return f"<td{kind}>{escape(text)}</td>"
