"""An Optuna study as the searcher of Ray Tune, told the truth about every trial.

Ray's own `OptunaSearch` tells stopped trials to Optuna as COMPLETE, without their curves. Here a trial's curve is
reported as it comes; a stopped trial is PRUNED, a crashed one FAIL, and one that the sweep was interrupted in goes back
to WAITING: `ask` hands it out again, with the same number and values, when the sweep is resumed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tuning.driver_only import DriverOnly
from tuning.failures import failure_of
from tuning.journal import SweepJournal
from tuning.results import UNFINISHED, TrialRecord
from tuning.study import SearchConfig
from tuning.sweep_folder import JOURNAL


def open_optuna_study(
    folder: Path,
    *,
    name: str,
    objective: Objective,
    search: SearchConfig,
    resume: bool,
    ledger: Iterable[TrialRecord] = (),
) -> optuna.Study:
    """The persistent Optuna study of a sweep: a journal file in its folder, or the study file's storage URL.

    A killed driver may not have told Optuna how a trial ended: it is told from the `ledger`. Trials that run
    according to both go back to WAITING.

    Raises:
        InputError: a new sweep finds a study of its name in the storage, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage: BaseStorage | str = search.storage or JournalStorage(SweepJournal(folder / JOURNAL))
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
    for point in search.points[len(study.get_trials(deepcopy=False)) :]:  # the first trials of all
        study.enqueue_trial(dict(point))
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])}
    for record in ledger:
        if record.trial in trials and record.state not in UNFINISHED:
            trial = trials.pop(record.trial)
            for progress in record.curve.keys() - trial.intermediate_values.keys():
                study._storage.set_trial_intermediate_value(trial._trial_id, progress, record.curve[progress])
            _tell(study, trial.number, record.curve, objective, failed=record.state == "FAILED")
    for trial in trials.values():
        _put_back(study, trial._trial_id)
    return study


def make_sampler(search: SearchConfig, space: Space, *, trial: int, parameter: str = "") -> optuna.samplers.BaseSampler:
    """The sampler for a trial, or for one parameter of it that is drawn apart from the others.

    Its random state is not in Optuna's storage, so it follows from the study's seed and the trial's number: a resumed
    study neither repeats its first suggestions nor depends on having been interrupted.
    """
    seed = int(np.random.SeedSequence([search.seed, trial, *parameter.encode()]).generate_state(1)[0])
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


class OneByOne:
    """A trial whose parameters have samplers of their own: when a driver is killed in the midst of them, the others
    do not become what these would have been."""

    def __init__(self, trial: optuna.Trial, sampler_of: Callable[[str], optuna.samplers.BaseSampler]) -> None:
        self._trial, self._sampler_of = trial, sampler_of
        self._trial.relative_params  # noqa: B018  (what is drawn together is drawn first, with the trial's own sampler)

    def suggest_float(self, name: str, *args: Any, **kwargs: Any) -> float:
        return self._prepared(name).suggest_float(name, *args, **kwargs)

    def suggest_int(self, name: str, *args: Any, **kwargs: Any) -> int:
        return self._prepared(name).suggest_int(name, *args, **kwargs)

    def suggest_categorical(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._prepared(name).suggest_categorical(name, *args, **kwargs)

    def _prepared(self, name: str) -> optuna.Trial:
        self._trial.study.sampler = self._sampler_of(name)
        return self._trial


class OptunaSearcher(DriverOnly, Searcher):
    """Gives Ray Tune configs of the form `{"trial": number, "values": {parameter: value}}`."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        search: SearchConfig,
        objective: Objective,
        *,
        ledger: Iterable[TrialRecord] = (),
    ) -> None:
        """`ledger`: which of its trials go on though Optuna was told that they failed: see `take_up_lost`. Optuna
        cannot take that back, and hears nothing more of them."""
        super().__init__(metric="objective", mode=objective.mode)
        self._study, self._space, self._search, self._objective = study, space, search, objective
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[str, dict[int, float]] = {}
        self._failed: set[str] = set()
        ended = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
        self._taken_up = [record for record in ledger if record.state in UNFINISHED and record.trial in ended]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and mode are the study's own."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Values for a new trial, or for one that was interrupted."""
        if self._taken_up:
            record = self._taken_up.pop(0)
            return {"trial": record.trial, "values": record.values}
        trials = self._study.get_trials(deepcopy=False)
        number = next((trial.number for trial in trials if trial.state == TrialState.WAITING), len(trials))
        sampler_of = partial(make_sampler, self._search, self._space, trial=number)
        self._study.sampler = sampler_of()
        trial = self._study.ask()
        values = self._space.suggest(OneByOne(trial, lambda name: sampler_of(parameter=name)))
        self._running[trial_id] = trial
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        self._reported[trial_id] = dict(frozen.intermediate_values)
        return {"trial": trial.number, "values": values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """One point of a trial's curve, at its percentage of the run."""
        value, progress = result["objective"], result["progress"]
        if trial_id in self._running and progress not in self._reported[trial_id]:
            self._running[trial_id].report(value, step=progress)
            self._reported[trial_id][progress] = value

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial: it is told when the sweep's ledger has it, see `Teller`."""
        if trial_id in self._running:
            if result is not None and not error:
                self.on_trial_result(trial_id, result)
            self._failed |= {trial_id} if error else set()

    def tell(self, trial_id: str) -> None:
        """Tell Optuna how a trial ended: COMPLETE with the value of its best checkpoint, PRUNED, or FAIL."""
        if trial_id in self._running:
            trial, curve = self._running.pop(trial_id), self._reported.pop(trial_id)
            _tell(self._study, trial.number, curve, self._objective, failed=trial_id in self._failed)

    def put_back(self) -> None:
        """The sweep ends before its trials: those that run go back to WAITING, for a resume."""
        for trial in self._running.values():
            _put_back(self._study, trial._trial_id)
        self._running.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""


class Teller(DriverOnly, Callback):
    """Hears of a trial's end after the ledger: what Optuna calls ended, a killed driver has written down."""

    def __init__(self, searcher: OptunaSearcher) -> None:
        self._searcher = searcher

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Its own end, or the scheduler's."""
        self._searcher.tell(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """It failed; if it was cut off, it goes back with all that run."""
        if failure_of(trial) is not None:
            self._searcher.tell(trial.trial_id)


def _tell(study: optuna.Study, trial: int, curve: Mapping[int, float], objective: Objective, *, failed: bool) -> None:
    if failed or not curve:
        study.tell(trial, state=TrialState.FAIL)
    elif max(curve) < 100:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        best = max if objective.mode == "max" else min
        study.tell(trial, best(value for value in curve.values() if math.isfinite(value)))


def _put_back(study: optuna.Study, trial_id: int) -> None:
    study._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
