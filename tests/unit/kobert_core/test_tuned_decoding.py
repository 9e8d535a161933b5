"""The settings by which answers are read are chosen on dev, by the outputs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kobert_core.config import Objective
from kobert_core.evaluation import tune_decoding
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.question_answering.decoding import perfect_outputs
from tests.fixtures import questions
from tests.fixtures.tiny import tiny_config

F1 = Objective(metric="eval/f1")


def task_with(tmp_path: Path, cache: Path, *, every: int | None = None, **model: Any) -> Task[Any]:
    config = questions.config_of(questions.write(tmp_path / "train.json", questions.articles(0, 12, every=every)))
    config = config.model_copy(update={"model": config.model.model_copy(update=model)})
    return task_class(config.task)(config, cache=cache)


def test_where_nothing_is_better_the_settings_stay(tmp_path: Path, cache: Path) -> None:
    task = task_with(tmp_path, cache)
    outputs = perfect_outputs(task.dev)
    found = tune_decoding(task, outputs, F1)
    assert found is not None and found.values == {}
    assert found.metrics == task.score(task.dev, outputs) and found.tried == 5 * 2 * 2


@pytest.mark.parametrize("every", [None, 4])
def test_a_longer_answer_is_allowed_where_dev_has_some(tmp_path: Path, cache: Path, every: int | None) -> None:
    """No answer has one piece alone, so that a limit of one misses all; the null threshold is chosen anew with it."""
    task = task_with(tmp_path, cache, every=every, max_answer_length=1)
    outputs = perfect_outputs(task.dev)
    found = tune_decoding(task, outputs, F1)
    assert found is not None and found.tried == 1 + 5 * 2 * 2 and found.values == {"max_answer_length": 10}
    assert found.metrics["eval/f1"] > task.with_chosen(found.metrics).score(task.dev, outputs)["eval/f1"]
    assert ("eval/null_threshold" in found.metrics) == (every is not None)
    read_so = task.with_model_values(found.values).with_chosen(found.metrics)
    assert found.metrics.items() >= read_so.score(task.dev, outputs).items()


def test_trims_that_are_wrong_are_not_made(tmp_path: Path, cache: Path) -> None:
    task = task_with(tmp_path, cache)
    outputs = perfect_outputs(task.dev)
    outputs |= {name: np.ones_like(outputs[name]) for name in ("trim_start", "trim_end")}
    found = tune_decoding(task, outputs, F1)
    assert found is not None and found.values == {"trim": False}


def test_nothing_is_chosen_where_it_would_change_nothing(tmp_path: Path, cache: Path) -> None:
    task = task_with(tmp_path, cache)
    assert tune_decoding(task, perfect_outputs(task.dev), Objective(metric="eval/loss", mode="min")) is None
    texts = task_class("nsmc")(tiny_config(), cache=cache)
    assert tune_decoding(texts, {}, Objective(metric="eval/accuracy")) is None
