"""Searches to be compared: the product's own parts, and its peers'."""

from __future__ import annotations

import itertools
from typing import Any, cast

import optuna
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from search_spaces.distributions import Space
from tuning.planning.simulation import END, Scheduled, SimulatedTrial, result_of
from tuning.search.replay import CLOCK
from tuning.search.schedulers import make_scheduler
from tuning.search.searcher import OptunaSearcher
from tuning.study import SchedulerConfig, StudyConfig

optuna.logging.set_verbosity(optuna.logging.ERROR)
ETA = 3


class Product:
    """A searcher and a scheduler of the product, as Ray Tune drives them."""

    def __init__(self, study: StudyConfig, *, algorithm: str, scheduler: str, seed: int) -> None:
        search = study.search.model_copy(update={"algorithm": algorithm, "seed": seed, "startup_trials": 10})
        objective = study.objective.model_copy(update={"mode": "max"})
        self._searcher = OptunaSearcher(optuna.create_study(direction="maximize"), study.space, search, objective)
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


class Optuna:
    """Optuna alone: TPE, and one of its pruners. With its median pruner and no seed, what Trainer's search does."""

    def __init__(self, space: Space, pruner: optuna.pruners.BasePruner, *, seed: int, **sampler: Any) -> None:
        sampler = {"sampler": optuna.samplers.TPESampler(seed=seed, **sampler)}
        self._study = optuna.create_study(direction="maximize", pruner=pruner, study_name=f"seed {seed}", **sampler)
        self._space = space
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

    def __init__(self, space: Space, *, seed: int) -> None:
        def suggest(trial: optuna.Trial) -> dict[str, Any]:
            space.suggest(trial)
            return {}

        self._searcher = OptunaSearch(suggest, metric="objective", mode="max", seed=seed)
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
