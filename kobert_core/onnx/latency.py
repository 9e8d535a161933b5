"""How long models take for the same examples, in turns, so that what else runs on the machine slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch import nn

from kobert_core.data.batching import Batch
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.examples import Examples

THREADS, SIZES = (1, 2), (1, 32)
BATCHES = 25
"""Different ones of each size."""
TURN = 5
"""Runs of a model, one after the other, behind one that is not counted."""
RUNS = 100
SECONDS = 20.0
"""For all runs of a model with as many threads and examples; the last turn may end later."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long a model took for a batch."""

    model: str
    threads: int
    batch: int
    """Examples."""
    tokens: float
    """Of an example, on average."""
    runs: int
    p50_ms: float
    p99_ms: float


@torch.inference_mode()
def latencies(
    models: Mapping[str, Callable[[int], nn.Module]],
    examples: Mapping[str, Examples],
    *,
    threads: Sequence[int] = THREADS,
    progress: Progress = unseen,
) -> list[Latency]:
    """Latencies of models on batches of examples that are drawn by chance: of as many, the same.

    Args:
        models: Each makes a model on the CPU that computes with so many threads.
        examples: Of each model what to draw from.
        threads: How many, each after the other.
        progress: Hears how far it has come.
    """
    before, found = torch.get_num_threads(), list[Latency]()
    work, rounds = "measuring latencies", len(threads) * len(SIZES)
    try:
        for count in threads:
            torch.set_num_threads(count)
            made = {name: make(count) for name, make in models.items()}
            for size in SIZES:
                progress(work, len(found) // len(models), rounds)
                found += _in_turns(made, {name: _drawn(examples[name], size) for name in made}, count)
    finally:
        torch.set_num_threads(before)
        progress(work, rounds, rounds)
    return found


def _drawn(examples: Examples, size: int) -> list[Batch]:
    generator = np.random.default_rng(0)
    draws = (generator.choice(len(examples), size, replace=len(examples) < size) for _ in range(BATCHES))
    return [examples.batch(indices) for indices in draws]


def _in_turns(
    models: Mapping[str, nn.Module], batches: Mapping[str, Sequence[Batch]], threads: int
) -> Iterator[Latency]:
    times: dict[str, list[float]] = {name: [] for name in models}
    next_batches = {name: cycle(batches[name]) for name in models}
    goes_on = True
    while goes_on:
        for name, model in models.items():
            model(**batches[name][0].inputs)
            for batch in islice(next_batches[name], TURN):
                begin = time.perf_counter()
                model(**batch.inputs)
                times[name].append(time.perf_counter() - begin)
        goes_on = all(len(taken) < RUNS and sum(taken) < SECONDS for taken in times.values())
    for name, taken in times.items():
        size = len(batches[name][0].inputs["lengths"])
        p50, p99 = np.quantile(np.array(taken) * 1000, [0.5, 0.99]).round(3).tolist()
        tokens = float(np.mean([batch.shape.tokens / size for batch in batches[name]]).round(1))
        yield Latency(model=name, threads=threads, batch=size, tokens=tokens, runs=len(taken), p50_ms=p50, p99_ms=p99)
