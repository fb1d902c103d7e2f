"""What a card says of judged lines and of a run's manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runoff.contracts import InputError
from runoff.publish.card import duration
from runoff.publish.figures import circumstances, commands, correlations, figures_table, read_figures
from runoff.publish.run import without_places

OWN, OTHER = {"model.safetensors": "aa"}, {"model.safetensors": "bb"}


def line(
    system: str, model: str | None = None, weight: float | None = None, **changes: Any
) -> dict[str, Any]:
    return {
        "collection": "house",
        "system": system,
        "model": model,
        "weight": weight,
        "first_stage": "bm25",
        "ndcg_at_10": 0.5,
        "minus_first_95": [-0.0123, 0.0456],
        "depth": 100,
        "queries": 76,
        "queries_judged": 1190,
        "command": "runoff judge house",
        "machine": "Abacus",
        "date": "2026-01-02",
        "precision": "fp32",
        **({"weights_sha256": OWN} if model == "run/model" else {"weights_sha256": OTHER} if model else {}),
        **changes,
    }


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def test_the_table_names_the_published_model_and_leaves_others_their_names(tmp_path: Path) -> None:
    lines = [
        line("bm25"),
        line("run/model", "run/model", ndcg_at_10=0.61, spearman={"teacher": 0.87654}),
        line("z(bm25)+1*z(run/model)", "run/model", 1.0, ndcg_at_10=0.62),
        line("z(bm25)+0.5*z(run/model)", "run/model", 0.5, ndcg_at_10=0.63),
        line("teacher", "teacher", ndcg_at_10=0.7),
    ]
    shed = {"collection": "shed", "queries": 1190}
    more = [line("bm25", **shed), line("run/model", "run/model", **shed)]
    files = [written(tmp_path / "a.jsonl", lines), written(tmp_path / "b.jsonl", more)]
    read = read_figures(files, [OWN])
    assert figures_table(read, "fine").splitlines() == [
        "| set | queries | BM25 | fine | BM25 + fine | BM25 + 0.5 fine | teacher |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| house | 76 of 1,190 | 0.5000 | 0.6100 [-0.012, +0.046] | 0.6200 [-0.012, +0.046] | "
        "0.6300 [-0.012, +0.046] | 0.7000 [-0.012, +0.046] |",
        "| shed | 1,190 | 0.5000 | 0.5000 [-0.012, +0.046] |  |  |  |",
    ]
    assert correlations(read) == [
        "Spearman's correlation of its scores with those of `teacher`, within a query: 0.877 (house)."
    ]
    assert commands(read) == ["runoff judge house"]
    assert circumstances(read) == "fp32, Abacus, 2026-01-02"


def test_two_precisions_of_the_model_are_told_apart(tmp_path: Path) -> None:
    lines = [line("bm25", first_stage="dense"), line("m", "run/model", first_stage="dense")]
    lines.append(line("m", "run/model", first_stage="dense", precision="int8"))
    read = read_figures([written(tmp_path / "a.jsonl", lines)], [OWN])
    assert (
        figures_table(read, "fine").splitlines()[0] == "| set | queries | dense | fine (fp32) | fine (int8) |"
    )


def test_a_file_without_the_models_own_line_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [line("bm25"), line("teacher", "teacher")])
    with pytest.raises(InputError, match=r"a\.jsonl has no line about the weights"):
        read_figures([file], [OWN])
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        read_figures([tmp_path / "none.jsonl"], [OWN])
    (tmp_path / "b.jsonl").write_text("x\n")
    with pytest.raises(InputError, match=r"b\.jsonl:1: not JSON"):
        read_figures([tmp_path / "b.jsonl"], [OWN])


def test_places_of_a_machine_are_cut_to_their_last_name() -> None:
    value = {"a": "/home/me/models/minilm", "b": ["~/rows", "C:\\x\\y", "org/name"], "c": {"d": 1, "e": None}}
    assert without_places(value) == {"a": "minilm", "b": ["rows", "y", "org/name"], "c": {"d": 1, "e": None}}


@pytest.mark.parametrize(("seconds", "said"), [(59.6, "60 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said
