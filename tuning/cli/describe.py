"""What `describe` finds in a file, and the task that reads it."""

from __future__ import annotations

from pathlib import Path

from kobert_core.config import DataConfig, TrainConfig
from kobert_core.data.description import describe_texts, leaked, table_of_lengths
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_text, check_writable
from kobert_core.pretrained import TRAIN_CONFIG, read_train_config
from kobert_core.progress import Progress
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
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
    data = config.data.model_copy(update={"max_bad_fraction": 1.0})  # told, whatever is wrong
    config = config.model_copy(update={"data": data})
    if task not in (None, config.task):
        whose = study if study is not None else model
        raise InputError(f"`{whose}` is of the task `{config.task}`, not `{task}`", where="--task", fix="leave it out")
    tokenizer = load_tokenizer(model) if model is not None else None
    return task_class(config.task)(config, tokenizer=tokenizer, progress=progress)


def described(
    task: Task[Examples], file: Source, study: Path | None = None, page: Path | None = None
) -> dict[str, object]:
    """What is in a labelled file: what its task knows of it, and what there is to see in its `texts`; with a study
    whose files are here also `leaks`: how many texts of its dev and test split it trains on, and of `file`, if it is
    none of them.

    Args:
        task: What reads it.
        file: The file.
        study: The study that the task is of.
        page: Where to write the same as HTML.
    """
    if page is not None:
        check_writable(page.parent)
    texts = {kind: rows for kind, rows in task.texts(file).items() if rows}
    found = task.describe(file)
    found["texts"] = {kind: describe_texts(rows, task.tokenizer) for kind, rows in texts.items()}
    if study is not None and (leaks := _leaks(task, file, load_study(study).data)):
        found["leaks"] = leaks
    if page is not None:
        from tuning.cli.describe_page import page as html_of

        lengths = {kind: table_of_lengths(rows, task.tokenizer) for kind, rows in texts.items()}
        atomic_write_text(page, html_of(file.name, found, lengths))
    return found


def _leaks(task: Task[Examples], file: Source, data: DataConfig) -> dict[str, dict[str, dict[str, int]]]:
    given = [source for source in (data.train, data.dev, data.test) if source]
    if not all(source.is_here() for source in given):
        return {}
    splits = task.texts_of_splits(data.test)
    if file.digest() not in {source.digest() for source in given}:
        splits["file"] = task.texts(file)
    train = splits.pop("train")
    return {split: {kind: leaked(train[kind], rows) for kind, rows in texts.items()} for split, texts in splits.items()}


def _config_of(file: Source, study: Path | None, model: str | None, task: str | None) -> TrainConfig:
    if study is not None:
        read = load_study(study)
        return read.train_config(read.example_values())
    if model is not None and (Path(model) / TRAIN_CONFIG).is_file():
        return read_train_config(Path(model))
    if model is None:
        raise InputError("nothing says how to read the file", where=file, fix="give --study, or an exported --model")
    if task is None or task not in SPECS:
        what = "the task is not known" if task is None else f"there is no task `{task}`"
        raise InputError(what, where="--task", fix=f"use {' or '.join(SPECS)}, or give --study")
    data: dict[str, object] = {"train": file.as_json()}
    SPECS[task].infer_data_settings(data)
    return parse_train_config({"task": task, "data": data, "model": {"init": "random", "tokenizer": model}})
