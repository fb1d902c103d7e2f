"""What a search found, as a person or a program reads it: before and after, passages, places, timings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runoff.cli.terminal import Cell, Column, Piece, Terminal, paragraph

if TYPE_CHECKING:
    from runoff.contracts import Hit
    from runoff.search.pipeline import SearchResult

STAGES = {"bm25": "BM25", "dense": "vectors", "fusion": "BM25 + vectors"}
PASSAGE_LINES = 3


def first_stage(result: SearchResult) -> str:
    """The name under which the first stage's scores stand in a hit."""
    stages = result.before[0].scores if result.before else {}
    return "fusion" if "fusion" in stages else next(iter(stages), "retrieve")


def print_ranking(terminal: Terminal, result: SearchResult, model: str | None) -> None:
    """A row per place: who had it before, who has it after, with both scores; without `model` just the hits."""
    if not result.hits:
        terminal.line("nothing found: no document shares a word with the query, or matches the filter")
        return
    stage = STAGES.get(first_stage(result), "first stage")
    number, score = Column("#", is_number=True, style="dim"), Column("score", is_number=True)
    if model is None:
        rows: list[list[Cell]] = [[str(hit.rank), _score(hit), _name(hit)] for hit in result.hits]
        terminal.table([number, score, Column(stage, share=1)], rows)
        return
    after = f"after: {_short(model)}" + (" + first stage" if "final" in result.hits[0].scores else "")
    columns = [number, Column(f"before: {stage}", share=1), score, Column(after, share=1), score]
    has_probabilities = "probability" in result.hits[0].scores
    columns += [Column("probability", is_number=True)] if has_probabilities else []
    was = {hit.id: hit.rank for hit in result.before}
    rows = [
        [
            str(hit.rank),
            Piece(_label(before), "dim"),
            Piece(_score(before), "dim"),
            _name(hit),
            _score(hit),
            *([f"{hit.scores['probability']:.3f}"] if has_probabilities else []),
            _moved(was[hit.id], hit.rank),
        ]
        for before, hit in zip(result.before, result.hits, strict=False)
    ]
    terminal.table([*columns, Column("rank", style="")], rows)


def print_passages(terminal: Terminal, hits: list[Hit], lines: int = PASSAGE_LINES) -> None:
    """Each hit's text, under where it comes from."""
    for hit in hits:
        where = ", ".join(part for part in (hit.source, hit.place) if part)
        head: list[str | Piece] = [Piece(f"{hit.rank:>3}  ", "dim")]
        head += [Piece(_one_line(hit.title), "bold"), "  "] if hit.title else []
        head += [Piece(hit.id, "cyan")] if hit.id != hit.title else []
        terminal.line(*head, Piece(f"  {where}" if where else "", "dim"))
        paragraph(terminal, _body(hit), indent=5, lines=lines)


def print_timings(terminal: Terminal, timings: dict[str, float]) -> None:
    """One line, such as "load 0.41 s · retrieve 16 ms · rerank 1.20 s · total 1.63 s"."""
    shown = " · ".join(f"{stage} {duration(value)}" for stage, value in timings.items())
    terminal.line(Piece(shown, "dim"))


def duration(milliseconds: float) -> str:
    """ "16 ms", "1.20 s"."""
    return f"{milliseconds:.0f} ms" if milliseconds < 100 else f"{milliseconds / 1e3:.2f} s"


def result_record(result: SearchResult, top_k: int, timings: dict[str, float]) -> dict[str, Any]:
    """A result for JSON: the hits with all that is known of them, and the first stage's best."""
    return {
        "query": result.query.text,
        "id": result.query.id,
        "hits": [_hit_record(hit) for hit in result.hits],
        "before": [{"rank": hit.rank, "id": hit.id, "score": hit.score} for hit in result.before[:top_k]],
        "timings_ms": {stage: round(value, 2) for stage, value in timings.items()},
    }


def _hit_record(hit: Hit) -> dict[str, Any]:
    names = ("rank", "id", "score", "title", "text", "source", "place", "metadata", "scores", "ranks")
    return {name: getattr(hit, name) for name in names}


def _moved(was: int, now: int) -> Piece:
    if was == now:
        return Piece(f"= {now}", "dim")
    sign, style = ("▲", "green") if now < was else ("▼", "red")
    return Piece(f"{sign} {was} → {now}", style)


def _name(hit: Hit) -> Piece:
    return Piece(_label(hit), "bold" if hit.rank == 1 else "")


def _label(hit: Hit) -> str:
    """A title, or the beginning of the text where there is none."""
    return _one_line(hit.title or hit.text or hit.id)


def _body(hit: Hit) -> str:
    """The text without the title that stands in front of it."""
    text = hit.text or ""
    return text.removeprefix(hit.title).lstrip() if hit.title else text


def _one_line(text: str) -> str:
    # A table cuts it to its column; a line needs no more than this.
    return " ".join(text[:300].split())


def _score(hit: Hit) -> str:
    return f"{hit.score:.3f}"


def _short(model: str) -> str:
    """A model's name without the folders or the organisation before it."""
    return model.rstrip("/").rpartition("/")[2]
