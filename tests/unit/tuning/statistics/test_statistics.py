"""Intervals that cover what they should, and halving that keeps the better half."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tuning.statistics.halving import better, rounds, total_runs
from tuning.statistics.intervals import difference


def runs_of(random: np.random.Generator, runs: int, examples: np.ndarray, mean: float, seeds: float) -> np.ndarray:
    """Scores of runs on parts of the examples: with effects of seeds, of examples, and of both together."""
    of_seeds = random.normal(0, seeds, (runs, 1))
    return mean + of_seeds + examples + random.normal(0, 1.0, (runs, len(examples)))


@pytest.mark.parametrize(("runs", "seeds"), [(2, 0.3), (3, 0.0), (3, 0.3), (5, 1.0)])
def test_the_interval_covers_the_true_difference(runs: int, seeds: float) -> None:
    random, covered, sweeps = np.random.default_rng(0), 0, 1500
    for _ in range(sweeps):
        shared = random.normal(0, 2.0, 40)
        ours = runs_of(random, runs, shared + random.normal(0, 0.5, 40), 0.7, seeds)
        theirs = runs_of(random, runs, shared + random.normal(0, 0.5, 40), 0.2, seeds)
        found = difference(ours, theirs)
        covered += found.low <= 0.5 <= found.high
    assert 0.935 <= covered / sweeps <= 0.975


def test_it_is_never_narrower_than_the_examples_make_it() -> None:
    """Few rows, and seeds that happen to agree: the parts of the variance may seem to cancel each other out."""
    random = np.random.default_rng(3)
    for _ in range(500):
        right = random.random((2, 3, 40)) < 0.7
        ours, theirs = right.astype(float)
        found, by_row = difference(ours, theirs), ours.mean(axis=0) - theirs.mean(axis=0)
        alone = stats.norm.ppf(0.975) * by_row.std(ddof=1) / 40**0.5
        assert found.high - found.low >= 2 * alone


def test_with_seeds_alone_it_is_students_t_test() -> None:
    random = np.random.default_rng(1)
    ours, theirs = (np.repeat(random.normal(0, 1, (runs, 1)), 30, axis=1) for runs in (3, 4))
    found = difference(ours, theirs)
    known = stats.ttest_ind(ours[:, 0], theirs[:, 0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_with_examples_alone_it_is_the_paired_t_test() -> None:
    random = np.random.default_rng(2)
    ours, theirs = (np.tile(random.normal(0, 1, 30), (3, 1)) for _ in range(2))
    found = difference(ours, theirs)
    known = stats.ttest_rel(ours[0], theirs[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_what_is_the_same_is_no_difference() -> None:
    same = np.full((3, 10), 0.75)
    found = difference(same, same)
    assert (found.estimate, found.low, found.high, found.excludes_zero) == (0.0, 0.0, 0.0, False)
    with pytest.raises(ValueError, match="two runs on two parts at least"):
        difference(same[:1], same)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (1, []),
        (2, [(2, 1, 1)]),
        (3, [(3, 1, 2), (2, 1, 1)]),
        (5, [(5, 1, 3), (3, 1, 2), (2, 2, 1)]),
        (8, [(8, 1, 4), (4, 2, 2), (2, 4, 1)]),
    ],
)
def test_each_round_halves_the_candidates_at_about_the_same_cost(
    candidates: int, expected: list[tuple[int, int, int]]
) -> None:
    assert list(rounds(candidates)) == expected
    assert total_runs(candidates) == sum(left * runs for left, runs, _ in expected)


def test_the_better_means_go_on_and_of_equal_ones_the_first() -> None:
    scores = {7: [0.5, 0.7], 2: [0.9], 5: [0.6, 0.6]}
    assert better(scores, 2, mode="max") == [2, 7]
    assert better(scores, 2, mode="min") == [7, 5]
