"""Searches to be compared: the product's own parts, and its peers'."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from search_spaces.distributions import (
    Categorical,
    Distribution,
    Int,
    IntLog,
    LogUniform,
    QUniform,
    Space,
    Uniform,
)
from tuning.planning.simulation import END, Scheduled, SimulatedTrial, result_of
from tuning.search.early_stopping import CLOCK
from tuning.search.evidence import Learning
from tuning.search.schedulers import make_scheduler
from tuning.search.searcher import OptunaSearcher
from tuning.search.warm_start import EarlierTrial, parameters_of
from tuning.study import SchedulerConfig, SearchConfig, StudyConfig
from tuning.study.searchers import SEARCHERS

if TYPE_CHECKING:
    from tables import Table

optuna.logging.set_verbosity(optuna.logging.ERROR)
ETA = 3


class Product:
    """A searcher and a scheduler of the product, as Ray Tune drives them."""

    def __init__(
        self,
        study: StudyConfig,
        *,
        algorithm: str,
        scheduler: str,
        seed: int,
        startup: int = 10,
        earlier: Sequence[EarlierTrial] = (),
    ) -> None:
        search = study.search.model_copy(update={"algorithm": algorithm, "seed": seed, "startup_trials": startup})
        objective = study.objective.model_copy(update={"mode": "max"})
        self._searcher = OptunaSearcher(
            optuna.create_study(direction="maximize"), study.space, search, objective, earlier=earlier
        )
        config = SchedulerConfig.model_validate({"name": scheduler})
        self._scheduler = Scheduled(
            make_scheduler(config, metric="objective", mode="max", space=study.space, search=search)
        )
        self._searcher.promotion = self._scheduler.promotion
        self._trials: dict[int, SimulatedTrial] = {}
        self._names = itertools.count()
        self._name_of: dict[int, str] = {}
        """What the searcher calls a trial: a promoted one has another name."""

    def next(self) -> SimulatedTrial | None:
        name = f"{next(self._names)}"
        suggested = self._searcher.suggest(name)
        if not isinstance(suggested, dict):
            return None
        number = cast(int, suggested["trial"])
        self._name_of[number] = name
        if number not in self._trials:
            self._trials[number] = SimulatedTrial(number, cast(dict[str, Any], suggested["values"]))
        self._scheduler.add(self._trials[number])
        return self._trials[number]

    def goes_on(self, trial: SimulatedTrial) -> bool:
        self._searcher.on_trial_result(self._name_of[trial.number], result_of(trial))
        goes_on = self._scheduler.goes_on(trial)
        if not goes_on:
            self._tell(trial)
        return goes_on

    def ended(self, trial: SimulatedTrial) -> None:
        self._scheduler.close(trial)
        self._tell(trial)

    def _tell(self, trial: SimulatedTrial) -> None:
        self._searcher.on_trial_complete(self._name_of[trial.number], result_of(trial))
        self._searcher.tell(self._name_of[trial.number])


def trials_of(table: Table, space: Space, generator: np.random.Generator, *, count: int = 20) -> list[EarlierTrial]:
    """What a random sweep of so many trials on a table tells a search in another space."""
    found = []
    for row in generator.permutation(len(table.values))[:count].tolist():
        values = table.dev[row, int(generator.integers(table.dev.shape[1]))].tolist()
        curve = dict(zip(table.percents.tolist(), values, strict=True))
        for params, distributions in parameters_of(space, table.values[row]):
            found.append(EarlierTrial(table.study.name, row, params, distributions, curve, max(values)))
    return found


class Optuna:
    """Optuna alone: TPE, and one of its pruners. With its median pruner, no seed and nothing given, what Trainer's
    search does."""

    def __init__(
        self, study: StudyConfig, pruner: optuna.pruners.BasePruner, *, seed: int, given: bool = True, **sampler: Any
    ) -> None:
        """`given`: whether it is told the study's points."""
        sampler = {"sampler": optuna.samplers.TPESampler(seed=seed, **sampler)}
        self._study = optuna.create_study(direction="maximize", pruner=pruner, study_name=f"seed {seed}", **sampler)
        for point in study.search.points if given else ():
            self._study.enqueue_trial(point)
        self._space = study.space
        self._trials: dict[int, optuna.Trial] = {}

    def next(self) -> SimulatedTrial | None:
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return SimulatedTrial(trial.number, self._space.suggest(trial))

    def goes_on(self, trial: SimulatedTrial) -> bool:
        optuna_trial = self._trials[trial.number]
        optuna_trial.report(trial.curve[trial.percent], step=trial.percent)
        if not optuna_trial.should_prune():
            return True
        self._study.tell(optuna_trial, state=optuna.trial.TrialState.PRUNED)
        return False

    def ended(self, trial: SimulatedTrial) -> None:
        self._trials[trial.number].report(trial.curve[trial.percent], step=trial.percent)
        self._study.tell(self._trials[trial.number], trial.curve[trial.percent])


class RayTune:
    """Ray Tune's own: `OptunaSearch` and `ASHAScheduler`, as its examples join them."""

    def __init__(self, study: StudyConfig, *, seed: int) -> None:
        def suggest(trial: optuna.Trial) -> dict[str, Any]:
            study.space.suggest(trial)
            return {}

        points = [dict(point) for point in study.search.points]
        self._searcher = OptunaSearch(suggest, points_to_evaluate=points, metric="objective", mode="max", seed=seed)
        asha = ASHAScheduler(CLOCK, "objective", "max", max_t=END, grace_period=10, reduction_factor=ETA)
        self._scheduler = Scheduled(asha)
        self._begun = 0

    def next(self) -> SimulatedTrial | None:
        values = self._searcher.suggest(str(self._begun))
        if not isinstance(values, dict):
            return None
        trial = SimulatedTrial(self._begun, values)
        self._begun += 1
        self._scheduler.add(trial)
        return trial

    def goes_on(self, trial: SimulatedTrial) -> bool:
        self._searcher.on_trial_result(str(trial.number), result_of(trial) | {"training_iteration": trial.percent})
        goes_on = self._scheduler.goes_on(trial)
        if not goes_on:
            self._searcher.on_trial_complete(str(trial.number), result_of(trial))
        return goes_on

    def ended(self, trial: SimulatedTrial) -> None:
        self._scheduler.close(trial)
        self._searcher.on_trial_complete(str(trial.number), result_of(trial))


class SyneTune:
    """One of Syne Tune's baselines that stop: `ASHA`, `ASHABORE`, `ASHACQR`."""

    def __init__(self, study: StudyConfig, baseline: str, *, seed: int) -> None:
        from syne_tune.optimizer import baselines

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)
        self._scheduler = getattr(baselines, baseline)(
            {name: syne_tune_domain(each) for name, each in study.space.items()},
            metric="objective",
            time_attr=CLOCK,
            max_t=END,
            grace_period=10,
            reduction_factor=ETA,
            do_minimize=False,
            random_seed=seed,
            points_to_evaluate=[dict(point) for point in study.search.points],
        )
        self._trials: dict[int, Any] = {}

    def next(self) -> SimulatedTrial | None:
        from syne_tune.backend.trial_status import Trial

        config, number = self._scheduler.suggest().config, len(self._trials)
        self._trials[number] = Trial(trial_id=number, config=config, creation_time=datetime.now())
        self._scheduler.on_trial_add(self._trials[number])
        return SimulatedTrial(number, config)

    def goes_on(self, trial: SimulatedTrial) -> bool:
        return bool(self._scheduler.on_trial_result(self._trials[trial.number], result_of(trial)) == "CONTINUE")

    def ended(self, trial: SimulatedTrial) -> None:
        self._scheduler.on_trial_complete(self._trials[trial.number], result_of(trial))


def syne_tune_domain(distribution: Distribution) -> Any:
    """What Syne Tune calls a distribution."""
    from syne_tune import config_space

    if isinstance(distribution, Categorical):
        return config_space.choice(distribution.values)
    low, high = distribution.ends()
    if isinstance(distribution, QUniform):
        return config_space.finrange(low, high, distribution.count())
    names = {Uniform: "uniform", LogUniform: "loguniform", Int: "randint", IntLog: "lograndint"}
    return getattr(config_space, names[type(distribution)])(low, high)


def all_rungs(search: SearchConfig, space: Space, seed: int) -> BaseSampler:
    """TPE that ranks a stopped trial by where it would have ended."""
    return Learning(optuna.samplers.TPESampler(n_startup_trials=search.startup_trials, seed=seed))


def tpe(**settings: Any) -> Callable[[SearchConfig, Space, int], BaseSampler]:
    """TPE with other settings."""

    def make(search: SearchConfig, space: Space, seed: int) -> BaseSampler:
        return optuna.samplers.TPESampler(n_startup_trials=search.startup_trials, seed=seed, **settings)

    return make


SEARCHERS.update(
    {
        "tpe-rungs": all_rungs,
        "tpe-alone": tpe(multivariate=False),
        "tpe-no-liar": tpe(multivariate=True, constant_liar=False),
    }
)
"""Candidates for the product's search, as another package would add them."""
