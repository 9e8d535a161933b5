"""The loop. Every run of every task goes through `train`, alone in a process or as one of many workers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kobert_core.checkpoint import (
    CheckpointWriter,
    checkpoint_folder,
    get_rng_state,
    load_state,
    load_weights,
    newest_checkpoint,
    seed_everything,
    set_rng_state,
)
from kobert_core.config import Objective, TrainConfig
from kobert_core.data.batching import StepOrder, micro_batches
from kobert_core.evaluation import evaluate_on_dev
from kobert_core.families import layers_of
from kobert_core.memory import Attempt, half_of, keep_freed_memory, tokens_that_fit
from kobert_core.models.heads import EncoderWithHead
from kobert_core.optim import make_optimizer, make_schedule
from kobert_core.runtime import Report, Runtime, deterministic, in_precision, own_stream
from kobert_core.tasks.base import Task
from kobert_core.train_step import make_forward_backward, make_optimizer_step

log = logging.getLogger(__name__)

Trained = tuple[nn.Module, AdamW, LambdaLR]
"""What a step changes."""


class NonFiniteError(ArithmeticError):
    """The loss or a metric is NaN or infinite: the run is worth nothing from here on."""


@dataclass
class Progress:
    """Where a run is; with the weights, the optimizer and the generators, all that a checkpoint holds."""

    step: int = 0
    max_tokens: int | None = None
    """The tokens of a micro-batch. Fixed at the start of a run, since another cut rounds differently; halved when
    memory runs out."""
    micro_batch: int | None = None
    """Examples of a micro-batch, once memory ran out with as many as the config says."""
    best_value: float | None = None
    best_checkpoint: str | None = None
    report: dict[str, Any] | None = None
    """The last report up to the checkpoint: a resumed run gives it again, in case that nobody heard it."""


def train(config: TrainConfig, task: Task[Any], runtime: Runtime) -> nn.Module:
    """Train a model from the start, or from the newest checkpoint when the runtime says so.

    Reports at each `eval_percent` of the run's own steps, after a checkpoint of that moment is on disk. A run that
    goes on from a checkpoint begins with its last report before it, so a report may arrive twice, but is never lost.
    Between evaluations it writes a checkpoint each `checkpoint_interval`, and when it is asked to stop.
    The same config and data on the same device with the same number of threads and workers give the same
    numbers, bit for bit on CPU, also after a stop and a resume.

    Returns:
        The model with the weights of the last step, in training mode.

    Raises:
        InputError: the model cannot be built.
        NonFiniteError: the loss or a metric is not a finite number at an evaluation.
        OutOfMemory: the memory does not hold a single example. Until then, a step that finds too little begins
            again with micro-batches of half the size, which stay so: its examples and its gradient are the same.
    """
    repeatable = deterministic(runtime.device) if config.train.deterministic else nullcontext()
    with own_stream(runtime.device), repeatable, CheckpointWriter(runtime.copies) as writer:
        model = _train(config, task, runtime, writer)
    model.zero_grad(set_to_none=True)
    return model


def _train(config: TrainConfig, task: Task[Any], runtime: Runtime, writer: CheckpointWriter) -> nn.Module:
    keep_freed_memory()
    seed_everything(config.train.seed)
    optim = config.optim
    autocast = in_precision(config, runtime.device)
    with runtime.phase("model"):
        model = task.build_model().to(runtime.device).train()
        prepare_encoder(model, config)
        max_tokens = tokens_that_fit(model, task, optim, runtime, autocast)
    seed_everything(config.train.seed + runtime.rank)  # the same weights on all workers, each its own dropout

    examples_per_step = optim.examples_per_step(runtime.workers)
    order = StepOrder(task.train.lengths, examples_per_step=examples_per_step, seed=config.train.seed)
    steps = max(1, round(config.train.epochs * order.steps_per_epoch))
    evaluations = evaluation_steps(steps, config.train.eval_percent)
    optimizer = make_optimizer(model, optim)
    schedule = make_schedule(optimizer, optim, steps=steps)
    trained = model, optimizer, schedule
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    objective = config.objective or task.objective
    with runtime.phase("model"):
        meter = Meter(runtime.device)
        progress = restore(trained, meter, objective, runtime) or Progress(max_tokens=max_tokens)
    if progress.report is not None:
        runtime.report(Report(**progress.report))
        if runtime.should_stop():
            return model
    forward_backward = make_forward_backward(model, task, runtime, autocast)
    optimizer_step = make_optimizer_step(optimizer, parameters, optim.max_grad_norm)
    clock = CheckpointClock(config.train.checkpoint_interval, progress.step)
    while progress.step < steps:
        examples = order.examples_of(progress.step)
        weight = task.total_weight(task.train, examples)
        batch_size = progress.micro_batch or (examples_per_step if optim.batch_size == "auto" else optim.batch_size)
        pieces = micro_batches(
            examples,
            task.train.lengths,
            batch_size=batch_size,
            max_tokens=progress.max_tokens,
            rank=runtime.rank,
            workers=runtime.workers,
        )
        with Attempt(runtime.device, meter.loss) as attempt:
            for number, micro_batch in enumerate(pieces):
                with runtime.phase("data"):
                    batch = task.train.batch(micro_batch)
                meter.loss += forward_backward(batch, weight, is_first=number == 0)
        with runtime.phase("optimizer"):
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            if not attempt.all_reduce(gradients, runtime):  # memory ran out on a worker: the step begins anew with less
                graphs_freed = any(runtime.all_gather(forward_backward.free_graphs()))
                attempt.give_up(model)
                if not graphs_freed:
                    use_less_memory(progress, batch_size, math.ceil(len(examples) / runtime.workers))
                continue
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer_step()
            schedule.step()
        progress.step += 1
        task.progress("training", progress.step, steps)
        meter.weight += weight
        meter.examples += len(examples)

        if (percent := evaluations.get(progress.step)) is not None:
            metrics = meter.metrics(runtime) | learning_rates(schedule, progress.step)
            previous = progress.report
            with saving(writer, runtime, progress, trained):  # meanwhile
                with runtime.phase("evaluation"):
                    metrics |= evaluate_on_dev(model, task, runtime)
                judge(objective, runtime, progress, percent, metrics)
            report_and_clean_up(writer, runtime, progress, previous)
            meter = Meter(runtime.device)
            clock.start(progress.step)
        elif clock.is_due(progress.step, runtime):
            save(writer, runtime, progress, trained, meter)
            clock.start(progress.step)
        if runtime.should_stop():
            if progress.step not in evaluations:
                save(writer, runtime, progress, trained, meter)
            break
    return model


def use_less_memory(progress: Progress, batch_size: int, examples: int) -> None:
    """Halve the micro-batches from here on; `examples` is one worker's part of the step that did not fit."""
    progress.micro_batch = half_of(batch_size, examples)
    if progress.max_tokens is not None:
        progress.max_tokens = max(1, progress.max_tokens // 2)
    log.warning(
        "out of memory after step %d: %d examples go through the model at once from here on, in as many more pieces",
        progress.step,
        progress.micro_batch,
    )


def prepare_encoder(model: EncoderWithHead, config: TrainConfig) -> None:
    """Choose how the encoder computes what it computes: what it keeps for backward, compiled or not."""
    encoder = model.encoder
    if config.train.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    if config.train.compile:
        torch._dynamo.reset()  # the runs of a warm worker would share one limit of how often a layer is compiled
        for layer in layers_of(encoder):
            layer.compile(dynamic=True)


def evaluation_steps(steps: int, percent: int) -> dict[int, int]:
    """After which steps a run evaluates, and how many percent are then done: `{step: percent}`.

    The last step is always one of them. A run of few steps evaluates at most once a step.
    """
    return {math.ceil(steps * done / 100): done for done in range(percent, 101, percent)}


def learning_rates(schedule: LambdaLR, step: int) -> dict[str, float]:
    """The highest learning rates of the encoder and of the head in a step, by the names that a study gives them."""
    rates = {"optim/backbone_lr": 0.0, "optim/classifier_lr": 0.0}
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        name = f"optim/{group['name']}_lr"
        rates[name] = max(rates[name], float(peak) * factor(step - 1))
    return rates


class Meter:
    """Loss and throughput since the last evaluation; the loss stays on the device until it is read."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)  # however many parts it is summed from
        self.weight, self.examples = 0.0, 0
        self.begin = time.perf_counter()

    def state(self) -> dict[str, float]:
        """All of it, as plain values; `seconds` is how long it has been open."""
        seconds = time.perf_counter() - self.begin
        return {"loss": float(self.loss), "weight": self.weight, "examples": self.examples, "seconds": seconds}

    def go_on_from(self, state: dict[str, float]) -> None:
        """Be what `state` saw."""
        self.loss.fill_(state["loss"])
        self.weight, self.examples = state["weight"], int(state["examples"])
        self.begin = time.perf_counter() - state["seconds"]

    def metrics(self, runtime: Runtime) -> dict[str, float]:
        """Mean loss over the examples, by their weights, and examples per second."""
        runtime.all_reduce([self.loss])
        loss = float(self.loss) / self.weight  # the one wait for the device
        return {
            "train/loss": loss,
            "train/examples_per_second": self.examples / (time.perf_counter() - self.begin),
        }


class CheckpointClock:
    """Says when a checkpoint between evaluations is due, by the clock of rank 0.

    All workers hear of it at the same steps: after one, two, four, … steps, and when a checkpoint is about due.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self._seconds = seconds
        self.start(step)

    def start(self, step: int) -> None:
        """A checkpoint of this step was written."""
        self._begin, self._first, self._next_look = time.monotonic(), step, step + 1

    def is_due(self, step: int, runtime: Runtime) -> bool:
        """Asked by all workers after every step; the same answer for all of them."""
        if step < self._next_look:
            return False
        elapsed = runtime.all_gather(time.monotonic() - self._begin)[0]
        done = step - self._first
        left = done * (self._seconds / max(elapsed, 1e-9) - 1)
        self._next_look = step + max(1, int(min(done, left)))
        return bool(elapsed >= self._seconds)


def judge(objective: Objective, runtime: Runtime, progress: Progress, percent: int, metrics: dict[str, float]) -> None:
    """Write the report of this moment into `progress`, and whether it is the best so far."""
    value = metrics[objective.metric]
    broken = [f"{name} is {metric}" for name, metric in metrics.items() if not math.isfinite(metric)]
    if broken:
        raise NonFiniteError(f"after step {progress.step} {' and '.join(broken)}")
    is_best = objective.is_better(value, progress.best_value)
    folder = checkpoint_folder(runtime.checkpoints, progress.step) if runtime.checkpoints else None
    if is_best:
        progress.best_value, progress.best_checkpoint = value, folder.name if folder else None
    report = Report(
        progress=percent,
        step=progress.step,
        metrics=metrics,
        is_best=is_best,
        checkpoint=str(folder) if folder else None,
        micro_batch=progress.micro_batch,
    )
    progress.report = asdict(report)


def report_and_clean_up(
    writer: CheckpointWriter, runtime: Runtime, progress: Progress, previous: dict[str, Any] | None
) -> None:
    """Report, then remove all checkpoints but this one, the best one and that of the `previous` report."""
    assert progress.report is not None
    with runtime.phase("logging"):
        heard = runtime.report(Report(**progress.report))
    if heard:
        remove_old_checkpoints(writer, runtime, progress, previous)


@contextmanager
def saving(
    writer: CheckpointWriter, runtime: Runtime, progress: Progress, trained: Trained, meter: Meter | None = None
) -> Iterator[None]:
    """Write the checkpoint of this moment while the block runs, which must not change the weights; it has
    `progress` as the block leaves it. Every worker calls this. `meter` is given between evaluations."""
    if runtime.checkpoints is None:
        yield
        return
    model, optimizer, schedule = trained
    with ExitStack() as stack:
        state: dict[str, Any] = {}
        if runtime.rank == 0:
            folder = checkpoint_folder(runtime.checkpoints, progress.step)
            with runtime.phase("checkpoint"):
                state = stack.enter_context(writer.new(folder, model, optimizer))
        yield
        with runtime.phase("checkpoint"):
            workers = runtime.all_gather({"generators": get_rng_state(), "window": meter.state() if meter else None})
            state |= {"progress": vars(progress), "schedule": schedule.state_dict(), "workers": workers}
            stack.close()


def save(writer: CheckpointWriter, runtime: Runtime, progress: Progress, trained: Trained, meter: Meter) -> None:
    """Write the checkpoint of a moment between evaluations, and remove what it takes the place of."""
    with saving(writer, runtime, progress, trained, meter):
        pass
    remove_old_checkpoints(writer, runtime, progress, progress.report)


def remove_old_checkpoints(
    writer: CheckpointWriter, runtime: Runtime, progress: Progress, previous: dict[str, Any] | None
) -> None:
    """Remove the checkpoints that a run does not need: it needs the newest, the best, and one to fall back on, that of
    the `previous` report."""
    if runtime.checkpoints is None or runtime.rank != 0:
        return
    newest = checkpoint_folder(runtime.checkpoints, progress.step).name
    fallback = Path(previous["checkpoint"]).name if previous and previous["checkpoint"] else newest
    writer.remove_others(runtime.checkpoints, keep={newest, fallback, progress.best_checkpoint or newest})


def in_steps(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved `Progress` with its step by this name: older checkpoints call it `update`, also in the report."""
    named = {"step" if name == "update" else name: value for name, value in saved.items()}
    return named | {"report": in_steps(named["report"])} if named.get("report") else named


def restore(trained: Trained, meter: Meter, objective: Objective, runtime: Runtime) -> Progress | None:
    """Put everything where the newest whole checkpoint left it; None when the run begins at the start.

    Learning rates and weight decays are those of the config, not those of the checkpoint, which another run may have
    begun.
    """
    folder = newest_checkpoint(runtime.checkpoints) if runtime.resume and runtime.checkpoints else None
    if folder is None:
        return None
    model, optimizer, schedule = trained
    state = load_state(folder)
    model.load_state_dict(load_weights(folder))
    own_groups = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"] | {"base_lrs": schedule.base_lrs})
    for group, own, factor in zip(optimizer.param_groups, own_groups, schedule.lr_lambdas, strict=True):
        group |= own | {"lr": own["initial_lr"] * factor(schedule.last_epoch)}
    own_state = state["workers"][runtime.rank]
    set_rng_state(own_state["generators"])
    progress = Progress(**in_steps(state["progress"]))
    if own_state["window"] is not None:
        meter.go_on_from(own_state["window"])
    if progress.report is None:
        return progress
    progress.report["checkpoint"] = str(folder.parent / Path(progress.report["checkpoint"]).name)  # it may have moved
    best = progress.best_checkpoint
    if best and progress.report["step"] == progress.step and not (folder.parent / best).is_dir():
        progress.best_checkpoint = folder.name  # the one before was another run's
        progress.best_value = progress.report["metrics"][objective.metric]
        progress.report["is_best"] = True
    return progress
