"""Scoring without gradients."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from kobert_core.config import Objective
from kobert_core.data.batching import batches_of_tokens
from kobert_core.runtime import Runtime, in_precision
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples

TOKENS_PER_BATCH = {"cpu": 8_192, "cuda": 32_768}
"""Tokens that go through the model together: evaluation needs no memory for gradients."""
RUNNING_THE_MODEL = "running the model"
"""What progress calls it."""


def evaluate(model: nn.Module, task: Task, examples: Examples, runtime: Runtime) -> dict[str, float]:
    """The task's `eval/…` metrics over all examples, each counted once however many workers share them."""
    return task.score(examples, predict(model, task, examples, runtime))


def evaluate_on_dev(model: nn.Module, task: Task, runtime: Runtime) -> dict[str, float]:
    """The metrics on the dev split, by what is chosen on it, and that with them: nowhere else is anything chosen.

    `Task.with_chosen` of these metrics is the task with which the same weights are to be used from then on.
    """
    outputs = predict(model, task, task.dev, runtime)
    chosen = task.choose(task.dev, outputs)
    return task.with_chosen(chosen).score(task.dev, outputs) | chosen


class Decoding(NamedTuple):
    """How answers are read from outputs, and what that scores on dev."""

    values: dict[str, object]
    """Of the model's config: those that are other than there."""
    metrics: dict[str, float]
    """With what dev chooses besides, as `evaluate_on_dev` gives them."""
    tried: int
    """Combinations of values."""


def tune_decoding(task: Task, outputs: dict[str, np.ndarray], objective: Objective) -> Decoding | None:
    """The best values of `Task.decoding` on dev, of equal ones those that differ least from the config's. None where
    the objective does not depend on them.

    Nothing is trained or predicted: the outputs are scored again.

    Args:
        task: Of the model.
        outputs: Of the model for `task.dev`, as `predict` gives them.
        objective: What to choose by.
    """
    if not task.decoding:
        return None
    own = {name: getattr(task.model, name) for name in task.decoding}
    grid = [dict(zip(own, values, strict=True)) for values in itertools.product(*task.decoding.values())]
    others = [values for values in grid if values != own]
    tried = [own, *sorted(others, key=lambda values: sum(values[name] != own[name] for name in own))]
    best, best_value, best_chosen = own, None, dict[str, float]()
    for values in tried:
        reading = task.with_model_values(values)
        chosen = reading.choose(task.dev, outputs)
        scores = reading.with_chosen(chosen).item_scores(task.dev, outputs, objective.metric)
        if scores is None:
            return None
        if objective.is_better(value := float(scores.mean()), than=best_value):
            best, best_value, best_chosen = values, value, chosen
    metrics = task.with_model_values(best).with_chosen(best_chosen).score(task.dev, outputs) | best_chosen
    return Decoding({name: value for name, value in best.items() if value != own[name]}, metrics, len(tried))


@torch.inference_mode()
def predict(model: nn.Module, task: Task, examples: Examples, runtime: Runtime) -> dict[str, np.ndarray]:
    """The task's outputs of all examples, in their order: arrays with one row an example, on every worker.

    The same on dev during training as ever after, but for what another number of threads or another device rounds.
    """
    training = model.training
    model.eval()
    # A task may give outputs as wide as a batch; rows are kept a batch until all are there.
    mine: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []
    done = 0
    batches = batches_of_tokens(examples.lengths, tokens=TOKENS_PER_BATCH[runtime.device.type])
    with in_precision(task.config, runtime.device):
        for indices in batches[runtime.rank :: runtime.workers]:
            mine.append((indices, task.outputs(model, examples.batch(indices).to(runtime.device))))
            done += len(indices)
            task.progress(RUNNING_THE_MODEL, done, len(examples))
    model.train(training)
    on_cpu = [(indices, {name: rows.cpu().numpy() for name, rows in outputs.items()}) for indices, outputs in mine]
    parts = [part for parts in runtime.all_gather(on_cpu) for part in parts]
    return _in_order(parts, len(examples))


def _in_order(parts: list[tuple[np.ndarray, dict[str, np.ndarray]]], size: int) -> dict[str, np.ndarray]:
    outputs: dict[str, np.ndarray] = {}
    for name in parts[0][1]:
        width = [max(sizes) for sizes in zip(*(part[name].shape[1:] for _, part in parts), strict=True)]
        dtype = parts[0][1][name].dtype
        rows = np.full((size, *width), -np.inf if dtype.kind == "f" else 0, dtype=dtype)
        for indices, part in parts:
            place: tuple[np.ndarray | slice, ...] = (indices, *(slice(0, length) for length in part[name].shape[1:]))
            rows[place] = part[name]
        outputs[name] = rows
    return outputs
