"""An Optuna study as the searcher of Ray Tune, told the truth about every trial.

Ray's own `OptunaSearch` tells stopped trials to Optuna as COMPLETE, without their curves. Here a trial's curve is
reported as it comes; a stopped trial is PRUNED, a crashed one FAIL, and one that the sweep was interrupted in goes back
to WAITING: `ask` hands it out again, with the same number and values, when the sweep is resumed.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import TrialState
from ray.tune.search import Searcher

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tuning.driver_only import DriverOnly
from tuning.journal import CheckedJournal
from tuning.study import SearchConfig

JOURNAL = "optuna_journal.log"


def open_optuna_study(
    folder: Path, *, name: str, objective: Objective, search: SearchConfig, resume: bool
) -> optuna.Study:
    """The persistent Optuna study of a sweep: a journal file in its folder, or the study file's storage URL.

    Trials that a killed driver left RUNNING go back to WAITING.

    Raises:
        InputError: a new sweep finds a study of its name in the storage, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage: BaseStorage | str = search.storage or JournalStorage(CheckedJournal(folder / JOURNAL))
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if objective.mode == "max" else "minimize",
            load_if_exists=resume,
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f"the storage has a study `{name}` already", where="search.storage", fix="give another `--name`"
        ) from None
    except InputError:
        raise
    except Exception as error:  # of the storage: Optuna's, SQLAlchemy's, the database's, a damaged journal's
        where = "search.storage" if search.storage else folder / JOURNAL
        raise InputError(f"the Optuna study cannot be opened ({type(error).__name__}: {error})", where=where) from error
    if not study.get_trials(deepcopy=False):
        for point in search.points:
            study.enqueue_trial(dict(point))
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        _put_back(study, trial._trial_id)
    return study


def make_sampler(search: SearchConfig, space: Space, *, asked: int) -> optuna.samplers.BaseSampler:
    """The sampler for the next trial.

    Its random state is not in Optuna's storage, so it follows from the study's seed and the number of trials
    asked for: a resumed study neither repeats its first suggestions nor depends on having been interrupted.
    """
    seed = int(np.random.SeedSequence([search.seed, asked]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.algorithm == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if search.algorithm == "grid":
            return _Grid(space.grid(), seed=search.seed)
        if search.algorithm == "cmaes":
            return optuna.samplers.CmaEsSampler(
                n_startup_trials=search.startup_trials, seed=seed, warn_independent_sampling=False
            )
        return optuna.samplers.TPESampler(
            n_startup_trials=search.startup_trials,
            multivariate=True,
            group=space.has_conditions,
            constant_liar=True,
            seed=seed,
        )


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid, in a loop that is not Optuna's: Ray Tune counts the trials."""

    def after_trial(self, *_: Any, **__: Any) -> None:
        """Nothing: Optuna would end its own loop after the last point."""


class OptunaSearcher(DriverOnly, Searcher):
    """Gives Ray Tune configs of the form `{"trial": number, "values": {parameter: value}}`."""

    def __init__(self, study: optuna.Study, space: Space, search: SearchConfig, objective: Objective) -> None:
        super().__init__(metric="objective", mode=objective.mode)
        self._study, self._space, self._search, self._objective = study, space, search, objective
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[str, dict[int, float]] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and mode are the study's own."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Values for a new trial, or for one that was interrupted."""
        trials = self._study.get_trials(deepcopy=False)
        asked = sum(trial.state != TrialState.WAITING for trial in trials)
        self._study.sampler = make_sampler(self._search, self._space, asked=asked)
        trial = self._study.ask()
        values = self._space.suggest(trial)
        self._running[trial_id] = trial
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        self._reported[trial_id] = dict(frozen.intermediate_values)
        return {"trial": trial.number, "values": values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """One point of a trial's curve, at its percentage of the run."""
        value, progress = result["objective"], result["progress"]
        if progress not in self._reported[trial_id]:
            self._running[trial_id].report(value, step=progress)
            self._reported[trial_id][progress] = value

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial: COMPLETE with the value of its best checkpoint, PRUNED, or FAIL."""
        if trial_id not in self._running:
            return
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        trial, curve = self._running.pop(trial_id), self._reported.pop(trial_id)
        if error or not curve:
            self._study.tell(trial, state=TrialState.FAIL)
        elif max(curve) < 100:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            best = max if self._objective.mode == "max" else min
            self._study.tell(trial, best(value for value in curve.values() if math.isfinite(value)))

    def put_back(self) -> None:
        """The sweep ends before its trials: those that run go back to WAITING, for a resume."""
        for trial in self._running.values():
            _put_back(self._study, trial._trial_id)
        self._running.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""


def _put_back(study: optuna.Study, trial_id: int) -> None:
    study._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
