"""A model's folder: written from a task and weights, loaded with its task, refused when it is not what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kobert_core.errors import InputError
from kobert_core.pretrained import TRAIN_CONFIG, load_pretrained, read_train_config, save_model_files, save_weights
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from tests.fixtures import questions
from tests.fixtures.tiny import tiny_config


@pytest.fixture(params=["nsmc", "korquad"])
def task(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Task:
    config = tiny_config()
    if request.param == "korquad":
        config = questions.config_of(questions.write(tmp_path / "train.json", questions.articles(0, 6, every=5)))
    return task_class(config.task)(config, cache=cache)


def test_a_folder_gives_the_model_and_the_task_back(task: Task, tmp_path: Path) -> None:
    folder, model = tmp_path / "model", task.build_model().eval()
    save_model_files(folder, task)
    save_weights(folder, type(task), model.state_dict())
    apart = [
        name for name, prefix in task.weight_files.items() if any(key.startswith(prefix) for key in model.state_dict())
    ]
    assert {"model.safetensors", "config.json", "tokenizer.json", TRAIN_CONFIG, *apart} <= {
        file.name for file in folder.iterdir()
    }
    loaded = load_pretrained(folder)
    assert read_train_config(folder) == task.config and type(loaded.task) is type(task)
    assert loaded.task.tokenizer.fingerprint == task.tokenizer.fingerprint and not loaded.model.training
    batch = task.train.batch(task.train.lengths.argsort()[:4])
    with torch.inference_mode():
        for name, expected in task.outputs(model, batch).items():
            torch.testing.assert_close(loaded.task.outputs(loaded.model, batch)[name], expected, rtol=0, atol=0)


def test_what_is_missing_or_altered_is_told(cache: Path, tmp_path: Path) -> None:
    folder, task = tmp_path / "model", task_class("nsmc")(tiny_config(), cache=cache)
    with pytest.raises(InputError, match="no folder of an exported model; make one with `kobert-tune export`"):
        load_pretrained(folder)
    save_model_files(folder, task)
    with pytest.raises(InputError, match=r"model\.safetensors: the weights are missing"):
        load_pretrained(folder)
    weights = task.build_model().state_dict()
    save_weights(folder, type(task), {name: weight for name, weight in weights.items() if name != "classifier.bias"})
    with pytest.raises(InputError, match=r"the weights cannot be read .*classifier\.bias"):
        load_pretrained(folder)
    save_weights(folder, type(task), weights)
    values = json.loads((folder / TRAIN_CONFIG).read_text(encoding="utf-8"))
    (folder / TRAIN_CONFIG).write_text(json.dumps(values | {"task": "korquad"}), encoding="utf-8")
    with pytest.raises(InputError):
        load_pretrained(folder)


def test_the_files_of_a_run_are_written_once(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model_files(folder, task_class("nsmc")(tiny_config(), cache=cache))
    before = (folder / TRAIN_CONFIG).read_bytes()
    save_model_files(folder, task_class("nsmc")(tiny_config(train={"seed": 9}), cache=cache))
    assert (folder / TRAIN_CONFIG).read_bytes() == before
