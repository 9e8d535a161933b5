"""Tests of whether two models that answered the same examples differ, and the correction for several of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from tuning.statistics.intervals import LEVEL, Interval


def paired_t(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], *, level: float = LEVEL
) -> tuple[Interval, float]:
    """The mean of ours minus that of theirs with an interval, and the p-value of Student's paired t-test.

    Args:
        ours, theirs: Of one model each, on the same parts of the same examples: `kobert_core.pseudo_values`.
        level: Of confidence.
    """
    each = ours - theirs
    estimate = float(each.mean())
    if np.ptp(each) == 0:  # nothing varies: SciPy divides by zero
        return Interval(estimate, estimate, estimate, level), float(estimate == 0)
    test = stats.ttest_1samp(each, 0.0)
    low, high = test.confidence_interval(level)
    return Interval(estimate, float(low), float(high), level), float(test.pvalue)


def mcnemar(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> float:
    """The p-value of McNemar's exact test: of the examples that exactly one model has right, does
    each model have half?

    Args:
        ours, theirs: Of the same examples, whether a model has them right.
    """
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if only_ours + only_theirs == 0:
        return 1.0
    return float(stats.binomtest(only_ours, only_ours + only_theirs).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for how many there are (Holm, "A simple sequentially rejective multiple test procedure",
    1979), in their order."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values, dtype=np.float64)[order]))
    return corrected.tolist()
