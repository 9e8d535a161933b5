"""What a model of the search learns from: each trial as if it had come to its end, and the trials of earlier sweeps.

Optuna's TPE ranks every stopped trial behind all that ran to their ends, and its Gaussian process does not see one at
all. Here a trial that has reported anything counts, by where it would have ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from scipy.stats import norm, rankdata

from tuning.search.warm_start import EarlierTrial

Curve = Mapping[int, float]
"""The objective by progress."""


class Learning(BaseSampler):
    """A sampler of Optuna, for one trial, that is shown a study in which every trial that has reported is complete."""

    def __init__(self, sampler: BaseSampler, earlier: Sequence[EarlierTrial] = ()) -> None:
        """`earlier`: trials of other sweeps, which it is shown before those of the study."""
        self._sampler, self._earlier = sampler, earlier
        self._shown: tuple[optuna.Study, FrozenTrial] | None = None

    def _show(self, study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
        if self._shown is None:
            self._shown = shown(study, trial, self._earlier)
        return self._shown

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(*self._show(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(*self._show(study, trial), search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(*self._show(study, trial), param_name, param_distribution)


def shown(study: optuna.Study, trial: FrozenTrial, earlier: Sequence[EarlierTrial]) -> tuple[optuna.Study, FrozenTrial]:
    """A study in memory, to be maximized, with the `earlier` trials and those of a study, and in it that trial.

    The scores of two sweeps need not compare (other data, other models): where there are earlier ones, each sweep's are
    replaced by the normal scores of their ranks (Salinas et al. 2020, "A quantile-based approach for hyperparameter
    transfer learning").
    """
    trials = study.get_trials(deepcopy=False)
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    known = optuna.create_study(direction="maximize")
    for sweep in dict.fromkeys(each.sweep for each in earlier):
        there = [each for each in earlier if each.sweep == sweep]
        scores = normal_scores(ends([_result(each.curve, each.value, sign) for each in there]))
        for told, score in zip(there, scores, strict=True):
            known.add_trial(create_trial(value=score, params=told.params, distributions=told.distributions))
    reported = [each for each in trials if each.number != trial.number and has_reported(each)]
    scores = ends([_result(each.intermediate_values, each.value, sign) for each in reported])
    numbers = [each.number for each in reported]
    score_of = dict(zip(numbers, normal_scores(scores) if earlier else scores, strict=True))
    for each in trials:
        unscored = OptunaState.RUNNING if each.state == OptunaState.RUNNING else OptunaState.FAIL
        known.add_trial(
            create_trial(
                state=OptunaState.COMPLETE if each.number in score_of else unscored,
                value=score_of.get(each.number),
                params=each.params,
                distributions=each.distributions,
                system_attrs=each.system_attrs,
            )
        )
    return known, known.get_trials(deepcopy=False)[len(earlier) + trial.number]


def has_reported(trial: FrozenTrial) -> bool:
    """Whether a trial says anything about its values: one that failed does not."""
    if trial.state == OptunaState.FAIL:
        return False
    return trial.state == OptunaState.COMPLETE or any(map(math.isfinite, trial.intermediate_values.values()))


class Result(NamedTuple):
    """What a trial came to; better when higher."""

    curve: Curve
    value: float | None = None
    """What it is judged by, if it ran to its end; otherwise the best of its curve."""


def _result(curve: Curve, value: float | None, sign: int) -> Result:
    finite = {progress: sign * each for progress, each in curve.items() if math.isfinite(each)}
    return Result(finite, None if value is None else sign * value)


def ends(results: Sequence[Result]) -> list[float]:
    """Where each trial would have ended: its best so far, and what trials gained from there on, rung by rung, in the
    median of those that went on."""
    rungs = sorted({progress for result in results for progress in result.curve})
    best = [_best_until(result.curve, rungs) for result in results]
    gains = dict.fromkeys(rungs, 0.0)
    for at, after in pairwise(range(len(rungs))):
        gained = [row[after] - row[at] for row in best if math.isfinite(row[after]) and math.isfinite(row[at])]
        gains[rungs[after]] = float(np.median(gained)) if gained else 0.0
    return [
        result.value
        if result.value is not None
        else max(result.curve.values()) + sum(gain for at, gain in gains.items() if at > max(result.curve))
        for result in results
    ]


def _best_until(curve: Curve, rungs: Sequence[int]) -> list[float]:
    """The best value up to each rung; NaN at those that were not reached, and before the first report."""
    found, best = [], -math.inf
    for rung in rungs:
        best = max(best, curve.get(rung, -math.inf))
        found.append(best if rung <= max(curve, default=0) and math.isfinite(best) else math.nan)
    return found


def normal_scores(values: Sequence[float]) -> list[float]:
    """Standard normal quantiles of the ranks of some values."""
    if not values:
        return []
    ranks = (rankdata(values) - 0.5) / len(values)
    return [float(score) for score in norm.ppf(ranks)]
