"""The totals of SQuAD 2.0, and what KorQuAD's script makes of odd answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobert_core.tasks.question_answering.official_metrics import (
    best_threshold,
    best_totals,
    normalize,
    score,
    score_answer,
    score_each,
    squad2_totals,
    total,
)


def test_signs_become_blanks_and_punctuation_goes() -> None:
    assert normalize(" 《훈민·정음》(訓民) A-B, “c” ") == "훈민·정음 訓民 ab “c”"


def test_f1_is_by_characters() -> None:
    assert score_answer("세종대왕이", ["세종대왕"]) == (0.0, 2 * (4 / 5) * 1 / (4 / 5 + 1))


def test_the_best_of_several_answers_counts() -> None:
    assert score_answer("1443년", ["1444년", "<1443년>"]) == (1.0, 1.0)


def test_nothing_is_right_where_there_is_no_answer() -> None:
    dataset = {"data": [{"paragraphs": [{"qas": [{"id": one, "answers": []} for one in "abc"]}]}]}
    predictions = {"a": "", "b": "무엇"}
    assert score_each(dataset, predictions) == {"a": (1.0, 1.0), "b": (0.0, 0.0), "c": (0.0, 0.0)}
    assert score(dataset, predictions) == {"exact_match": 100 / 3, "f1": 100 / 3}


def test_totals_of_both_kinds() -> None:
    scores = [(1.0, 1.0), (0.0, 0.5), (1.0, 1.0), (0.0, 0.0)]
    assert squad2_totals(scores, np.array([True, True, False, False])) == {
        "HasAns_exact": 50,
        "HasAns_f1": 75,
        "NoAns_exact": 50,
        "NoAns_f1": 50,
    }
    assert squad2_totals(scores[:1], np.array([True])) == {"HasAns_exact": 100, "HasAns_f1": 100}


def test_the_scores_of_squad_2() -> None:
    """Two questions with an answer, one without: the threshold gives the last one up."""
    predictions = [("세종", ["세종"]), ("영실", ["장영실"]), ("이순신", [])]
    each, answerable = [score_answer(text, golds) for text, golds in predictions], np.array([True, True, False])
    scores = total(each) | squad2_totals(each, answerable) | best_totals(each, np.array([-2.0, 1.0, 3.0]), answerable)
    f1 = 2 * 1 * (2 / 3) / (1 + 2 / 3)
    assert scores == pytest.approx(
        {
            "exact_match": 100 / 3,
            "f1": 100 * (1 + f1) / 3,
            "HasAns_exact": 50,
            "HasAns_f1": 50 * (1 + f1),
            "NoAns_exact": 0,
            "NoAns_f1": 0,
            "best_exact": 200 / 3,
            "best_exact_thresh": -2,
            "best_f1": 100 * (2 + f1) / 3,
            "best_f1_thresh": 1,
        }
    )


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-3, 3), st.booleans()), min_size=1))
def test_no_threshold_is_better(rows: list[tuple[float, int, bool]]) -> None:
    scores, null_scores, answerable = (np.array(column) for column in zip(*rows, strict=True))

    def reached(threshold: float) -> float:
        given_up = null_scores > threshold
        return float(100 * np.where(given_up, ~answerable, np.where(answerable, scores, 0.0)).mean())

    threshold, best = best_threshold(scores, null_scores, answerable)
    assert best == pytest.approx(reached(threshold))
    assert best == pytest.approx(max(reached(one) for one in [-4, *range(-3, 4)]))
