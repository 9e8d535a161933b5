"""Trials of earlier sweeps that tell a search where to begin.

They are written into the sweep's own folder before its first trial, so that nothing which happens to the other sweeps
later changes what the search does. They are no trials of the sweep: no table has them, and none can win.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from kobert_core.config import Objective
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import sealed, unsealed
from search_spaces.distributions import Distribution, Space
from tuning.search.asking import GivenTrial
from tuning.storage.store import is_address
from tuning.study import StudyConfig
from tuning.sweep_dir.home import copy_here
from tuning.sweep_dir.layout import EARLIER
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import experiment_of, resolve_tracking_uri, sweeps_in

_FIX = "remove it from `search.warm_start`"


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of another sweep, by the parameters of this one."""

    sweep: str
    """Its folder or address, as the study names it; of one in an experiment, that of the experiment and its name."""
    trial: int
    """Its number there."""
    params: dict[str, Any]
    """A value of each parameter that a trial of this sweep with these values has."""
    distributions: dict[str, BaseDistribution]
    """Of the same parameters, as Optuna knows them."""
    curve: dict[int, float]
    """The objective by progress."""
    value: float | None
    """The objective of one that ran to its end."""


def take_earlier(folder: Path, study: StudyConfig, *, has_trials: bool) -> list[EarlierTrial]:
    """The earlier trials that the search of a sweep in a folder learns from: written there before it has trials, and
    read there ever after.

    Raises:
        InputError: as from `read_earlier` or `begun_with`.
    """
    if has_trials or not study.search.warm_start:
        return begun_with(folder, study)
    found = read_earlier(study, folder.parent)
    atomic_write_json(folder / EARLIER, sealed({"trials": [_as_row(each) for each in found]}))
    return found


def begun_with(folder: Path, study: StudyConfig) -> list[EarlierTrial]:
    """The earlier trials that a sweep began with; none without `search.warm_start`.

    Raises:
        InputError: they cannot be read.
    """
    if not study.search.warm_start:
        return []
    path = folder / EARLIER
    try:
        content = unsealed(json.loads(path.read_text(encoding="utf-8")), where=path)
        return [_of_row(study.space, row) for row in content["trials"]]
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = "the trials of other sweeps that this one began with cannot be read"
        raise InputError(what, where=path, fix="take a copy of it from a backup, or begin a new sweep") from error


def read_earlier(study: StudyConfig, output: Path) -> list[EarlierTrial]:
    """The ended trials of the sweeps in `search.warm_start` whose values are in the study's space.

    A parameter that a sweep did not search has the value that its trials were trained with. Trials with a value outside
    of the space are left out: the search could not have chosen them.

    Args:
        study: Of the sweep that begins.
        output: The folder of its folder, where MLflow's store is when the study names none.

    Raises:
        InputError: there is no such sweep or experiment, it has another objective, or none of its trials is in the
            space.
    """
    found: list[EarlierTrial] = []
    for given in study.search.warm_start:
        if (experiment := experiment_of(given)) is None:
            kind, trials = "sweep", _in_folder(study, given)
        else:
            kind, trials = "experiment", _in_experiment(study, given, experiment, output)
        if not trials:
            what = f"no trial of this {kind} has ended with values in the space of this study"
            raise InputError(what, where=given, fix=f"{_FIX}, or widen the space")
        found += trials
    return found


def _in_folder(study: StudyConfig, given: str) -> list[EarlierTrial]:
    folder = copy_here(given) if is_address(given) else Path(given)
    there = load_sweep_study(folder)
    if problem := _problem_with(study, there.task, _objective_in_words(there.objective), there.scheduler.name):
        raise InputError(problem, where=given, fix=_FIX)
    return [
        EarlierTrial(given, record.trial, params, distributions, record.curve, _value_of(record))
        for record in TrialTable.of(folder, there)
        if record.has_ended and record.state != TrialState.FAILED and record.curve
        for params, distributions in parameters_of(study.space, values_of(there, record, study.space))
    ]


def _in_experiment(study: StudyConfig, given: str, experiment: str, output: Path) -> list[EarlierTrial]:
    """Nobody has chosen the sweeps of an experiment one by one: where some have another objective, the others count."""
    found, problems = list[EarlierTrial](), list[str]()
    for sweep in sweeps_in(experiment, uri=resolve_tracking_uri(study.tracking.uri, output)):
        objective = sweep.objectives.split("; ")[0]
        if problem := _problem_with(study, sweep.task, objective, sweep.scheduler):
            problems.append(problem)
            continue
        found += [
            EarlierTrial(f"{given}/{sweep.name}", trial.number, params, distributions, trial.curve, trial.value)
            for trial in sweep.trials(study.objective.metric)
            for params, distributions in parameters_of(study.space, values_of_texts(study.space, trial.params))
        ]
    if problems and not found:
        raise InputError(problems[-1], where=given, fix=_FIX)
    return found


def in_words(earlier: Sequence[EarlierTrial]) -> list[str]:
    """A line for each sweep, such as `12 trials of first tell the search where to begin`."""
    counts = Counter(each.sweep for each in earlier)
    return [
        f"{count} trial{'s' if count > 1 else ''} of {Path(sweep).name} "
        f"tell{'' if count > 1 else 's'} the search where to begin"
        for sweep, count in counts.items()
    ]


def _problem_with(study: StudyConfig, task: str, objective: str, scheduler: str) -> str | None:
    """Why a search learns nothing from a sweep with this task, first objective in words, and scheduler."""
    ours, theirs = f"{study.task}, {_objective_in_words(study.objective)}", f"{task}, {objective}"
    if theirs != ours:
        return f"this sweep is of another objective ({theirs}) than the study ({ours})"
    return "the trials of this sweep changed their values in mid-run" if scheduler == "pbt" else None


def _objective_in_words(objective: Objective) -> str:
    return f"{objective.mode} {objective.metric}"


def values_of(study: StudyConfig, record: TrialRecord, names: Iterable[str]) -> dict[str, Any]:
    """What a trial of a study was trained with under dotted keys, searched or fixed there."""
    config = study.train_config(record.values).model_dump(mode="json")
    values = {}
    for name in names:
        section, _, field = name.partition(".")
        if name in record.values:
            values[name] = record.values[name]
        elif isinstance(of_section := config.get(section), dict) and field in of_section:
            values[name] = of_section[field]
    return values


def values_of_texts(space: Space, texts: Mapping[str, str]) -> dict[str, Any]:
    """Values of a space's parameters from the texts that they are in MLflow, where what is None is left out."""
    return {name: _of_text(distribution, texts.get(name, "None")) for name, distribution in space.items()}


def _of_text(distribution: Distribution, text: str) -> Any:
    number: float | None = None
    with suppress(ValueError):
        number = float(text)
        number = int(number) if number.is_integer() else number
    for value in distribution.ends():  # all choices: one is the number 0 where the config has made it 0.0
        if str(value) == text or (number is not None and value == number):
            return value
    return text if number is None else number


def _value_of(record: TrialRecord) -> float | None:
    return record.value if record.state == TrialState.COMPLETE else None


def parameters_of(space: Space, values: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, BaseDistribution]]]:
    """The values as a trial of the space has them, with their distributions; empty where it has no such trial."""
    trial = GivenTrial(values)
    try:
        space.suggest(trial)
    except (LookupError, TypeError, ValueError):  # one is missing, or no number
        return []
    if not all(space[name].contains(value) for name, value in trial.params.items()):
        return []
    return [(trial.params, trial.distributions)]


def _as_row(trial: EarlierTrial) -> dict[str, object]:
    row = {"sweep": trial.sweep, "trial": trial.trial, "params": trial.params, "value": trial.value}
    return row | {"curve": {str(progress): value for progress, value in trial.curve.items()}}


def _of_row(space: Space, row: Mapping[str, Any]) -> EarlierTrial:
    ((params, distributions),) = parameters_of(space, row["params"])
    curve = {int(progress): float(value) for progress, value in row["curve"].items()}
    return EarlierTrial(row["sweep"], row["trial"], params, distributions, curve, row["value"])
