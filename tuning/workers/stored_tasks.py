"""Tasks of a sweep in an object store, on workers that share no disk with the driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kobert_core.config import TrainConfig
from kobert_core.data.source import Source
from kobert_core.io.checksums import file_digest
from tuning.storage.connection import stay_behind
from tuning.storage.inputs import only_one
from tuning.storage.node import StoredSweep, inputs_here
from tuning.storage.uploads import Uploads
from tuning.sweep_dir.layout import CHECKPOINTS, LOG, OUTBOX, trial_folder
from tuning.workers.train_trial import study_of, train_trial

if TYPE_CHECKING:
    from kobert_core.tasks.base import Task
    from tuning.workers.broker import Function
    from tuning.workers.group_runtime import GroupRuntime

FOLDERS, FILES, ROWS = ("model", "checkpoint", "models"), ("output", "review"), "file"
"""Arguments of the functions in `checkpoint_tasks.py`: folders that they read, files that they write, and the rows that
they read."""


@dataclass(frozen=True)
class Brought:
    """What a task gives back to the driver."""

    value: Any
    files: Mapping[str, bytes]
    """The content of the files that it wrote, by their paths on the driver's machine."""


def run_stored(runtime: GroupRuntime, *, sweep: StoredSweep, task: Function, **arguments: Any) -> Brought:
    """On the workers of a group: run a task whose arguments name paths on the driver's machine."""
    stay_behind()
    if task is train_trial:
        train_stored(runtime, sweep, **arguments)
        return Brought(None, {})
    with tempfile.TemporaryDirectory(dir=sweep.tasks_here) as folder:
        written = {arguments[name]: Path(folder) / name for name in FILES if name in arguments}
        here = runtime.apart(paths_here, sweep, arguments, Path(folder))
        value = task(runtime, **here)
        return Brought(value, {path: file.read_bytes() for path, file in written.items() if file.is_file()})


def paths_here(sweep: StoredSweep, arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a task with paths of this machine, where what it reads has been fetched.

    Args:
        sweep: Whose paths they are.
        arguments: As the driver gave them.
        folder: A new one, for what is fetched and written.
    """
    here = dict(arguments) | {"cache": str(sweep.cache)}
    for name in arguments.keys() & set(FOLDERS):
        given = arguments[name]
        if isinstance(given, str):
            here[name] = sweep.bring(given, folder / name)
        else:
            here[name] = [sweep.bring(path, folder / name / str(number)) for number, path in enumerate(given)]
    for name in arguments.keys() & set(FILES):
        here[name] = str(folder / name)
    if ROWS in arguments:
        here[ROWS] = sweep.inputs.source_here(Source.of(arguments[ROWS]), inputs_here()).as_json()
    return here


def train_stored(
    runtime: GroupRuntime,
    sweep: StoredSweep,
    *,
    trial: int,
    study: str,
    folder: str,
    end: int = 100,
    adopt: str | None = None,
    **arguments: Any,
) -> None:
    """As `train_trial`, from what has landed of the trial, while what it writes is uploaded.

    Args:
        runtime: The worker's runtime.
        sweep: What is known of the sweep.
        trial: As `train_trial` takes it.
        study: The sweep's study file on the driver's machine: its content is known here.
        folder: Of the trials, on the driver's machine.
        end: The progress at which to end.
        adopt: The key of another trial's checkpoint, to go on from instead.
        arguments: Others of `train_trial`.
    """
    key = sweep.key_of(trial_folder(Path(folder), trial))
    here, checkpoints = sweep.folder_here / key, f"{key}/{CHECKPOINTS}"
    if runtime.rank == 0 and adopt is not None:
        runtime.apart(sweep.adopt, adopt, checkpoints)
    landed = runtime.all_gather(runtime.apart(sweep.landed, checkpoints) if runtime.rank == 0 else None)[0]
    whole = runtime.apart(sweep.restore, checkpoints, landed)
    own = runtime.apart(sweep.study_here)
    uploads = None
    if runtime.rank == 0:
        runtime.apart(sweep.bring_log, f"{key}/{LOG}")
        uploads = Uploads(
            sweep.store / key,
            here / CHECKPOINTS,
            here / OUTBOX,
            landed=whole,
            beside=[here / LOG],
            alive=runtime.say_all_live,
        )
    runtime.copies, runtime.end = uploads, end
    runtime.each_lands = study_of(own, file_digest(own)).scheduler.name == "pbt"
    try:
        train_trial(
            runtime,
            trial=trial,
            study=str(own),
            folder=str(sweep.folder_here / sweep.key_of(folder)),
            adopt=adopt,
            stored=StoredRun(sweep, runtime),
            **arguments | {"cache": str(sweep.cache)},
        )
    finally:
        if uploads is not None:
            uploads.close()
    runtime.all_gather(None)  # nobody reads or uploads what lies here any more
    shutil.rmtree(here, ignore_errors=True)


@dataclass(frozen=True)
class StoredRun:
    """What the home of a sweep in an object store means for the training of one run."""

    sweep: StoredSweep
    runtime: GroupRuntime

    def config_here(self, config: TrainConfig) -> TrainConfig:
        """The config with the run's files and encoder as they lie on this machine, where they are fetched first."""
        return self.runtime.apart(self.sweep.inputs.config_here, config, inputs_here())

    def begin(self, task: Task[Any], model: Path) -> None:
        """Before the first step: upload what a model's folder has besides its weights, before any checkpoint, and make
        the features, once a node."""
        if self.runtime.copies is not None:
            self.runtime.copies.add_folder(model)

        def make_features() -> None:
            with only_one(self.sweep.cache.with_suffix(".lock")):
                _ = task.train, task.dev

        self.runtime.apart(make_features)

    def agree_on(self, path: Path) -> None:
        """Make a small file of the sweep what the first of all nodes has written."""
        self.sweep.agree_on(path)
