"""What fills a batch up changes no number; on CUDA a graph changes none either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kobert_core.data.batching import IGNORED, Batch, Shape, filled_shape
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks.base import Task
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures import questions
from tests.fixtures.tiny import tiny_config


def nsmc(tmp_path: Path, **train: Any) -> Task[Any]:
    optim = {"batch_size": 8, "effective_batch_size": 32}  # several pieces a step
    model = {"class_weights": [0.3, 0.7], "label_smoothing": 0.1}
    return Nsmc(tiny_config(model=model, optim=optim, train=train))


def korquad(tmp_path: Path, **train: Any) -> Task[Any]:
    file = questions.write(tmp_path / "train.json", questions.articles(0, 12, every=5))
    return Korquad(questions.config_of(file, train=train))


@pytest.mark.parametrize("task_of", [nsmc, korquad])
def test_sequences_that_fill_a_batch_change_no_gradient(task_of: Callable[..., Task[Any]], tmp_path: Path) -> None:
    task = task_of(tmp_path)
    torch.manual_seed(0)
    model = task.build_model().double().eval()
    longest = int(task.train.lengths.max())

    def gradients(batch: Batch) -> list[torch.Tensor]:
        model.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    for count in (1, 5, 8, 16):
        batch = task.train.batch(np.arange(count))
        full = batch.fill(longest)
        assert full.shape == filled_shape(batch.shape, longest) != batch.shape
        for got, expected in zip(gradients(full), gradients(batch), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@given(lengths=st.lists(st.integers(2, 300), min_size=1, max_size=300), above=st.integers(0, 50))
def test_a_filled_batch_has_one_of_few_shapes(lengths: list[int], above: int) -> None:
    longest = max(lengths) + above
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.full(mask.shape, 7)
    batch = Batch.pack(
        {
            "input_ids": ids,
            "token_type_ids": ids,
            "attention_mask": mask,
            "labels": torch.zeros(len(ids), dtype=torch.int64),
        }
    )
    full = batch.fill(longest)
    own, more = full.inputs["lengths"][: len(lengths)], full.inputs["lengths"][len(lengths) :]
    assert own == lengths and more and all(1 <= length <= longest for length in more)
    assert full.inputs["starts"].diff().tolist() == full.inputs["lengths"]
    assert full.inputs["starts"][-1] == len(full.inputs["input_ids"]) == len(full.inputs["position_ids"])
    assert full.inputs["longest"] == longest and full.inputs["starts"].dtype == torch.int32
    assert full.targets["labels"][len(lengths) :].tolist() == [IGNORED] * len(more)
    numbers = Batch(batch.inputs, {"labels": torch.zeros(len(ids), 3)}).fill(longest).targets["labels"]
    assert numbers.isnan().any(dim=1).tolist() == [False] * len(lengths) + [True] * len(more)


def test_there_are_few_shapes_and_little_is_wasted() -> None:
    shapes = {filled_shape(Shape(tokens, 32), 64) for tokens in range(64, 2049)}
    assert len(shapes) <= 10
    for tokens in range(64, 50_000, 77):
        assert filled_shape(Shape(tokens, 64), 384).tokens <= tokens + max(256, tokens / 16) + 16
    assert filled_shape(Shape(800, 31), 64) == filled_shape(Shape(800, 32), 64), "a piece more or less"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("task_of", [nsmc, korquad])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_change_no_bit(
    task_of: Callable[..., Task[Any]], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for most in (64, 0):
        monkeypatch.setattr("kobert_core.train_step.MOST_GRAPHS", most)
        task = task_of(tmp_path, epochs=6, eval_percent=50, precision=precision, deterministic=True)
        trained.append(train(task.config, task, LocalRuntime()).state_dict())
    assert all(torch.equal(trained[0][name], tensor) for name, tensor in trained[1].items())
