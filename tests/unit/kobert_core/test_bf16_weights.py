"""One copy of the weights in bf16 gives the numbers of autocast, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kobert_core.bf16_weights import Bf16Weights
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import tiny_config


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("freeze", [0, "embeddings", 1])
def test_loss_and_gradients_are_those_of_autocast(freeze: int | str, cache: Path) -> None:
    task = Nsmc(tiny_config(model={"freeze": freeze}), cache=cache)
    torch.manual_seed(0)
    model = task.build_model().eval()
    batches = [task.train.batch(np.arange(8)), task.train.batch(np.arange(8, 16))]
    expected, losses = [], []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model, batch)
        loss.backward()
        losses.append(loss.detach())
        expected.append(gradients_of(model))  # of the first batch, then of both
    model.zero_grad()
    copies = Bf16Weights(model)
    for number, (batch, theirs, sums) in enumerate(zip(batches, losses, expected, strict=True)):
        copies.refresh()
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(copies, batch)
        loss.backward()
        copies.hand_over_gradients(add=number > 0)
        assert torch.equal(loss, theirs)
        own = gradients_of(model)
        assert own.keys() == sums.keys()
        assert all(torch.equal(own[name], gradient) for name, gradient in sums.items())


def test_a_pass_that_came_to_no_end_leaves_nothing_behind(cache: Path) -> None:
    task = Nsmc(tiny_config(), cache=cache)
    torch.manual_seed(0)
    model = task.build_model().eval()
    batch, copies = task.train.batch(np.arange(8)), Bf16Weights(model)

    def run() -> None:
        model.zero_grad()
        copies.refresh()
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(copies, batch)
        loss.backward()
        copies.hand_over_gradients(add=False)

    run()
    expected = gradients_of(model)

    def run_out(gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("in the middle of the backward pass")

    handle = model.bert.embeddings.word_embeddings.weight.register_hook(run_out)  # the last thing that it comes to
    with pytest.raises(torch.OutOfMemoryError):
        run()
    handle.remove()
    run()
    own = gradients_of(model)
    assert all(torch.equal(own[name], gradient) for name, gradient in expected.items())


def test_a_copy_follows_its_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    copies = Bf16Weights(model)
    before = copies(torch.ones(1, 3, dtype=torch.bfloat16))
    with torch.no_grad():
        model[0].weight.add_(1)
    stale = copies(torch.ones(1, 3, dtype=torch.bfloat16))
    copies.refresh()
    assert torch.equal(stale, before)
    model[0].bias.data.zero_()
    linear = Bf16Weights(model[:1])
    linear.refresh()
    expected = torch.ones(1, 3).bfloat16() @ model[0].weight.bfloat16().T
    assert torch.equal(linear(torch.ones(1, 3, dtype=torch.bfloat16)), expected)
