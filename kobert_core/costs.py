"""What a model costs whoever uses it: how large it is, and how long it takes for one text or question."""

from __future__ import annotations

import time
from collections.abc import Collection
from itertools import cycle, islice

import numpy as np
import torch
from torch import nn

from kobert_core.config import LATENCY, MODEL_COSTS, MODEL_MB, PARAMETERS
from kobert_core.runtime import in_precision
from kobert_core.tasks.base import Task

TEXTS = 25
"""Different ones, drawn from the dev split by chance: for all models the same."""
WARM_UP, PASSES = 5, 100
SECONDS = 5.0
"""For all passes; the last one may end later."""


def model_costs(task: Task, device: torch.device, names: Collection[str] = MODEL_COSTS) -> dict[str, float]:
    """The costs of a model of this shape on a device, those with these names.

    `cost/parameters` counts its weights, `cost/model_mb` is their size in MB (10^6 bytes) as they are exported.
    `cost/latency_ms` is the median time of a forward pass of one example, in milliseconds, in the precision of the
    config and with the threads that PyTorch has; tokenization is no part of it. It depends on shape and length, and not
    on what the weights are: none are trained for it. What else runs on the machine makes it longer.
    """
    model = task.build_model()
    weights = list(model.parameters())
    found = {
        PARAMETERS: float(sum(each.numel() for each in weights)),
        MODEL_MB: sum(each.numel() * each.element_size() for each in weights) / 1e6,
    }
    if LATENCY in names:
        found[LATENCY] = round(float(np.median(seconds_of(model, task, device))) * 1000, 3)
    return {name: found[name] for name in names}


@torch.inference_mode()
def seconds_of(model: nn.Module, task: Task, device: torch.device) -> list[float]:
    """How long passes of one example take, each after the other, on a device where the model then is."""
    model = model.to(device).eval()
    generator = np.random.default_rng(0)
    drawn = generator.choice(len(task.dev), min(TEXTS, len(task.dev)), replace=False)
    batches = cycle([task.dev.batch(np.array([place])).to(device) for place in drawn])
    taken: list[float] = []
    with in_precision(task.config, device):
        for batch in islice(batches, WARM_UP):
            model(**batch.inputs)
        while len(taken) < PASSES and sum(taken) < SECONDS:
            batch = next(batches)
            _wait_for(device)
            begin = time.perf_counter()
            model(**batch.inputs)
            _wait_for(device)
            taken.append(time.perf_counter() - begin)
    return taken


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
