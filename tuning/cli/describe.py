"""The task that `describe` reads a file with."""

from __future__ import annotations

from pathlib import Path

from kobert_core.config import TrainConfig
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.pretrained import TRAIN_CONFIG, read_train_config
from kobert_core.progress import Progress
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.base import Examples, Task
from kobert_core.tokenization import load_tokenizer
from tuning.study import load_study


def describing_task(
    file: Source, study: Path | None, model: str | None, task: str | None, *, progress: Progress
) -> Task[Examples]:
    """A task that knows how to read a file.

    Args:
        file: The file.
        study: A study file with the names of its columns and labels.
        model: An exported model, which knows them too; or a folder or hub name whose tokenizer is taken.
        task: Its name, where no study or exported model says it; columns and labels are then the defaults.
        progress: Hears how far it has come.

    Raises:
        InputError: one of them cannot be read, they do not go together, or too little is given.
    """
    config = _config_of(file, study, model, task)
    if task not in (None, config.task):
        whose = study if study is not None else model
        raise InputError(f"`{whose}` is of the task `{config.task}`, not `{task}`", where="--task", fix="leave it out")
    tokenizer = load_tokenizer(model) if model is not None else None
    return task_class(config.task)(config, tokenizer=tokenizer, progress=progress)


def _config_of(file: Source, study: Path | None, model: str | None, task: str | None) -> TrainConfig:
    if study is not None:
        read = load_study(study)
        return read.train_config(read.example_values())
    if model is not None and (Path(model) / TRAIN_CONFIG).is_file():
        return read_train_config(Path(model))
    if model is None:
        raise InputError("nothing says how to read the file", where=file, fix="give --study, or an exported --model")
    if task not in SPECS:
        what = "the task is not known" if task is None else f"there is no task `{task}`"
        raise InputError(what, where="--task", fix=f"use {' or '.join(SPECS)}, or give --study")
    return parse_train_config({"task": task, "data": {"train": file}, "model": {"init": "random", "tokenizer": model}})
