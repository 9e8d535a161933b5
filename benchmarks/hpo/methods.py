"""Searches to be compared: the product's own parts, its peers', and what might become part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import optuna
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from simulate import Method, Trial

from search_spaces.distributions import Space
from tuning.search.replay import CLOCK
from tuning.search.schedulers import make_scheduler
from tuning.search.searcher import OptunaSearcher
from tuning.study import SchedulerConfig, StudyConfig
from tuning.workers.results import TrialResult

optuna.logging.set_verbosity(optuna.logging.ERROR)
END = 100
ETA = 3


class Product(Method):
    """A searcher and a scheduler of the product, as Ray Tune drives them."""

    def __init__(self, study: StudyConfig, *, algorithm: str, scheduler: str, seed: int) -> None:
        self._search = study.search.model_copy(update={"algorithm": algorithm, "seed": seed, "startup_trials": 10})
        objective = study.objective.model_copy(update={"mode": "max"})
        optuna_study = optuna.create_study(direction="maximize")
        self._searcher = OptunaSearcher(optuna_study, study.space, self._search, objective)
        self._scheduler = make_scheduler(
            SchedulerConfig.model_validate({"name": scheduler}),
            metric="objective",
            mode="max",
            space=study.space,
            search=self._search,
        )
        self._tune_trials: dict[int, Any] = {}

    def next(self) -> Trial | None:
        number = len(self._tune_trials)
        suggested = self._searcher.suggest(str(number))
        if not isinstance(suggested, dict):
            return None
        tune_trial = StandIn(number)
        self._tune_trials[number] = tune_trial
        self._scheduler.on_trial_add(cast(Any, None), tune_trial)
        return Trial(number, cast(dict[str, Any], suggested["values"]))

    def goes_on(self, trial: Trial) -> bool:
        result = result_of(trial)
        self._searcher.on_trial_result(str(trial.number), result)
        decision = self._scheduler.on_trial_result(cast(Any, None), self._tune_trials[trial.number], result)
        if decision == TrialScheduler.CONTINUE:
            return True
        self._close(trial, result)
        return False

    def ended(self, trial: Trial) -> None:
        self._close(trial, result_of(trial))

    def _close(self, trial: Trial, result: dict[str, Any]) -> None:
        self._scheduler.on_trial_complete(cast(Any, None), self._tune_trials[trial.number], result)
        self._searcher.on_trial_complete(str(trial.number), result)
        self._searcher.tell(str(trial.number))


class StandIn(TuneTrial):
    """What schedulers ask of a trial of Ray Tune."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = str(number), {"trial": number}


def result_of(trial: Trial) -> dict[str, Any]:
    """A trial's latest evaluation, as Ray Tune hears of it."""
    said: TrialResult | dict[str, Any] = {"objective": trial.curve[trial.percent], CLOCK: trial.percent}
    return cast(dict[str, Any], said)


class Optuna(Method):
    """Optuna alone: TPE, and one of its pruners. With its median pruner and no seed, what Trainer's search does."""

    def __init__(self, space: Space, pruner: optuna.pruners.BasePruner, *, seed: int, **sampler: Any) -> None:
        sampler = {"sampler": optuna.samplers.TPESampler(seed=seed, **sampler)}
        self._study = optuna.create_study(direction="maximize", pruner=pruner, study_name=f"seed {seed}", **sampler)
        self._space = space
        self._trials: dict[int, optuna.Trial] = {}

    def next(self) -> Trial | None:
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return Trial(trial.number, self._space.suggest(trial))

    def goes_on(self, trial: Trial) -> bool:
        optuna_trial = self._trials[trial.number]
        optuna_trial.report(trial.curve[trial.percent], step=trial.percent)
        if not optuna_trial.should_prune():
            return True
        self._study.tell(optuna_trial, state=optuna.trial.TrialState.PRUNED)
        return False

    def ended(self, trial: Trial) -> None:
        self._trials[trial.number].report(trial.curve[trial.percent], step=trial.percent)
        self._study.tell(self._trials[trial.number], trial.curve[trial.percent])


class RayTune(Method):
    """Ray Tune's own: `OptunaSearch` and `ASHAScheduler`, as its examples join them."""

    def __init__(self, space: Space, *, seed: int) -> None:
        from ray.tune.search.optuna import OptunaSearch

        def suggest(trial: optuna.Trial) -> dict[str, Any]:
            space.suggest(trial)
            return {}

        self._searcher: Searcher = OptunaSearch(suggest, metric="objective", mode="max", seed=seed)
        self._scheduler = ASHAScheduler(CLOCK, "objective", "max", max_t=END, grace_period=10, reduction_factor=ETA)
        self._tune_trials: list[StandIn] = []

    def next(self) -> Trial | None:
        number = len(self._tune_trials)
        values = self._searcher.suggest(str(number))
        if not isinstance(values, dict):
            return None
        self._tune_trials.append(StandIn(number))
        self._scheduler.on_trial_add(cast(Any, None), self._tune_trials[number])
        return Trial(number, values)

    def goes_on(self, trial: Trial) -> bool:
        result = result_of(trial)
        self._searcher.on_trial_result(str(trial.number), result | {"training_iteration": trial.percent})
        decision = self._scheduler.on_trial_result(cast(Any, None), self._tune_trials[trial.number], result)
        if decision == TrialScheduler.CONTINUE:
            return True
        self.ended(trial)
        return False

    def ended(self, trial: Trial) -> None:
        result = result_of(trial)
        self._scheduler.on_trial_complete(cast(Any, None), self._tune_trials[trial.number], result)
        self._searcher.on_trial_complete(str(trial.number), result)


class Promotion(Method):
    """Asynchronous successive halving as published (Li et al. 2020, MLSys, algorithm 2): trials pause at each rung, and
    a free worker first takes the best third of those that wait at a rung further, from the highest rung down."""

    def __init__(self, new_values: Callable[[int], dict[str, Any]], told: Callable[[Trial], None]) -> None:
        self._new_values, self._told = new_values, told
        self._trials: list[Trial] = []
        self._rungs: dict[int, list[Trial]] = {END // ETA**power: [] for power in range(2, 0, -1)}
        self._promoted: set[tuple[int, int]] = set()

    def next(self) -> Trial | None:
        for rung, there in sorted(self._rungs.items(), reverse=True):
            best = sorted(there, key=lambda trial: -best_until(trial, rung))[: len(there) // ETA]
            for trial in best:
                if (rung, trial.number) not in self._promoted:
                    self._promoted.add((rung, trial.number))
                    return trial
        trial = Trial(len(self._trials), self._new_values(len(self._trials)))
        self._trials.append(trial)
        return trial

    def goes_on(self, trial: Trial) -> bool:
        rung = next((rung for rung in self._rungs if self._reached(trial, rung)), None)
        if rung is None:
            return True
        self._rungs[rung].append(trial)
        self._told(trial)
        return False

    def _reached(self, trial: Trial, rung: int) -> bool:
        return trial.percent >= rung and trial not in self._rungs[rung]

    def ended(self, trial: Trial) -> None:
        self._told(trial)


def best_until(trial: Trial, percent: int) -> float:
    """A trial's best evaluation up to there."""
    return max(value for done, value in trial.curve.items() if done <= percent or done == min(trial.curve))


class Sampled:
    """New values from Optuna's TPE, which knows each trial by its latest evaluation."""

    def __init__(self, space: Space, *, seed: int) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        self._space, self._study = space, optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: dict[int, optuna.Trial] = {}

    def __call__(self, number: int) -> dict[str, Any]:
        trial = self._study.ask()
        self._asked[number] = trial
        return self._space.suggest(trial)

    def told(self, trial: Trial) -> None:
        """Report how far a trial has come; at its end, close it."""
        optuna_trial = self._asked[trial.number]
        optuna_trial.report(trial.curve[trial.percent], step=trial.percent)
        if trial.percent == END:
            self._study.tell(optuna_trial, trial.curve[END])
