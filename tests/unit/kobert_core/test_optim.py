"""Learning rates and weight decay reach the right weights at the right time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from kobert_core.config import OptimConfig
from kobert_core.optim import make_schedule, parameter_groups
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import tiny_config


@pytest.fixture
def model(cache: Path) -> nn.Module:
    return Nsmc(tiny_config(), cache=cache).build_model()


def rate_and_decay(model: nn.Module, optim: OptimConfig) -> dict[str, tuple[float, float]]:
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, optim) for p in g["params"]}
    return {name: groups[id(parameter)] for name, parameter in model.named_parameters()}


def test_encoder_and_head_have_their_own_rates_and_biases_do_not_decay(model: nn.Module) -> None:
    found = rate_and_decay(model, OptimConfig(backbone_lr=1e-5, classifier_lr=1e-3, weight_decay=0.1))
    assert found["classifier.weight"] == (1e-3, 0.1)
    assert found["classifier.bias"] == (1e-3, 0.0)
    assert found["bert.encoder.layer.0.attention.self.query.weight"] == (1e-5, 0.1)
    assert found["bert.encoder.layer.0.attention.self.query.bias"] == (1e-5, 0.0)
    assert found["bert.encoder.layer.1.output.LayerNorm.weight"] == (1e-5, 0.0)
    assert len(found) == len(list(model.parameters()))


def test_layer_decay_falls_from_the_pooler_to_the_embeddings(model: nn.Module) -> None:
    found = rate_and_decay(model, OptimConfig(backbone_lr=1.0, layer_decay=0.5))
    assert found["bert.pooler.dense.weight"][0] == 1.0
    assert found["bert.encoder.layer.1.attention.self.key.weight"][0] == 0.5
    assert found["bert.encoder.layer.0.attention.self.key.weight"][0] == 0.25
    assert found["bert.embeddings.word_embeddings.weight"][0] == 0.125


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize(("ratio", "warmup_steps"), [(0.1, None), (0.0, None), (0.1, 7)])
def test_schedules_are_those_of_transformers(schedule: str, ratio: float, warmup_steps: int | None) -> None:
    steps, warmup = 50, warmup_steps if warmup_steps is not None else round(50 * ratio)
    given = {"warmup_ratio": ratio} if warmup_steps is None else {"warmup_steps": warmup_steps}
    ours = AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    mine = make_schedule(ours, OptimConfig(schedule=schedule, **given), steps=steps)
    reference = (
        get_linear_schedule_with_warmup(theirs, warmup, steps)
        if schedule == "linear"
        else get_constant_schedule_with_warmup(theirs, warmup)
    )
    for _ in range(steps):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        ours.step()
        theirs.step()
        mine.step()
        reference.step()


@pytest.mark.parametrize(
    "both",
    [{"accumulation": 2, "effective_batch_size": 64}, {"warmup_ratio": 0.1, "warmup_steps": 5}],
    ids=str,
)
def test_two_ways_to_say_one_thing_are_refused(both: dict) -> None:
    with pytest.raises(ValueError, match="not both"):
        OptimConfig(**both)


def test_the_groups_do_not_depend_on_the_values_so_that_a_state_fits_other_values(model: nn.Module) -> None:
    sizes = [
        [len(group["params"]) for group in parameter_groups(model, OptimConfig(**values, layer_decay=0.9))]
        for values in ({}, {"backbone_lr": 0.0}, {"weight_decay": 0.0}, {"backbone_lr": 1e-3, "classifier_lr": 1e-3})
    ]
    assert all(each == sizes[0] for each in sizes)
