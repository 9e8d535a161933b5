"""Several models together say the mean of what each says, and the mean of their weights is a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kobert_core.ensemble import Ensemble, mean_weights
from kobert_core.evaluation import evaluate_on_dev, predict
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.base import Task
from tests.fixtures.tasks import CONFIGS

RUNTIME = LocalRuntime(device=torch.device("cpu"))


@pytest.fixture(params=CONFIGS)
def task(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Task[Any]:
    make: Callable[[Path], dict[str, Any]] = request.param
    config = parse_train_config(make(tmp_path))
    return task_class(config.task)(config, cache=cache)


def model_of(task: Task[Any], seed: int) -> Any:
    torch.manual_seed(seed)
    model = task.build_model()
    for parameter in model.parameters():  # heads begin near 0: so different models say different things
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def said(task: Task[Any], model: nn.Module) -> list[torch.Tensor]:
    """All that a model says of the dev split, as probabilities; numbers and the logits of starts and ends as they
    are."""
    with torch.inference_mode():
        output = model(**task.dev.batch(np.arange(len(task.dev))).inputs)
    logits = [part for part in output[1:] if part is not None]
    if task.spec.name == "korquad":
        return [*logits[:2], *(trim.softmax(-1) for trim in logits[2:])]
    ways = {"multilabel": torch.sigmoid, "regression": lambda part: part}
    return [ways.get(task.spec.name, lambda part: part.softmax(-1))(part) for part in logits]


def test_an_ensemble_says_the_mean(task: Task[Any]) -> None:
    models = [model_of(task, seed) for seed in range(3)]
    ours = said(task, Ensemble(models))
    for found, *each in zip(ours, *(said(task, model) for model in models), strict=True):
        torch.testing.assert_close(found, sum(each) / 3, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(each[0], each[1])
    assert len(ours) == (4 if task.spec.name == "korquad" else 1)


def test_one_model_is_its_own_mean(task: Task[Any]) -> None:
    model = model_of(task, 0)
    alone, together = (evaluate_on_dev(each, task, RUNTIME) for each in (model, Ensemble([model, model])))
    assert together == pytest.approx(alone, rel=1e-5)
    again = task.build_model()
    again.load_state_dict(mean_weights(model_of(task, 0).state_dict() for _ in range(3)))
    assert evaluate_on_dev(again, task, RUNTIME) == alone, "to the last bit"


def test_an_ensemble_answers_as_a_model_does(task: Task[Any]) -> None:
    outputs = predict(Ensemble([model_of(task, seed) for seed in range(2)]), task, task.dev, RUNTIME)
    answers = task.answers([str(number) for number in range(task.dev.items)], task.dev, outputs)
    assert len(answers) == task.dev.items and set(answers[0]) == {"id", *task.answer_types}


def test_the_mean_of_weights() -> None:
    first = {"weight": torch.tensor([1.0, 2.0], dtype=torch.float16), "place": torch.arange(2)}
    second = {"weight": torch.tensor([2.0, 5.0], dtype=torch.float16), "place": torch.arange(2)}
    mean = mean_weights(iter([first, second]))
    assert mean["weight"].tolist() == [1.5, 3.5] and mean["weight"].dtype == torch.float16
    assert mean["place"].equal(first["place"]) and mean["place"].dtype == torch.int64
    with pytest.raises(ValueError, match="other weights"):
        mean_weights([first, {"weight": first["weight"]}])
    with pytest.raises(ValueError, match="other weights"):
        mean_weights([first, first | {"weight": torch.zeros(3)}])
    with pytest.raises(ValueError, match="no models"):
        mean_weights([])
