"""Intervals for the difference of two configurations, each trained with several seeds and scored on the same examples.

Both the seeds and the examples could have been others, and the interval covers both (two-way random effects, as in
Owen, "The pigeonhole bootstrap", 2007). Few seeds make it wide: the quantile is that of Student's t.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
"""Of shape (runs, parts of the examples): `kobert_core.pseudo_values` of each run."""
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and what it is between with a confidence of `level`."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether there is a difference."""
        return self.low > 0 or self.high < 0

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def difference(ours: Values, theirs: Values, *, level: float = LEVEL) -> Interval:
    """The mean of our runs minus the mean of theirs, with an interval.

    The variance has a part from the seeds, estimated from both sides together, and one from the examples, which are
    paired. What differs by seed and example together is in both, and taken off the first. From few seeds, what is left
    may come out below zero: then it is nothing, and the interval is that of the examples. The degrees of freedom are
    Satterthwaite's, but no fewer than one side's seeds give. `benchmarks/confirm_simulation.py` tries it on known
    truths.

    Args:
        ours, theirs: At least two runs each, on the same parts of the same examples.
        level: Of confidence.
    """
    if min(len(ours), len(theirs)) < 2 or ours.shape[1] != theirs.shape[1] or ours.shape[1] < 2:
        raise ValueError(f"two runs on two parts at least must be there, but got {ours.shape} and {theirs.shape}.")
    by_part = ours.mean(axis=0) - theirs.mean(axis=0)
    estimate, seeds, parts = float(by_part.mean()), len(ours) + len(theirs) - 2, len(by_part) - 1
    squares = sum(float(runs.mean(axis=1).var()) * len(runs) for runs in (ours, theirs))
    of_seeds = squares / seeds * (1 / len(ours) + 1 / len(theirs))
    of_examples = float(by_part.var(ddof=1)) / len(by_part)
    of_seeds_alone = max(0.0, of_seeds - _of_both(ours) - _of_both(theirs))
    variance = of_seeds_alone + of_examples
    if variance == 0:
        return Interval(estimate, estimate, estimate, level)
    freedom = variance**2 / ((of_seeds**2 if of_seeds_alone else 0.0) / seeds + of_examples**2 / parts)
    freedom = max(freedom, min(len(ours), len(theirs)) - 1)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * variance**0.5
    return Interval(estimate, estimate - half, estimate + half, level)


def _of_both(runs: Values) -> float:
    """The part of the variance of the mean that depends on the seed and the example together."""
    rest = runs - runs.mean(axis=0) - runs.mean(axis=1, keepdims=True) + runs.mean()
    freedom = (runs.shape[0] - 1) * (runs.shape[1] - 1)
    return float((rest**2).sum() / freedom / runs.size)
