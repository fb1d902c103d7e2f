"""What `runoff judge` shows a person: a table for each set and retriever, means, and single queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runoff.cli.terminal import Cell, Column, Piece, Terminal

if TYPE_CHECKING:
    from runoff.evaluate.judged import Judged
    from runoff.evaluate.matrix import Judgement

Line = dict[str, Any]


def print_gaps(terminal: Terminal, judged: Judged) -> None:
    """What does not fit together in a set's files."""
    for gap in judged.gaps:
        terminal.line(Piece(f"{judged.name}: ", "bold"), str(gap))


def print_set(terminal: Terminal, judgement: Judgement, lines: Sequence[Line]) -> None:
    """The table of one retriever on one set."""
    line = lines[0]
    asked = f"{line['queries']:,}"
    if line["queries"] < line["queries_judged"]:
        asked += f" of {line['queries_judged']:,}"
    documents = f", {line['documents']:,} documents" if line["documents"] else ""
    terminal.line()
    terminal.line(
        Piece(line["collection"], "bold"),
        f"  {asked} queries{documents}; the first {line['depth']} candidates by {line['first_stage']} hold "
        f"{line['positives_in_lists']:.0%} of the positives",
    )
    if line["queries_without_candidates"]:
        terminal.line(f"{line['queries_without_candidates']:,} queries have no candidates and count 0")
    titles = ("NDCG@10", "difference", "95 % interval", "MRR@10", "ms a query")
    columns = [Column("system"), *(Column(title, is_number=True) for title in titles)]
    times = {point.name: point.milliseconds for point in judgement.points()}
    rows = [_row(line, times.get(line["system"])) for line in lines]
    ceiling: list[Cell] = [
        "best order of these candidates",
        f"{line['ceiling_ndcg_at_10']:.4f}",
        "",
        "",
        "",
        "",
    ]
    terminal.table(columns, [*rows, ceiling])
    shown = set()
    for line in lines:
        for other, value in line["spearman"].items():
            if frozenset((line["system"], other)) not in shown and value is not None:
                shown.add(frozenset((line["system"], other)))
                terminal.line(
                    f"{line['system']} minus {other}: {line['minus'][other]}; Spearman within a query {value:.3f}"
                )


def _called(line: Line) -> str:
    """A system's name in a table: a fused one stands below its model."""
    if line["weight"] is None:
        return str(line["system"])
    return f"  + {line['first_stage']}" + ("" if line["weight"] == 1 else f", weight {line['weight']:g}")


def _row(line: Line, milliseconds: float | None) -> list[Cell]:
    figures: list[Cell] = [_called(line), f"{line['ndcg_at_10']:.4f}"]
    time = "" if milliseconds is None else f"{milliseconds:,.1f}"
    if line["model"] is None:
        return [*figures, "", "", f"{line['mrr_at_10']:.4f}", time]
    low, high = line["minus_first_95"]
    style = "green" if low > 0 else "red" if high < 0 else ""
    mark = "*" if line["is_significant"] else ""
    difference = Piece(f"{line['minus_first']:+.4f}{mark}", style)
    return [*figures, difference, f"{low:+.4f} to {high:+.4f}", f"{line['mrr_at_10']:.4f}", time]


def print_examples(terminal: Terminal, judgement: Judgement, count: int | None) -> None:
    """The queries that each reranker helped and hurt most, with texts."""
    for system in judgement.systems.values() if count else ():
        if not system.is_model_alone:
            continue
        gained, lost = judgement.changes(system.name, count or 0)
        for title, changes in (("gained most", gained), ("lost most", lost)):
            if changes:
                terminal.line()
                terminal.line(Piece(f"{title} by {system.name}", "bold"))
            for change in changes:
                terminal.line(
                    f"{change.before:.2f} -> {change.after:.2f}  {judgement.judged.queries[change.query]}"
                )
                for when, document in (("before", change.first_before), ("after", change.first_after)):
                    if document is not None:
                        grade = judgement.judged.grades[change.query].get(document)
                        about = "not judged" if grade is None else f"grade {grade}"
                        text = judgement.judged.documents[document]
                        terminal.line(f"  {when} ({about}): {text[:100]}{'...' if len(text) > 100 else ''}")


def print_means(terminal: Terminal, lines: Sequence[Line]) -> None:
    """Means over the sets, where there are several; and retrievers beside rerankers, where there are several."""
    sets = list(dict.fromkeys(line["collection"] for line in lines))
    firsts = list(dict.fromkeys(line["first_stage"] for line in lines))
    if len(sets) > 1:
        for first in firsts:
            _print_mean(terminal, [line for line in lines if line["first_stage"] == first], len(sets))
    if len(firsts) > 1:
        _print_matrix(terminal, lines, firsts, len(sets))


def _print_mean(terminal: Terminal, lines: Sequence[Line], sets: int) -> None:
    terminal.line()
    terminal.line(Piece(f"mean of {sets} sets", "bold"), f"  {lines[0]['first_stage']}")
    rows: list[list[Cell]] = []
    for system in dict.fromkeys(line["system"] for line in lines):
        own = [line for line in lines if line["system"] == system]
        means = [
            sum(line[name] for line in own) / sets for name in ("ndcg_at_10", "minus_first", "mrr_at_10")
        ]
        rows.append([_called(own[0]), f"{means[0]:.4f}", f"{means[1]:+.4f}", f"{means[2]:.4f}"])
    titles = ("NDCG@10", "difference", "MRR@10")
    terminal.table([Column("system"), *(Column(title, is_number=True) for title in titles)], rows)


def _print_matrix(terminal: Terminal, lines: Sequence[Line], firsts: Sequence[str], sets: int) -> None:
    terminal.line()
    over = f", mean of {sets} sets" if sets > 1 else ""
    terminal.line(
        Piece("NDCG@10", "bold"), f" of each reranker over each retriever{over}; * differs from it surely"
    )
    # Titles as wide as there is room for beside 24 letters of a reranker's name; a figure takes 7.
    room = max(7, (terminal.width - 28) // len(firsts) - 3)
    titles = [first if len(first) <= room else first[: room - 1] + "…" for first in firsts]
    columns = [Column("reranker"), *(Column(title, is_number=True) for title in titles)]
    models = list(dict.fromkeys(line["model"] for line in lines if line["weight"] is None))
    rows: list[list[Cell]] = []
    for model in models:
        row: list[Cell] = [model or "none"]
        for first in firsts:
            own = [
                line
                for line in lines
                if (line["first_stage"], line["model"], line["weight"]) == (first, model, None)
            ]
            mark = "*" if model and len(own) == 1 and own[0]["is_significant"] else ""
            row.append(f"{sum(line['ndcg_at_10'] for line in own) / len(own):.4f}{mark}" if own else "")
        rows.append(row)
    terminal.table(columns, rows)
