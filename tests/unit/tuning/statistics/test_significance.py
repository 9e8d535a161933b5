"""Tests of two models on the same examples, against SciPy's and against published values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tuning.statistics.significance import holm, mcnemar, paired_t


def test_it_is_students_paired_test_with_its_interval() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(0.2, 1, 50), random.normal(0, 1, 50)
    found, p = paired_t(ours, theirs)
    known = stats.ttest_rel(ours, theirs)
    interval = known.confidence_interval(0.95)
    assert p == pytest.approx(known.pvalue)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (ours.mean() - theirs.mean(), interval.low, interval.high)
    )
    assert found.excludes_zero == (p < 0.05)


def test_models_with_the_same_answers_do_not_differ() -> None:
    same = np.linspace(0, 1, 20)
    found, p = paired_t(same, same)
    assert (found.estimate, found.low, found.high, p) == (0.0, 0.0, 0.0, 1.0)
    assert mcnemar(same > 0.5, same > 0.5) == 1.0


def test_equal_models_are_told_apart_in_five_of_a_hundred() -> None:
    random = np.random.default_rng(1)
    p_values = [paired_t(*random.normal(0, 1, (2, 50)))[1] for _ in range(2000)]
    assert 0.04 <= np.mean(np.array(p_values) < 0.05) <= 0.06


@pytest.mark.parametrize(("only_ours", "only_theirs", "p"), [(1, 9, 0.021484375), (5, 5, 1.0), (0, 6, 0.03125)])
def test_mcnemars_exact_test_looks_at_what_one_model_alone_has_right(
    only_ours: int, only_theirs: int, p: float
) -> None:
    """The p-values are twice the tail of a binomial distribution, by hand: 22 / 1024 of 1 and 9."""
    ours = np.array([True] * only_ours + [False] * only_theirs + [True] * 40 + [False] * 40)
    theirs = np.array([False] * only_ours + [True] * only_theirs + [True] * 40 + [False] * 40)
    assert mcnemar(ours, theirs) == mcnemar(theirs, ours) == pytest.approx(p)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # as R: p.adjust(c(.01, .04, .03, .005), "holm")
        ([0.5, 0.4], [0.8, 0.8]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_correction(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)
