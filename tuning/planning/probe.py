"""How long the parts of a trial take here: some steps and an evaluation of a real run, as many runs at once as a sweep
would have."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import BrokenBarrierError

import numpy as np
import torch

from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.profiling import TimedRuntime
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from kobert_core.training import train
from tuning.sweep.preflight import CheckedStudy, shapes

SECONDS = 90.0
"""The whole measurement takes about so long."""
FIRST_STEPS, FIRST_ITEMS = 3, 64
"""Of the run that warms up, and says how much fits into the time."""
EVALUATED = 0.25
"""The part of the time that goes to evaluating."""
SECONDS_TO_MEET = 120.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that a worker takes for the parts of a trial."""

    begin: float
    """To build the model and load its weights."""
    step: float
    """The optimizer, each step."""
    example: float
    """An example of a step, forward and backward."""
    item: float
    """A row or question that is scored."""
    checkpoint: float
    """To write one, as far as the run waits for it."""
    memory: float | None
    """The part of the GPU's memory that was in use at most; None without a GPU."""

    @classmethod
    def mean(cls, all_of: Sequence[Costs]) -> Costs:
        """The mean of each."""
        names = ("begin", "step", "example", "item", "checkpoint")
        seconds = {name: fmean(getattr(each, name) for each in all_of) for name in names}
        memory = [each.memory for each in all_of if each.memory is not None]
        return cls(**seconds, memory=max(memory, default=None))


@dataclass(frozen=True)
class Probe:
    """What was measured with some values."""

    shaping: dict[str, object]
    """The searched values that shape the examples or the model, or choose the encoder."""
    costs: Costs

    def likeness(self, values: Mapping[str, object]) -> int:
        """How many of these values a trial has, too."""
        return sum(name in values and values[name] == value for name, value in self.shaping.items())


def costs_of(probes: Sequence[Probe], values: Mapping[str, object]) -> Costs:
    """What a trial with these values costs: the mean of the probes that are most like it."""
    most = max(probe.likeness(values) for probe in probes)
    return Costs.mean([probe.costs for probe in probes if probe.likeness(values) == most])


def measure_study(
    checked: CheckedStudy, cache: Path, *, at_once: int, say: Callable[[str], object] = lambda text: None
) -> list[Probe]:
    """Measure each shape of model and examples that a study has, as far as the time allows.

    Args:
        checked: The study, its data read and cached.
        cache: Of the features and weights.
        at_once: So many trials share this machine in a sweep; as many processes measure at the same time.
        say: Gets a line a shape.

    Raises:
        InputError: a run ended with an error.
    """
    study = checked.study
    wanted = [
        {**encoder.values, **shaping}
        for encoder, task in checked.tasks
        for shaping, _ in shapes(study, encoder, task, cache)
    ]
    most = max(len(checked.tasks), int(SECONDS // 15))
    wanted = wanted[:: math.ceil(len(wanted) / most)]
    threads = max(1, int(study.resources.cpus_per_worker))
    gpus = bool(study.resources.gpus_per_worker) and torch.cuda.is_available()
    probes = []
    for shaping in wanted:
        say(f"measuring {' '.join(f'{name}={value}' for name, value in shaping.items()) or 'a trial'} …")
        config = study.train_config(study.example_values(shaping))
        costs = _measured_together(config, cache, at_once, SECONDS / len(wanted), threads, gpus)
        probes.append(Probe(shaping, Costs.mean(costs)))
    return probes


def _measured_together(
    config: TrainConfig, cache: Path, count: int, seconds: float, threads: int, gpus: bool
) -> list[Costs]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(count, _meet_at, (context.Barrier(count),)) as pool:
        asked = [pool.apply_async(measure, (config, cache, seconds, threads, gpus)) for _ in range(count)]
        try:
            return [each.get() for each in asked]
        except (RuntimeError, BrokenBarrierError) as error:
            told = str(error).strip().splitlines()
            raise InputError(
                f"a trial cannot be measured here ({told[-1] if told else type(error).__name__})"
            ) from error


def _meet_at(barrier: object) -> None:
    """Where the processes wait for each other, so that they measure at the same time."""
    globals()["_barrier"] = barrier


def measure(config: TrainConfig, cache: Path, seconds: float, threads: int, gpus: bool) -> Costs:
    """The costs of a run, in this process."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if gpus else "cpu")
    task = task_class(config.task)(config, cache=cache)
    fold = next(iter(task.folds()))
    steps_of_all = max(1, round(config.train.epochs * steps_an_epoch(config, fold)))
    first = run(config, fold, device, steps=FIRST_STEPS, items=FIRST_ITEMS)
    barrier = globals().get("_barrier")
    if barrier is not None:
        barrier.wait(SECONDS_TO_MEET)
    examples = examples_of_a_step(config)
    steps = (1 - EVALUATED) * seconds / (first.step + first.example * examples)
    items = EVALUATED * seconds / first.item
    return run(config, fold, device, steps=int(max(FIRST_STEPS, min(steps, steps_of_all))), items=int(items))


def examples_of_a_step(config: TrainConfig) -> int:
    """Of one worker."""
    return config.optim.examples_per_step(1)


def steps_an_epoch(config: TrainConfig, task: Task[Examples]) -> int:
    """Of a worker that is alone."""
    return math.ceil(len(task.train) / examples_of_a_step(config))


def run(config: TrainConfig, task: Task[Examples], device: torch.device, *, steps: int, items: int) -> Costs:
    """Train so many steps, score so many rows of dev, write one checkpoint."""
    chosen = np.random.default_rng(0).permutation(task.dev.items)[: max(2, items)]
    dev = task.dev
    task.dev = dev.take(np.sort(chosen))
    epochs = steps / steps_an_epoch(config, task)
    short = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs, "eval_percent": 100})})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory(prefix="kobert-tune-") as folder:
            runtime = TimedRuntime(device=device, checkpoints=Path(folder))
            train(short, task, runtime)
    finally:
        task.dev = dev
    took = runtime.seconds
    examples = examples_of_a_step(config) * runtime.steps
    return Costs(
        begin=took["model"],
        step=took["optimizer"] / runtime.steps,
        example=sum(took[phase] for phase in ("data", "forward", "backward", "graph")) / examples,
        item=took["evaluation"] / len(chosen),
        checkpoint=took["checkpoint"],
        memory=torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(0).total_memory
        if device.type == "cuda"
        else None,
    )
