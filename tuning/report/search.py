"""The trials as Optuna's plots and importances take them: compared at one point of their training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna import importance
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from search_spaces.distributions import Constant, Space
from tuning.report.elements import in_plot
from tuning.report.stopping import value_at
from tuning.report.sweep_data import SweepData
from tuning.search.asking import AskedTrial
from tuning.study.objectives import constraints_in, goals_in
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

log = logging.getLogger(__name__)
FEW = 20
"""With fewer trials an importance is a hint at most."""
ENOUGH = 10
"""Trials for which their ends are compared, and not an earlier rung that more of them have reached."""
MOST_DRAWN = 100
"""More are not drawn where each takes a line, or a row and a column: a page stays small, and can be read."""
MANY = 100
"""From so many trials on PED-ANOVA takes the place of fANOVA."""


@dataclass(frozen=True, kw_only=True)
class ComparedTrials:
    """Trials that have come equally far."""

    percent: int
    """Of a trial's own steps."""
    count: int
    study: optuna.Study
    """In memory; a trial that did not come so far is a failed one there."""


def compare_trials(data: SweepData, rungs: Sequence[int]) -> ComparedTrials | None:
    """The trials at their ends, if enough of them ran so far; else at the latest rung that enough have reached, or the
    one that most have. None where no two differ."""
    values = {
        percent: {record.trial: value for record in data.records if (value := value_at(record, percent)) is not None}
        for percent in [100, *reversed(rungs)]
    }
    enough = [percent for percent, found in values.items() if len(found) >= ENOUGH]
    percent = enough[0] if enough else max(values, key=lambda each: len(values[each]))
    if len(set(values[percent].values())) < 2:
        return None
    return ComparedTrials(percent=percent, count=len(values[percent]), study=_study_of(data, values[percent]))


def drawn(compared: ComparedTrials) -> ComparedTrials:
    """These trials, or of more than `MOST_DRAWN` so many: the best, the worst, and others at equal distances between
    them by rank."""
    trials = compared.study.get_trials(deepcopy=False)
    ranked = sorted((trial for trial in trials if trial.values), key=lambda trial: trial.values[0])
    if len(ranked) <= MOST_DRAWN:
        return compared
    kept = {ranked[place].number for place in np.linspace(0, len(ranked) - 1, MOST_DRAWN).astype(int)}
    study = optuna.create_study(direction=compared.study.direction)
    study.add_trials([trial if trial.number in kept else create_trial(state=OptunaState.FAIL) for trial in trials])
    return ComparedTrials(percent=compared.percent, count=len(kept), study=study)


def _study_of(data: SweepData, values: dict[int, float]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if data.study.objective.mode == "max" else "minimize")
    distributions = distributions_of(data.study.space)
    by_number = {record.trial: record for record in data.records}
    for number in range(max(values) + 1):
        record = by_number.get(number)
        if record is None or number not in values:
            study.add_trial(create_trial(state=OptunaState.FAIL))
            continue
        params = _params_of(record, distributions)
        own = {name: distributions[name] for name in params}
        study.add_trial(create_trial(value=values[number], params=params, distributions=own))
    return study


def study_of_objectives(data: SweepData) -> optuna.Study:
    """In memory: the trials that ran to their ends, with all of their objectives and constraints, and in `user_attrs`
    what each of these metrics is."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first, further = data.study.objective, data.study.further
    modes = [first.mode, *(each.mode for each in goals_in(further))]
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for mode in modes])
    distributions = distributions_of(data.study.space)
    for record in data.records:
        metrics = {name: record.metrics[name] for each in further if (name := each.metric) in record.metrics}
        if (
            record.state != TrialState.COMPLETE
            or record.value is None
            or len(metrics) < len({e.metric for e in further})
        ):
            continue
        params = _params_of(record, distributions)
        trial = create_trial(
            values=list(data.table.goals_of(record).values()),
            params=params,
            distributions={name: distributions[name] for name in params},
            user_attrs={first.metric: record.value} | metrics | {"trial": record.trial},
        )
        for each in constraints_in(further):
            trial.set_constraint(each.name, each.violation(record.metrics) or 0.0)
        study.add_trial(trial)
    return study


def _params_of(record: TrialRecord, distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    return {
        name: in_plot(value) if isinstance(distributions[name], CategoricalDistribution) else value
        for name, value in record.values.items()
        if name in distributions
    }


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distributions of what is searched; choices as their texts."""
    asked = _Asked()
    for name, distribution in space.items():
        if not isinstance(distribution, Constant):
            distribution.suggest(asked, name)
    return asked.distributions


class _Asked(AskedTrial):
    """Notes how each parameter is asked for."""

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        if isinstance(distribution, FloatDistribution | IntDistribution):
            return distribution.low
        assert isinstance(distribution, CategoricalDistribution)
        self.distributions[name] = CategoricalDistribution(tuple(dict.fromkeys(map(in_plot, distribution.choices))))
        return distribution.choices[0]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the differences between trials each parameter explains."""

    method: str
    shares: dict[str, float]
    """Of the parameters that all of these trials have, the greatest first."""
    left_out: tuple[str, ...]
    """Parameters that only some of them have."""


def importance_of(compared: ComparedTrials) -> Importance | None:
    """By fANOVA, or by PED-ANOVA of many trials; None where it cannot be said."""
    many = compared.count >= MANY
    evaluator = importance.PedAnovaImportanceEvaluator() if many else importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = importance.get_param_importances(compared.study, evaluator=evaluator)
    except (ValueError, RuntimeError) as error:  # too few trials, or no parameter that all of them have
        log.info("no importance of parameters: %s", error)
        return None
    trials = compared.study.get_trials(deepcopy=False, states=[OptunaState.COMPLETE])
    names = {name for trial in trials for name in trial.params}
    return Importance(
        method="PED-ANOVA" if many else "fANOVA",
        shares=dict(shares),
        left_out=tuple(sorted(names - shares.keys())),
    )
