"""What a config refuses, and what follows from its values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kobert_core.config import Duration, ModelConfig, Objective, OptimConfig, RunConfig
from kobert_core.tasks import parse_train_config
from tests.fixtures.tiny import tiny_config


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1d 2h", 93600), (45, 45), (0.5, 0.5)],
)
def test_durations(written: object, seconds: float) -> None:
    assert TypeAdapter(Duration).validate_python(written) == seconds


@pytest.mark.parametrize("written", ["", "10", "m", "1m1h", "-5s", 0, -1, "0s", math.inf])
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(written)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {}, "`backbone` must be given with `init: pretrained`"),
        (ModelConfig, {"init": "random"}, "without `backbone`, `tokenizer` or `tokenizer_vocab_size`"),
        (ModelConfig, {"init": "random", "tokenizer": "a", "tokenizer_vocab_size": 9}, "not both"),
        (ModelConfig, {"backbone": "a/b", "tokenizer_vocab_size": 9}, "needs `init: random`"),
        (OptimConfig, {"accumulation": 2, "effective_batch_size": 8}, "not both"),
        (OptimConfig, {"batch_size": "auto"}, "`effective_batch_size` must say"),
        (OptimConfig, {"warmup_ratio": 0.1, "warmup_steps": 3}, "not both"),
        (RunConfig, {"eval_percent": 30}, "must divide 100"),
        (RunConfig, {"epochs": math.nan}, "finite"),
        (RunConfig, {"epoch": 3}, "Extra inputs"),
    ],
)
def test_what_contradicts_itself_is_refused(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_examples_per_step() -> None:
    assert OptimConfig(batch_size=8, accumulation=3).examples_per_step(workers=2) == 48
    assert OptimConfig(batch_size=8, effective_batch_size=20).examples_per_step(workers=2) == 20


@pytest.mark.parametrize(("mode", "better", "worse"), [("max", 0.9, 0.8), ("min", 0.1, 0.2)])
def test_what_is_better(mode: Any, better: float, worse: float) -> None:
    objective = Objective(metric="eval/loss", mode=mode)
    assert objective.is_better(better, worse) and not objective.is_better(worse, better)
    assert objective.is_better(worse, None) and not objective.is_better(better, better)
    assert not any(objective.is_better(bad, None) for bad in (math.nan, math.inf, -math.inf))


def test_a_config_cannot_be_changed_and_no_task_is_made_up() -> None:
    config = tiny_config()
    with pytest.raises(ValidationError):
        config.train.epochs = 9
    with pytest.raises(ValueError, match=r"`task` must be one of .*nsmc, .*korquad.*, but got 'nsmcc'"):
        parse_train_config(config.model_dump(mode="json") | {"task": "nsmcc"})
