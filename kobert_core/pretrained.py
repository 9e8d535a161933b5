"""A trained model as a folder that HuggingFace's Auto classes load, and that this package loads with its task."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from pydantic import ValidationError
from torch import nn

from kobert_core.checkpoint import WEIGHTS, load_weights, save_tensors
from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_folder, atomic_write_json
from kobert_core.io.checksums import check_sums, write_sums
from kobert_core.onnx.files import Backend
from kobert_core.onnx.session import load_onnx_model
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import default_device
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.tokenization import load_tokenizer

TRAIN_CONFIG = "train_config.json"


def save_model_files(folder: Path, task: Task, config: TrainConfig | None = None) -> None:
    """All files of a model's folder but its weights: `config.json`, the tokenizer's, `train_config.json`.

    They are the same for every checkpoint of a run, and make its export need neither data nor hub.

    Args:
        folder: To make; one that is there stays as it is.
        task: That of the run.
        config: Takes the place of the task's, which may name copies of the files that the run's config names.
    """
    if folder.exists():
        return
    with atomic_folder(folder) as temporary:
        task.hf_config().to_json_file(temporary / "config.json")
        task.tokenizer.save_pretrained(temporary)
        written = (config or task.config).model_dump(mode="json", exclude_unset=True)
        atomic_write_json(temporary / TRAIN_CONFIG, written)
        write_sums(temporary)


def save_weights(folder: Path, task: type[Task], weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of a checkpoint as they lie in an exported folder, and `SHA256SUMS` of all that is in it.

    What transformers does not know lies beside `model.safetensors`, in the files that the task names.
    """
    for name, part in split_weights(task, weights).items():
        if part:
            save_tensors(part, folder / name)
    write_sums(folder)


def split_weights(task: type[Task], weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of each file of an exported folder, by its name; together they are all of `weights`."""
    files = {
        name: {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
        for name, prefix in task.weight_files.items()
    }
    apart = {key for part in files.values() for key in part}
    return {WEIGHTS: {key: tensor for key, tensor in weights.items() if key not in apart}} | files


def caveats_of(task: type[Task], weights: Mapping[str, torch.Tensor]) -> list[str]:
    """What who loads an export of these weights must know, in words."""
    return [task.caveats[name] for name, part in split_weights(task, weights).items() if part and name in task.caveats]


def keep_chosen(
    folder: Path,
    task: type[Task],
    metrics: Mapping[str, float],
    values: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write into `train_config.json` what the dev split chose, such as the null threshold of SQuAD 2.0.

    Args:
        folder: of an exported model.
        task: that of the model.
        metrics: of the checkpoint, on the dev split.
        values: of the model's config that were chosen beside these.
    """
    chosen = task.chosen_values(metrics) | dict(values)
    if chosen:
        config = json.loads((folder / TRAIN_CONFIG).read_text(encoding="utf-8"))
        config["model"] |= chosen
        atomic_write_json(folder / TRAIN_CONFIG, config)
        write_sums(folder)


def complete_model(folder: Path, task: type[Task], checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Put the weights of a run's checkpoint into the folder that `save_model_files` wrote when it began: it is then
    one that `load_pretrained` loads. The folder has all of it or none of it; after a kill the same call goes on.

    Args:
        folder: Of the model.
        task: That of the model.
        checkpoint: Folder of the checkpoint.
        metrics: Of the checkpoint, on the dev split.

    Raises:
        InputError: a file of the folder or the checkpoint is not what was written.
    """
    complete = folder.with_name(f"{folder.name}.complete")
    for leftover in folder.parent.glob(f".{complete.name}.*.tmp"):
        shutil.rmtree(leftover)
    if not complete.exists():
        check_sums(folder)
        with atomic_folder(complete) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
            keep_chosen(temporary, task, metrics)
            save_weights(temporary, task, load_weights(checkpoint))
    if folder.exists():
        shutil.rmtree(folder)
    os.rename(complete, folder)


@dataclass(frozen=True)
class Pretrained:
    """A model with the task that it was trained for."""

    task: Task
    model: nn.Module
    """On the CPU, in evaluation mode."""
    device: torch.device = field(default_factory=default_device)
    """Where it is to run: on the GPU, if there is one; onnxruntime runs on the CPU."""


def load_pretrained(
    folder: Path, *, backend: Backend = "torch", cache: Path | None = None, progress: Progress = unseen
) -> Pretrained:
    """Load a folder that was exported. Only safetensors are read, never a pickle.

    Args:
        folder: Of the model.
        backend: What is to run it: PyTorch, or onnxruntime on one of its graphs.
        cache: Folder of the feature cache; None keeps the features of files that its task reads in memory.
        progress: Hears what its task does.

    Raises:
        InputError: the folder is not one that was exported, a file in it is not what was written, or it has no such
            graph.
    """
    if backend != "torch":
        task = task_of(folder, cache=cache, progress=progress)
        return Pretrained(task, load_onnx_model(folder, task, backend).eval(), torch.device("cpu"))
    files = _weight_files(folder)
    task, model = empty_model(folder, cache=cache, progress=progress)  # which compares the hashes
    try:
        model.load_state_dict(_read_weights(files))
    except RuntimeError as error:  # other names or shapes
        raise InputError(f"the weights cannot be read ({error})", where=folder / WEIGHTS) from error
    return Pretrained(task, model.eval())


def exported_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder that was exported, on the CPU.

    Raises:
        InputError: the folder is not one that was exported, or a file in it is not what was written.
    """
    files = _weight_files(folder)
    check_sums(folder)
    return _read_weights(files)


def _weight_files(folder: Path) -> list[Path]:
    own = task_class(read_train_config(folder).task).weight_files
    if not (folder / WEIGHTS).is_file():
        raise InputError("the weights are missing", where=folder / WEIGHTS, fix="export the model again")
    return [folder / WEIGHTS, *(folder / name for name in own if (folder / name).is_file())]


def _read_weights(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"the weights cannot be read ({error})", where=file) from error
    return weights


def empty_model(folder: Path, *, cache: Path | None = None, progress: Progress = unseen) -> tuple[Task, nn.Module]:
    """The task and the model of a folder, before its weights are loaded: as `task_of`."""
    task = task_of(folder, cache=cache, progress=progress)
    return task, task.build_model()


def task_of(folder: Path, *, cache: Path | None = None, progress: Progress = unseen) -> Task:
    """The task of a folder; neither data nor hub is needed.

    Raises:
        InputError: the folder is not one that `save_model_files` wrote, or a file in it is not what was written.
    """
    check_sums(folder)
    config = read_train_config(folder)
    here = {"backbone": str(folder), "tokenizer": str(folder), "init": "random", "config": {}}
    apart = {"tokenizer_vocab_size": None, "revision": None, "class_weights": None}
    known = {name: value for name, value in (here | apart).items() if name in type(config.model).model_fields}
    return task_class(config.task)(
        config.model_copy(update={"model": config.model.model_copy(update=known)}),
        cache=cache,
        progress=progress,
        tokenizer=load_tokenizer(folder),
    )


def read_train_config(folder: Path) -> TrainConfig:
    """The config with which the model in a folder was trained. Raises InputError when it is not there."""
    path = folder / TRAIN_CONFIG
    try:
        values: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return parse_train_config(values)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(
            "this is no folder of an exported model", where=path, fix="make one with `kobert-tune export`"
        ) from error
