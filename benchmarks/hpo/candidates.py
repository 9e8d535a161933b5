"""Schedulers that the product does not have, replayed beside its own."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student_t

from tuning.planning.simulation import END
from tuning.search.early_stopping import CLOCK, Points
from tuning.search.promotion import Promotion, Rungs
from tuning.search.schedulers import rungs_of
from tuning.study import SchedulerConfig, SearchConfig

NOISY = 90
"""Percentile of the differences between trials that cross each other: that of the paper."""


class GrowingRungs(Rungs):
    """Rungs whose top one no trial leaves, until its ranking is another than that of the rung below: then the next one
    is the top (PASHA: Bohdal et al. 2023, "PASHA: Efficient HPO and NAS with Progressive Resource Allocation")."""

    def __init__(self, rungs: Sequence[int], factor: int) -> None:
        super().__init__(rungs, factor)
        self._levels, self._curves = [*rungs, END], dict[int, dict[int, float]]()
        self.below, self.top = self._levels[:2]

    def pauses(self, trial: int, percent: int, value: float) -> bool:
        self._note(trial, [(percent, value)])
        return super().pauses(trial, percent, value)

    def replay(self, trial: int, points: Points, *, waits: bool = False) -> None:
        self._note(trial, points)
        super().replay(trial, points, waits=waits)

    def _note(self, trial: int, points: Points) -> None:
        self._curves.setdefault(trial, {}).update(points)
        if any(percent == self.top for percent, _ in points) and self.top < END:
            there = [curve for curve in self._curves.values() if self.top in curve]
            known = [{percent: curve[percent] for percent in curve if percent <= self.top} for curve in there]
            before, after = ([curve[level] for curve in there] for level in (self.below, self.top))
            if not same_ranking(before, after) and not same_ranking(before, after, within=crossing_noise(known)):
                self.below, self.top = self.top, self._levels[self._levels.index(self.top) + 1]

    def _next(self) -> tuple[int, int] | None:
        for rung, values in reversed(self._values.items()):
            best = sorted(values, key=lambda trial: (-values[trial], trial))[: len(values) // self._factor]
            for trial in best:
                if rung < self.top and self._waiting.get(trial) == rung:
                    return rung, trial
        return None


def same_ranking(before: Sequence[float], after: Sequence[float], *, within: float = 0.0) -> bool:
    """Whether trials have the same places by their values at two rungs, where a trial may as well have the place of one
    that was so near to it at the first of them: the paper's soft ranking.

    Args:
        before: At the lower rung, of each trial.
        after: At the upper one, in the same order.
        within: The difference up to which two values are as good.
    """
    places, now = (sorted(range(len(values)), key=lambda at: -values[at]) for values in (before, after))
    return all(abs(before[there] - before[then]) <= within for there, then in zip(now, places, strict=True))


def crossing_noise(curves: Iterable[Mapping[int, float]]) -> float:
    """How much two trials differ that are as good: the paper's percentile of the latest differences of the pairs whose
    curves have crossed, and crossed back; 0 where there is none."""
    distances = []
    for one, other in itertools.combinations(curves, 2):
        differences = np.array([one[percent] - other[percent] for percent in sorted(one.keys() & other.keys())])
        signs = np.sign(differences[differences != 0])
        if np.count_nonzero(np.diff(signs)) >= 2:
            distances.append(abs(differences[-1]))
    return float(np.percentile(distances, NOISY)) if distances else 0.0


class Pasha(Promotion):
    """Promotion that trains no trial to its end before the rankings of the top two rungs differ."""

    def __init__(self, config: SchedulerConfig, search: SearchConfig) -> None:
        rungs, factor = rungs_of(config) or [], config.reduction_factor
        common: dict[str, Any] = {"rungs": rungs, "factor": factor, "metric": "objective", "mode": "max"}
        super().__init__((), baselines=search.baselines, further=(), **common)
        self._rungs: GrowingRungs = GrowingRungs(rungs, factor)

    @property
    def top(self) -> int:
        """The percentage up to which trials are trained for now: the best of those that came there is the best."""
        return self._rungs.top


class Extrapolated(FIFOScheduler):
    """Stops a trial that will not come to the best value of those that came to their end, by the power law through its
    curve (Domhan et al. 2015, "Speeding up automatic hyperparameter optimization of deep neural networks by
    extrapolation of learning curves"; for power laws Viering and Loog 2022, "The shape of learning curves: a review").
    """

    def __init__(self, config: SchedulerConfig, search: SearchConfig) -> None:
        super().__init__()
        self._baselines, self._incumbent = search.baselines, -math.inf
        self._curves: dict[int, dict[int, float]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, curve = trial.config["trial"], self._note(trial, result)
        if number in self._baselines or max(curve.values()) >= self._incumbent:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if upper_end(curve) < self._incumbent else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result[CLOCK] == END:
            self._incumbent = max(self._incumbent, *self._note(trial, result).values())

    def _note(self, trial: Any, result: dict[str, Any]) -> dict[int, float]:
        curve = self._curves.setdefault(trial.config["trial"], {})
        curve[result[CLOCK]] = result["objective"]
        return curve


def upper_end(curve: Mapping[int, float], *, confidence: float = 0.95) -> float:
    """What a curve will hardly be above at its end: the upper bound of one evaluation there, by the power law
    `y = a - b * t ** -c` that fits it best, its parameters' uncertainty and its residuals; infinity before there are
    more evaluations than parameters.

    Args:
        curve: The objective by percent; better when higher.
        confidence: That it is not above.
    """
    freedom = len(curve) - 3
    if freedom < 1:
        return math.inf
    times, values = np.array(list(curve)) / END, np.array(list(curve.values()))
    start = (values.max(), max(float(np.ptp(values)) * times[0], 1e-6), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            (a, b, c), covariance = curve_fit(
                _power_law, times, values, p0=start, bounds=([-np.inf, 0, 0.05], [np.inf, np.inf, 5])
            )
        except RuntimeError:  # no fit was found
            return math.inf
    residuals = values - _power_law(times, a, b, c)
    slope = np.array([1.0, -1.0, 0.0])  # of the value at t = 1 by a, b and c
    variance = slope @ covariance @ slope + residuals @ residuals / freedom
    bound = a - b + student_t.ppf(confidence, freedom) * math.sqrt(variance)
    return float(bound) if math.isfinite(bound) else math.inf


def _power_law(times: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a - b * times**-c


CANDIDATES = {"pasha": Pasha, "power-law": Extrapolated}
"""By the names that searches have for them."""
