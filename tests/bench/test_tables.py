"""Tables of lines whose figures are round."""

from __future__ import annotations

from runoff.bench.pages import growth_page, latency_page
from runoff.bench.published import ABLATION, H100, I7, THROUGHPUT, machine_for
from runoff.bench.tables import ablation, left_out, models_of, race_page
from standin_race import race_row

ROWS = [
    race_row("32m", "runoff-int8", 50.0),
    race_row("17m", "runoff-int8", 200.0, peak_mib=100.0),
    race_row("17m", "st-fp32", 50.0, size=16, unit="pairs", ended="out of memory at 32 pairs: no"),
    race_row("17m", "ort-int8", 100.0, size=512),
]


def test_models_stand_in_the_order_of_the_published_tables() -> None:
    assert models_of([*ROWS, race_row("mine", "st-fp32", 1.0)]) == ["17m", "32m", "mine"]


def test_the_summary_has_the_best_of_ours_and_of_the_others() -> None:
    page = race_page(ROWS)
    assert "| 17m | int8 | 200 | ONNX Runtime int8 | 100 | 2.00 | 50 | 4.00 | 267.4 |" in page


def test_a_model_without_others_has_no_ratio() -> None:
    assert "| 32m | int8 | 50 |  |  |  |  |  | 92.5 |" in race_page(ROWS)


def test_the_page_says_that_weights_are_random_and_pairs_made() -> None:
    page = race_page(ROWS)
    assert "Random weights in the true shape, since the published ones were not to be had: 17m, 32m." in page
    assert "100 made with the lengths of natural-questions (mean 148 tokens, median 112, at most 512)" in page


def test_the_fastest_engine_stands_on_top() -> None:
    page = race_page(ROWS).partition("## 17m")[2]
    places = [page.index(name) for name in ("Runoff int8", "ONNX Runtime int8", "sentence-transformers fp32")]
    assert places == sorted(places)


def test_memory_that_ran_out_is_told_with_its_size() -> None:
    assert "- sentence-transformers fp32: out of memory at 32 pairs: no." in race_page(ROWS)


def test_columns_without_figures_are_not_shown() -> None:
    assert "pairs/J" not in race_page(ROWS)


def test_who_was_left_out_stands_there_once_with_all_models() -> None:
    rows = [
        race_row(model, "st-onnx", 1.0, left_out="not installed: optimum-onnx") for model in ("17m", "32m")
    ]
    assert left_out(rows).splitlines()[-1] == (
        "- sentence-transformers, ONNX: not installed: optimum-onnx (17m, 32m)"
    )


def test_an_ablation_shows_rates_with_memory_beside_the_article_s() -> None:
    form = {"form": "ablation"}
    row = race_row("150m", "st-fp32", 600.0, settings=form, peak_mib=2000.0)
    failed = race_row("150m", "runoff-torch-fp8-triton", 1.0, settings=form)
    del failed["pairs_a_second"]
    lines = ablation([row, failed | {"left_out": "no"}]).splitlines()
    assert lines[-3:] == [
        "| sentence-transformers fp32 | fp32 | sdpa | 600 (2.1) |",
        "| release article, H100 80GB | fp32 | sdpa | 671 (1.6) |",
        "| Runoff torch fp8, triton | fp8 | triton | left out |",
    ]


def test_nothing_measured_makes_a_page_that_says_so() -> None:
    bare = {name: value for name, value in ROWS[0].items() if name != "pairs_a_second"}
    assert "Nothing could be measured." in race_page([bare | {"left_out": "no"}])


def test_latency_is_shown_for_each_number_of_documents() -> None:
    row = race_row("17m", "runoff-int8", 1.0, settings={"tokens": 160})
    row["documents"] = {"1": {"p50_ms": 2.0, "p95_ms": 3.0}, "100": {"p50_ms": 150.0, "p95_ms": 160.0}}
    page = latency_page([row])
    assert "| engine | 1 document | 100 documents |" in page
    assert "| Runoff int8 | 2 / 3 | 150 / 160 |" in page


def test_growth_is_shown_point_by_point() -> None:
    row = race_row("17m", "runoff-int8", 1.0, settings={"along": "threads"}, growth=1.9)
    row["points"] = [{"threads": 1, "pairs_a_second": 10.0}, {"threads": 2, "pairs_a_second": 19.0}]
    assert "| Runoff int8 | 10 | 19 | 1.90 |" in growth_page([row])


def test_the_article_s_figures_are_those_of_its_tables() -> None:
    assert (THROUGHPUT[H100]["17m"], THROUGHPUT[H100]["mxbai-rerank-large-v2"]) == (7517, 387)
    assert (THROUGHPUT[I7]["1b"], THROUGHPUT[I7]["MiniLM-L12"]) == (2.1, 75.9)
    assert (ABLATION["st-bf16"][0]["150m"], ABLATION["st-bf16"][1]["150m"]) == (1942, 1.8)


def test_a_gpu_stands_beside_the_article_s_h100_and_a_cpu_beside_its_cpu() -> None:
    assert [machine_for("NVIDIA H200", "cuda"), machine_for("", "cpu")] == [H100, I7]
