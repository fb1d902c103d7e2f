"""Results are ordinary arrays and lists that also say what was cut."""

from __future__ import annotations

import json

import numpy as np

from runoff.contracts import CutReport
from runoff.results import Probabilities, Ranking, Scores

CUT = CutReport(pairs=3, cut_pairs=1, cut_tokens=7, max_length=512)


def test_scores_are_the_array_they_were_made_of():
    values = np.array([1.5, -2.0, 0.25], np.float32)
    scores = Scores.of(values, CUT)
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, values)
    assert scores.cut == CUT


def test_one_score_is_a_plain_number():
    score = Scores.of(np.array([1.5], np.float32), CUT)[0]
    assert type(score) is np.float32


def test_what_is_computed_from_scores_keeps_the_cut_report():
    scores = Scores.of(np.zeros((3, 2), np.float32), CUT)
    assert scores[1:].cut == scores[0].cut == (scores * 2).cut == scores.copy().cut == CUT


def test_an_array_seen_as_scores_has_an_empty_report():
    assert np.zeros(2).view(Scores).cut == CutReport()


def test_a_ranking_is_a_list_that_json_takes():
    results = [{"corpus_id": 1, "score": 0.5}]
    ranking = Ranking(results, CUT)
    assert ranking == results
    assert json.loads(json.dumps(ranking)) == results
    assert ranking.cut == CUT
    assert Ranking().cut == CutReport()


def test_probabilities_keep_their_precision_and_the_cut_report():
    found = Probabilities.of(np.array([0.25, 1 / 3]), CUT)
    assert found.dtype == np.float64
    assert found[1:].cut == found.cut == CUT


def test_a_ranking_of_rows_has_what_is_given_of_each():
    scores, probabilities = np.array([0.5, 2.0, 1.0], np.float32), np.array([0.1, 0.9, 0.4])
    ranking = Ranking.of(np.array([1, 2]), CUT, scores, probabilities, ["a", "b", "c"])
    assert ranking == [
        {"corpus_id": 1, "score": 2.0, "probability": 0.9, "text": "b"},
        {"corpus_id": 2, "score": 1.0, "probability": 0.4, "text": "c"},
    ]
    assert Ranking.of([0], CUT, scores) == [{"corpus_id": 0, "score": 0.5}]
    assert ranking.cut == CUT


def test_a_cut_report_reads_as_a_sentence():
    assert str(CUT) == "1 of 3 pairs were longer than 512 tokens and were cut (7 tokens lost)"
