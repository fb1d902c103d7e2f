"""Races of small models on engines that are really run, each in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runoff import CrossEncoder
from runoff.bench.growth import growth, growths, thread_counts
from runoff.bench.latency import latencies
from runoff.bench.models import find_entrant
from runoff.bench.plan import groups, pairs_for
from runoff.bench.race import race
from runoff.bench.record import read_rows
from runoff.bench.specs import Settings
from runoff.contracts import CheckpointNotFoundError, InputError
from standin_race import pair_set, plan_of

ENGINES = ["runoff-fp32", "runoff-reference"]


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def raced(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[dict[str, Any]]]:
    """A plan, and the lines of its race."""
    plan = plan_of(tmp_path_factory.mktemp("raced"), [small_model], ENGINES, pairs=pair_set(small_model))
    return plan, list(race(plan, quiet))


def test_every_engine_has_a_line_with_three_passes(raced: tuple[Any, list[dict[str, Any]]]) -> None:
    found = {row["settings"]["engine"]: len(row["seconds"]) for row in raced[1]}
    assert found == {"runoff-fp32": 3, "runoff-reference": 3}


def test_what_is_yielded_is_in_the_file(raced: tuple[Any, list[dict[str, Any]]]) -> None:
    assert read_rows(raced[0].file) == raced[1]


def test_a_rate_is_pairs_over_the_median_pass(raced: tuple[Any, list[dict[str, Any]]]) -> None:
    for row in raced[1]:
        assert row["pairs_a_second"] == pytest.approx(
            row["timed_pairs"] / sorted(row["seconds"])[1], rel=0.01
        )


def test_the_best_size_is_the_fastest_of_the_sweep(raced: tuple[Any, list[dict[str, Any]]]) -> None:
    row = next(row for row in raced[1] if row["settings"]["engine"] == "runoff-fp32")
    best = max(row["sizes"], key=lambda each: each["pairs_a_second"])
    assert row["size"] == best["size"]


def test_scores_are_those_that_predict_gives(
    raced: tuple[Any, list[dict[str, Any]]], small_model: Path
) -> None:
    model = CrossEncoder(str(small_model), device="cpu", precision="fp32", max_length=128)
    expected = model.predict(pair_set(small_model).pairs, activation_fn="identity")
    row = next(row for row in raced[1] if row["settings"]["engine"] == "runoff-fp32")
    np.testing.assert_allclose(row["first_scores"], expected, atol=1e-4)


def test_without_the_baseline_scores_are_compared_with_the_numpy_engine_s(
    raced: tuple[Any, list[dict[str, Any]]],
) -> None:
    row = next(row for row in raced[1] if row["settings"]["engine"] == "runoff-fp32")
    assert row["compared_with"] == "runoff-reference"
    assert row["max_difference"] < 1e-4


def test_a_race_that_is_run_again_measures_nothing(raced: tuple[Any, list[dict[str, Any]]]) -> None:
    said: list[str] = []
    assert list(race(raced[0], said.append)) == raced[1]
    assert "2 of 2 engines are in race.jsonl already" in said[-1]


def test_an_interrupted_race_goes_on_where_it_was(
    small_model: Path, other_model: Path, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, [small_model, other_model], ["runoff-fp32"])
    first_half = race(plan, quiet)
    first = next(first_half)
    first_half.close()
    rows = list(race(plan, quiet))
    assert rows[0] == first
    assert [row["settings"]["model"] for row in rows] == [small_model.name, other_model.name]


def test_again_measures_anew(small_model: Path, tmp_path: Path) -> None:
    old = list(race(plan_of(tmp_path, [small_model], ["runoff-fp32"]), quiet))
    new = list(race(plan_of(tmp_path, [small_model], ["runoff-fp32"], is_again=True), quiet))
    assert old[0]["seconds"] != new[0]["seconds"]
    assert len(read_rows(tmp_path / "race.jsonl")) == 1


def test_an_engine_that_is_not_for_this_device_is_left_out_and_says_why(
    small_model: Path, tmp_path: Path
) -> None:
    (row,) = race(plan_of(tmp_path, [small_model], ["st-bf16-fa2"]), quiet)
    assert row["left_out"] == "runs on cuda only"


def test_a_model_that_fails_to_load_does_not_end_the_race(
    small_model: Path, other_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / file).write_bytes((other_model / file).read_bytes())
    rows = list(race(plan_of(tmp_path, [broken, small_model], ["runoff-fp32"]), quiet))
    assert "model.safetensors is missing" in rows[0]["left_out"]
    assert rows[1]["pairs_a_second"] > 0


def test_what_is_kept_names_no_folder_of_this_machine(other_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cache" / "broken"
    broken.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / file).write_bytes((other_model / file).read_bytes())
    (row,) = race(plan_of(tmp_path, [broken], ["runoff-fp32"]), quiet)
    assert str(tmp_path) not in (tmp_path / "race.jsonl").read_text()
    assert "CACHE" in row["left_out"]


def test_a_model_of_no_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no folder './nowhere'"):
        list(race(plan_of(tmp_path, ["./nowhere"], ["runoff-fp32"]), quiet))


def test_one_unknown_model_of_several_is_left_out(small_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    rows = list(race(plan_of(tmp_path, ["./nowhere", small_model], ["runoff-fp32"]), said.append))
    assert len(rows) == 1
    assert said[0].startswith("./nowhere is left out")


def test_a_model_with_too_few_positions_is_left_out(
    small_model: Path, other_model: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    plan = plan_of(tmp_path, [other_model, small_model], ["runoff-fp32"], settings=Settings(1, 1024))
    assert [row["settings"]["model"] for row in race(plan, said.append)] == [small_model.name]
    assert "it has 512 positions, and --max-length is 1024" in said[0]


def test_a_published_model_out_of_reach_has_random_weights_and_says_so(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["MiniLM-L4"], ["runoff-fp32"])
    entrant = find_entrant("cross-encoder/ms-marco-MiniLM-L4-v2", plan.places)
    assert (entrant.name, entrant.weights) == ("MiniLM-L4", "random")
    assert "the hub cannot be reached" in entrant.why


def test_a_folder_has_no_random_form(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no known shape"):
        find_entrant(str(small_model), plan_of(tmp_path, [], []).places, is_random=True)


def test_pairs_out_of_reach_are_made_and_say_so(small_model: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [small_model], ["runoff-fp32"])
    pairs, why = pairs_for(plan, find_entrant(str(small_model), plan.places))
    assert (len(pairs.pairs), pairs.source) == (8, "stand-in")
    assert "natural-questions cannot be had" in why


def test_engines_race_in_groups_that_fit_into_memory() -> None:
    # 60 % of 10 holds three of 2.
    assert groups(["a", "b", "c", "d"], 2.0, 10.0) == [["a", "b", "c"], ["d"]]


def test_an_engine_larger_than_memory_races_alone() -> None:
    assert groups(["a", "b"], 100.0, 10.0) == [["a"], ["b"]]


def test_latency_has_both_percentiles_for_each_number_of_documents(small_model: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [small_model], ["runoff-fp32"], form="quick")
    (row,) = latencies(plan, quiet)
    assert list(row["documents"]) == ["1", "20", "100"]
    for found in row["documents"].values():
        assert 0 < found["p50_ms"] <= found["p95_ms"]


@pytest.mark.parametrize(
    ("along", "steps"),
    [("length", [16, 32, 64, 128, 256, 512]), ("documents", [1, 5, 20, 50]), ("threads", [1, 2])],
)
def test_growth_has_a_point_for_each_step(
    along: Any, steps: list[int], other_model: Path, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, [other_model], ["runoff-fp32"], form="quick")
    (row,) = growths(plan, along, 2, quiet)
    assert [next(iter(point.values())) for point in row["points"]] == steps


def test_growth_with_length_is_over_an_eighth() -> None:
    points = [{"tokens": tokens, "single_ms": tokens**2 / 100} for tokens in (16, 64, 128)]
    assert growth("length", points) == 64.0


def test_growth_with_documents_is_over_a_tenth() -> None:
    assert growth("documents", [{"documents": n, "ms": 2.0 * n} for n in (1, 10, 100)]) == 10.0


def test_a_growth_that_lacks_a_point_says_nothing() -> None:
    assert growth("documents", [{"documents": 50, "ms": 2.0}]) is None


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_threads_double_up_to_all_cores(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts
