"""The Optuna study of a sweep: a journal in its folder, or a database, whose trials are those of the ledger."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from kobert_core.config import Objective
from kobert_core.errors import InputError
from tuning.search.journal import SweepJournal
from tuning.study import SearchConfig
from tuning.study.objectives import Further, constraints_in, goals_in
from tuning.sweep_dir.layout import JOURNAL, LEDGER
from tuning.sweep_dir.trial_status import OPTUNA_STATES, TrialState
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.tracking.databases import check_database
from tuning.tracking.uris import sqlite_path

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
OTHER_TRIALS = "take a copy of it from a backup, name the storage that the sweep had, or begin a new one by `--name`"


def open_optuna_study(
    folder: Path,
    *,
    name: str,
    objective: Objective,
    search: SearchConfig,
    resume: bool,
    ledger: Iterable[TrialRecord] | None = None,
    newest_counts: bool = False,
    further: Further = (),
) -> optuna.Study:
    """The persistent Optuna study of a sweep: a journal file in its folder, or the study file's storage URL.

    A killed driver may not have told Optuna how a trial ended: Optuna is told now, from the `ledger`. Trials that are
    running in both go back to WAITING; those that are paused in the ledger stay RUNNING.

    `newest_counts`, `further`: as in `tell`. `refuse_other_search` looks beforehand whether it is the sweep's own.

    Raises:
        InputError: it cannot be opened, or is there already and `resume` is not given.
    """
    with _refusing_broken(folder, search):
        storage = _storage_of(folder, search)
        directions = [DIRECTIONS[each.mode] for each in (objective, *goals_in(further))]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=resume)
        if not takes_curves(study) and study.metric_names is None:  # for Optuna's own tools
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([objective.metric, *(each.metric for each in goals_in(further))])
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False, states=[OptunaState.RUNNING])}
    for record in ledger or ():
        if record.trial in trials and record.state == TrialState.PAUSED:
            del trials[record.trial]  # when a trial pauses, its curve is in Optuna before the ledger knows of it
        elif record.trial in trials and record.has_ended:
            trial = trials.pop(record.trial)
            missing = record.curve.keys() - trial.intermediate_values.keys()
            for progress in missing if takes_curves(study) else ():
                study._storage.set_trial_intermediate_value(trial._trial_id, progress, record.curve[progress])
            told = Outcome(record.state, record.curve, record.metrics)
            tell(study, trial.number, told, objective, newest_counts=newest_counts, further=further)
    for trial in trials.values():
        put_back(study, trial._trial_id)
    return study


def refuse_other_search(
    folder: Path, *, name: str, search: SearchConfig, resume: bool, ledger: Sequence[TrialRecord] | None
) -> None:
    """Check that a sweep can start or resume with what the storage holds; change nothing.

    Raises:
        InputError: a new sweep finds a study of its name in the storage, the storage cannot be opened, or its trials
            are not those of the ledger.
    """
    file = _file_of(folder, search)
    if file is not None and not file.exists():
        if ledger:
            raise InputError(
                "this file of the sweep is gone: it has all that the search knows", where=file, fix=OTHER_TRIALS
            )
        return
    with _refusing_broken(folder, search):
        trials = _trials_in(_storage_of(folder, search), name)
    if trials is not None and not resume:
        raise InputError(
            f"the storage has a study `{name}` already", where="search.storage", fix="give another `--name`"
        )
    if ledger is not None:
        _refuse_other_trials(trials or [], ledger, _where(folder, search))


def _trials_in(storage: BaseStorage | str, name: str) -> list[FrozenTrial] | None:
    """The trials of a study; None when there is none of this name."""
    try:
        return optuna.load_study(storage=storage, study_name=name).get_trials(deepcopy=False)
    except KeyError:
        return None


def _where(folder: Path, search: SearchConfig) -> Path | str:
    return "search.storage" if search.storage else folder / JOURNAL


def _file_of(folder: Path, search: SearchConfig) -> Path | None:
    """The file that holds the study, unless a database server does."""
    return sqlite_path(search.storage) if search.storage else folder / JOURNAL


def _storage_of(folder: Path, search: SearchConfig) -> BaseStorage | str:
    """As Optuna takes it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if search.storage is None:
        return JournalStorage(SweepJournal(folder / JOURNAL))
    check_database(search.storage, where="search.storage")
    if file := _file_of(folder, search):
        file.parent.mkdir(parents=True, exist_ok=True)
    return search.storage


@contextmanager
def _refusing_broken(folder: Path, search: SearchConfig) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the storage: Optuna's, SQLAlchemy's, the database's, a damaged journal's
        said = " ".join(str(error).split())
        where = _where(folder, search)
        raise InputError(f"the Optuna study cannot be opened ({type(error).__name__}: {said})", where=where) from error


def _refuse_other_trials(trials: Sequence[FrozenTrial], ledger: Sequence[TrialRecord], where: Path | str) -> None:
    """Optuna hears of a trial before the ledger does, and of its end after it; so each must know the other's trials."""
    known = {record.trial for record in ledger}
    problem = None
    for record in ledger:
        if record.trial >= len(trials):
            problem = f"it lacks trial {record.trial}"
        elif not all(_equal(value, record.values.get(name)) for name, value in trials[record.trial].params.items()):
            problem = f"its trial {record.trial} has other values"
    for trial in trials:
        if trial.state.is_finished() and trial.number not in known:
            problem = f"{LEDGER} lacks its trial {trial.number}"
    if problem:
        raise InputError(f"this search is not that of the sweep's {LEDGER}: {problem}", where=where, fix=OTHER_TRIALS)


def _equal(value: object, other: object) -> bool:
    """Equal up to the rounding of a database."""
    if isinstance(value, float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-12)
    return bool(value == other)


class Outcome(NamedTuple):
    """How a trial ended."""

    state: TrialState
    curve: Mapping[int, float]
    """The first objective by progress."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Of its best evaluation; asked for where there are further objectives or constraints."""


def tell(
    study: optuna.Study,
    trial: int,
    outcome: Outcome,
    objective: Objective,
    *,
    newest_counts: bool = False,
    further: Further = (),
) -> None:
    """Tell Optuna how a trial ended: a complete one has the value of its best checkpoint, or with `newest_counts` of
    its newest report, where that is the mean of its folds; one without a report is a failure to Optuna.

    Of `further` objectives it has what that checkpoint has, and fails where that lacks one; constraints are told of a
    stopped trial as well. Of several objectives Optuna takes no curves: a stopped trial is PRUNED without any value.
    """
    state, curve, metrics = outcome
    if curve:
        _tell_constraints(study, trial, metrics, further)
    goals = [each.metric for each in goals_in(further)]
    if state == TrialState.COMPLETE and metrics.keys() >= set(goals):
        best = max if objective.mode == "max" else min
        newest = curve[max(curve)]
        value = newest if newest_counts else best(each for each in curve.values() if math.isfinite(each))
        study.tell(trial, [value, *(metrics[name] for name in goals)])
    else:
        has_ended_well = curve and state != TrialState.COMPLETE
        study.tell(trial, state=OptunaState[OPTUNA_STATES[state if has_ended_well else TrialState.FAILED]])


def _tell_constraints(study: optuna.Study, trial: int, metrics: Mapping[str, float], further: Further) -> None:
    frozen = study.get_trials(deepcopy=False)[trial]
    for each in constraints_in(further):
        violation = each.violation(metrics)
        if violation is not None and each.name not in frozen.constraints:  # a killed driver may have told it
            optuna.trial.Trial(study, frozen._trial_id).set_constraint(each.name, violation)


def with_pauses_as_ends(
    study: optuna.Study, paused: Mapping[int, Outcome], objective: Objective, *, further: Further = ()
) -> optuna.Study:
    """A copy in memory in which paused trials are PRUNED, with what they have come to.

    TPE counts every RUNNING trial as a bad one, until it is known to be good. Of a trial that waits at a rung, as much
    is known as of one that was stopped there.
    """
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(study.get_trials(deepcopy=False))
    for trial, outcome in paused.items():
        tell(copy, trial, outcome, objective, further=further)
    return copy


def takes_curves(study: optuna.Study) -> bool:
    """Whether Optuna takes the curves of its trials: not with several objectives."""
    return len(study.directions) == 1


def put_back(study: optuna.Study, trial_id: int) -> None:
    """Set a running trial back to WAITING."""
    study._storage.set_trial_state_values(trial_id, state=OptunaState[OPTUNA_STATES[TrialState.INTERRUPTED]])
