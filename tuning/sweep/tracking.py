"""What MLflow hears of a sweep, besides the reports of its trials."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection
from pathlib import Path

from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from tuning.study import StudyConfig
from tuning.study.objectives import constraints_in, goals_in
from tuning.sweep.comparison import baselines_of, compared
from tuning.sweep_dir.descriptions import describe_sweep
from tuning.sweep_dir.layout import ENVIRONMENT, HEARD, LEDGER, REPORT, SPOOL, STUDY, TABLE, TENSORBOARD, WANDB, WINNER
from tuning.sweep_dir.trial_status import run_ends
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner
from tuning.tracking import (
    DESCRIPTION_TAG,
    Callback,
    Listener,
    OnReport,
    Status,
    Tracker,
    callbacks_named,
    dead_letters_path,
    make_backend,
)


def start_tracking(
    study: StudyConfig,
    table: TrialTable,
    task: Task[Examples],
    *,
    uri: str,
    limit: Callable[[], int] | None = None,
) -> Tracker:
    """Open the run of a sweep in MLflow, or take it up again, with its study and its data; `limit` as for `Tracker`."""
    folder = table.folder
    experiment = study.tracking.experiment or study.name
    load = study.tracking.system_metrics
    tracker = Tracker(
        spool=folder / SPOOL, uri=uri, experiment=experiment, sweep=folder.name, system_metrics=load, limit=limit
    )
    tracker.end_left_open(run_ends(table))
    description = describe_sweep(study, table, status=None, result=None)
    tracker.start_sweep(params=sweep_params(study), tags={"task": study.task, DESCRIPTION_TAG: description})
    log_datasets(study, task, tracker)
    return tracker


def callbacks_of(study: StudyConfig, folder: Path) -> list[Callback | OnReport]:
    """The other trackers and the callbacks that a study names.

    Raises:
        InputError: one is not installed, or cannot be made.
    """
    where = {"tensorboard": folder / TENSORBOARD, "wandb": folder / WANDB}
    project = study.tracking.experiment or study.name
    try:
        backends = [
            make_backend(name, where[name], project=project, spool=folder / SPOOL) for name in study.tracking.backends
        ]
    except ValueError as error:
        raise InputError(str(error), where="tracking.backends") from error
    try:
        return [*backends, *callbacks_named(study.tracking.callbacks)]
    except ValueError as error:
        fix = "give module:name of a function or class that Python can import here"
        raise InputError(str(error), where="tracking.callbacks", fix=fix) from error


def listen(callbacks: list[Callback | OnReport], folder: Path, *, say: Callable[[str], object]) -> Listener:
    """Let callbacks hear of a sweep, also of what they missed in an earlier session."""
    return Listener(folder / SPOOL, callbacks, say=say, heard=folder / HEARD)


def sweep_params(study: StudyConfig) -> dict[str, object]:
    """What the parent run says of the study."""
    return {
        "objective": study.objectives_in_words,
        "search": study.search.algorithm,
        "scheduler": study.scheduler.name,
        "trials": study.budget.trials,
        "seed": study.search.seed,
        "parameters": json.dumps(list(study.space)),
    }


def run_params(config: TrainConfig) -> dict[str, object]:
    """The parameters of a run in MLflow."""
    values = config.model_dump(mode="json", exclude_none=True)
    if "effective_batch_size" in values["optim"]:
        del values["optim"]["accumulation"]  # it follows
    if "folds" in values["data"]:
        del values["data"]["dev_fraction"]
    return flatten(values)


def flatten(values: dict[str, object]) -> dict[str, object]:
    """Nested sections as dotted keys. What is nested deeper becomes JSON, because its keys, such as labels, are texts
    of users."""
    result: dict[str, object] = {}
    for section, content in values.items():
        fields = content if isinstance(content, dict) else {"": content}
        for name, value in fields.items():
            plain = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            result[f"{section}.{name}".removesuffix(".")] = plain
    return result


def log_datasets(study: StudyConfig, task: Task[Examples], tracker: Tracker) -> None:
    """The splits of a sweep with their hashes, as MLflow's inputs of its run."""
    data = study.data
    tracker.log_dataset(
        name=data.train.name,
        path=str(data.train),
        sha256=data.train.digest(),
        examples=task.train.items,
        context="training",
    )
    dev, digest = data.dev or data.train, (data.dev or data.train).digest()
    if data.dev is None:  # a part of the training file: another hash, or MLflow takes it for the same data
        held_out = data.dev_fraction if data.folds is None else f"1 of {data.folds}"
        digest = hashlib.sha256(f"{digest} {held_out} {data.split_seed}".encode()).hexdigest()
    tracker.log_dataset(
        name=f"{dev.name}{'' if data.dev else ' (fold 1)' if data.folds else ' (dev split)'}",
        path=str(dev),
        sha256=digest,
        examples=task.dev.items,
        context="validation",
    )
    if data.test is not None:
        tracker.log_dataset(
            name=data.test.name,
            path=str(data.test),
            sha256=data.test.digest(),
            examples=task.read(data.test).items,
            context="testing",
        )


def log_results(
    tracker: Tracker, study: StudyConfig, table: TrialTable, winner: TrialRecord, test: dict[str, dict[str, float]]
) -> None:
    """Tell the trials' runs how they compare, which one won, and what was read on the test file.

    The winner has the first rank, also where a verdict names another one than the best trial.
    """
    best = [record.trial for record in table.best(len(table))]
    best.sort(key=lambda trial: trial != winner.trial)
    digits = len(str(len(best)))  # as texts, ranks are in order when they are of one length
    read = compared(winner, baselines_of(table, study))
    scores = {record.trial: test.get(who, {}) for who, record in read.items()}
    front = {record.trial for record in table.front()}
    for record in table:
        rank = f"{best.index(record.trial) + 1:0{digits}}" if record.trial in best else None
        won = "true" if record.trial == winner.trial else None
        tracker.log_result(
            str(record.trial),
            metrics=scores.get(record.trial, {}),
            step=record.logged_step,
            tags={"rank": rank, "winner": won} | objective_tags(table, record, front),
        )


def objective_tags(table: TrialTable, record: TrialRecord, front: Collection[int]) -> dict[str, str | None]:
    """The tags that say whether a trial is on the Pareto front, and which constraints it breaks; none with one
    objective alone."""
    on_front = {"pareto_front": "true" if record.trial in front else None} if goals_in(table.further) else {}
    return on_front | ({"breaks": table.breaks(record) or None} if constraints_in(table.further) else {})


def log_winner(
    tracker: Tracker, study: StudyConfig, winner: TrialRecord, model: Path, metrics: dict[str, float], *, ended: int
) -> None:
    """Hand the exported winner to MLflow as a LoggedModel; `ended` is the number of trials that have ended, since a
    resumed sweep may come to another winner."""
    tracker.log_winner(
        model,
        name=model.parent.name,
        trial=str(winner.trial),
        params={name: str(value) for name, value in winner.values.items()},
        metrics=metrics,
        tags={"task": study.task},
    )
    tracker.log_metrics(None, {f"winner/{name}": value for name, value in metrics.items()}, step=ended)


def end_tracking(
    tracker: Tracker, study: StudyConfig, table: TrialTable, *, status: Status, say: Callable[[str], object]
) -> None:
    """Close the run of a sweep, wait a little for MLflow, and say what it does not have."""
    folder = table.folder
    for name in (STUDY, TABLE, ENVIRONMENT, WINNER, REPORT):
        if (folder / name).is_file():
            tracker.log_artifact(folder / name)
    result = read_winner(folder) if status == "FINISHED" else None  # another session may have left an older one
    tracker.end_sweep(status=status, description=describe_sweep(study, table, status=status, result=result))
    left, spool = tracker.close(), folder / SPOOL
    if lost := tracker.unwritten:
        say(f"{lost} records for MLflow are lost: the disk is full, {spool} could not take them")
    if left > lost:
        command = f"kobert-tune sync {shlex.quote(str(folder))}"
        say(f"{left - lost} records did not reach MLflow; send them: {command}")
    if refused := tracker.refused:
        say(f"MLflow refused {refused} records for good; they are kept in {dead_letters_path(spool)}")
    if not (folder / LEDGER).exists():
        tracker.forget()
