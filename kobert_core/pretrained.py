"""A trained model as a folder that HuggingFace's Auto classes load, and that this package loads with its task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from kobert_core.checkpoint import SUMS, WEIGHTS, verify_checkpoint
from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.files import atomic_folder, atomic_write_json
from kobert_core.tasks import TASKS
from kobert_core.tasks.base import Task
from kobert_core.tokenization import KoBertTokenizer

TRAIN_CONFIG = "train_config.json"


def save_model_files(folder: Path, task: Task[Any]) -> None:
    """All files of a model's folder but its weights: `config.json`, the tokenizer's, `train_config.json`.

    They are the same for every checkpoint of a run, and make its export need neither data nor hub.
    """
    if folder.exists():
        return
    with atomic_folder(folder) as temporary:
        task.hf_config().to_json_file(temporary / "config.json")
        task.tokenizer.save_pretrained(temporary)
        atomic_write_json(temporary / TRAIN_CONFIG, task.config.model_dump(mode="json", exclude_unset=True))


@dataclass(frozen=True)
class Pretrained:
    """A model with the task that it was trained for."""

    task: Task[Any]
    model: nn.Module
    """On the CPU, in evaluation mode."""


def load_pretrained(folder: Path) -> Pretrained:
    """Load a folder that was exported. Only safetensors are read, never a pickle.

    Raises:
        InputError: the folder is not one that was exported, or a file in it is not what was written.
    """
    from safetensors.torch import load_file

    config = read_train_config(folder)
    if (folder / SUMS).is_file():
        verify_checkpoint(folder, only=WEIGHTS)
    elif not (folder / WEIGHTS).is_file():
        raise InputError("the weights are missing", where=folder / WEIGHTS, fix="export the model again")
    here = {"backbone": str(folder), "tokenizer": str(folder), "init": "random", "config": {}}
    model_config = config.model.model_copy(
        update=here | {"tokenizer_vocab_size": None, "revision": None, "class_weights": None}
    )
    task = TASKS[config.task](
        config.model_copy(update={"model": model_config}), tokenizer=KoBertTokenizer.from_pretrained(folder)
    )
    model = task.build_model()
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # safetensors' own error for a torn file, RuntimeError for other names or shapes
        raise InputError(f"the weights cannot be read ({error})", where=folder / WEIGHTS) from error
    return Pretrained(task, model.eval())


def read_train_config(folder: Path) -> TrainConfig:
    """The config with which the model in a folder was trained. Raises InputError when it is not there."""
    path = folder / TRAIN_CONFIG
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return TrainConfig.model_validate(values)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(
            "this is no folder of an exported model", where=path, fix="make one with `kobert-tune export`"
        ) from error
