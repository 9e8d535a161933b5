"""What the device does in a step: forward and backward of micro-batches, and a step of the optimizer.

On CUDA each is a graph, once it was seen: kernels that are launched all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import AdamW

from kobert_core.bf16_weights import Bf16Weights
from kobert_core.data.batching import Batch, Shape
from kobert_core.memory import allowed_memory, is_out_of_memory
from kobert_core.models.heads import EncoderWithHead
from kobert_core.runtime import Runtime, uses_bf16
from kobert_core.tasks.base import Task

GRAPH_TOKENS = 32_768
"""With more tokens the kernels take longer than Python does to launch them, and a graph gains nothing."""
MOST_GRAPHS = 64
"""Each takes some megabytes, and time to capture: the shapes that come first are those that come often."""
ROOM_FOR_GRAPHS = 0.4
"""Graphs keep as much memory again as the run takes: above this share of it, there are none."""


class ForwardBackward:
    """Runs forward and backward, kernel by kernel."""

    def __init__(
        self, model: nn.Module, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]
    ) -> None:
        self._model, self._task, self._runtime, self._autocast = model, task, runtime, autocast

    def __call__(self, batch: Batch, weight: float, *, is_first: bool) -> torch.Tensor:
        """Add the gradients of a batch on the CPU to those of the step.

        Args:
            batch: Examples.
            weight: What the loss is divided by.
            is_first: Whether there are no gradients yet.

        Returns:
            The loss undivided, a scalar.
        """
        with self._runtime.phase("forward"), self._autocast:
            loss = self._task.loss(self._model, batch.to(self._runtime.device)) / weight
        with self._runtime.phase("backward"):
            loss.backward()
        return loss.detach() * weight

    def free_graphs(self) -> bool:
        """Give up CUDA graphs, for memory; whether there were any."""
        return False


@dataclass(frozen=True)
class Graph:
    """The kernels of one shape, and where they find their batch and leave its loss."""

    cuda: torch.cuda.CUDAGraph
    batch: Batch
    loss: torch.Tensor

    def replay(self, batch: Batch) -> torch.Tensor:
        """Forward and backward of a batch of the same shape; its loss, until the next replay."""
        if batch is not self.batch:
            batch.copy_to(self.batch)
        self.cuda.replay()
        return self.loss


Key = tuple[Shape, bool]
"""A shape, and whether its gradients are the first of a step."""


class CudaForwardBackward(ForwardBackward):
    """Forward and backward on CUDA, where a small batch would leave the GPU waiting for Python.

    A pass of BERT is more than a thousand kernels. A CUDA graph launches them at once, on tensors that always lie at
    the same places, so that it serves batches of one shape: all are filled up to one of few. The first batch of a
    shape runs as on the CPU, the second is captured, from then on the graph is replayed. Each way runs the same kernels
    and takes as many random numbers.
    """

    def __init__(
        self, model: nn.Module, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]
    ) -> None:
        super().__init__(model, task, runtime, autocast)
        self._longest = int(task.train.lengths.max())
        self._weight = torch.empty((), device=runtime.device)
        self._seen: set[Key] = set()
        self._graphs: dict[Key, Graph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        # Recomputation looks at the random generators, which no capture allows before PyTorch 2.10.
        self._captures = not task.config.train.gradient_checkpointing
        torch.cuda.reset_peak_memory_stats(runtime.device)
        self._bf16 = Bf16Weights(model) if uses_bf16(task.config, runtime.device) else None

    def __call__(self, batch: Batch, weight: float, *, is_first: bool) -> torch.Tensor:
        batch = batch.fill(self._longest)
        self._weight.fill_(weight)
        key = batch.shape, is_first
        if key in self._graphs:
            with self._runtime.phase("graph"):
                return self._graphs[key].replay(batch)
        with self._runtime.phase("data"):
            batch = batch.to(self._runtime.device)
        if not self._is_worth_a_graph(key):
            return self._run(batch, is_first)
        with self._runtime.phase("graph"):
            return self._capture(key, batch).replay(batch)

    def _run(self, batch: Batch, is_first: bool) -> torch.Tensor:
        with self._runtime.phase("forward"):
            loss = self._forward(batch)
        with self._runtime.phase("backward"):
            self._backward(loss, is_first)
        return loss.detach() * self._weight

    def _forward(self, batch: Batch) -> torch.Tensor:
        if self._bf16:
            self._bf16.refresh()
        with self._autocast:
            return self._task.loss(self._bf16 or self._model, batch) / self._weight

    def _backward(self, loss: torch.Tensor, is_first: bool) -> None:
        loss.backward()
        if self._bf16:
            self._bf16.hand_over_gradients(add=not is_first)

    def _is_worth_a_graph(self, key: Key) -> bool:
        """From the second time on, where there is room for what a graph keeps beside that of all else."""
        (tokens, _), device = key[0], self._runtime.device
        if not self._captures or tokens > GRAPH_TOKENS or len(self._graphs) == MOST_GRAPHS:
            return False
        if torch.cuda.max_memory_allocated(device) > ROOM_FOR_GRAPHS * allowed_memory(device):
            return False
        seen_before = key in self._seen
        self._seen.add(key)
        return seen_before

    def _capture(self, key: Key, batch: Batch) -> Graph:
        """What is captured adds to the gradients where they lie, and they are there since the first batch."""
        _, is_first = key

        def run() -> torch.Tensor:
            loss = self._forward(batch)
            self._backward(loss, is_first)
            return loss.detach() * self._weight

        cuda, loss = capture(run, self._runtime.device, pool=self._memory)
        self._graphs[key] = Graph(cuda, batch, loss)
        return self._graphs[key]

    def free_graphs(self) -> bool:
        """Give up the graphs, which keep memory of their own beside that of all else; whether there were any."""
        had_graphs, self._captures = bool(self._graphs), False
        self._graphs.clear()
        return had_graphs


def make_forward_backward(
    model: EncoderWithHead, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]
) -> ForwardBackward:
    """Those for the device of the run. What is padded is padded to the longest of its batch, which no graph can do."""
    kind = CudaForwardBackward if runtime.device.type == "cuda" and model.family.is_packed else ForwardBackward
    return kind(model, task, runtime, autocast)


class OptimizerStep:
    """A step of the optimizer by gradients that are clipped, and are gone after it."""

    def __init__(self, optimizer: AdamW, parameters: list[nn.Parameter], max_grad_norm: float | None) -> None:
        self._optimizer, self._parameters, self._max_grad_norm = optimizer, parameters, max_grad_norm

    def __call__(self) -> None:
        self._run()
        self._optimizer.zero_grad(set_to_none=True)

    def _run(self) -> None:
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()


class CudaOptimizerStep(OptimizerStep):
    """The same in a graph, from the second step on: the first makes the optimizer's moments.

    It reads the learning rates where the schedule writes them, and leaves the gradients where they are, at zero.
    """

    def __init__(self, optimizer: AdamW, parameters: list[nn.Parameter], max_grad_norm: float | None) -> None:
        super().__init__(optimizer, parameters, max_grad_norm)
        self._device = parameters[0].device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_first = True
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self._device)

    def __call__(self) -> None:
        if self._is_first:
            self._is_first = False
            self._run()
            return
        if self._graph is None:
            for group in self._optimizer.param_groups:
                group["capturable"] = True
            self._graph, _ = capture(self._run, self._device)
        self._graph.replay()

    def _run(self) -> None:
        super()._run()
        self._optimizer.zero_grad(set_to_none=False)


def make_optimizer_step(optimizer: AdamW, parameters: list[nn.Parameter], max_grad_norm: float | None) -> OptimizerStep:
    """That for the device of the weights."""
    kind = CudaOptimizerStep if parameters[0].is_cuda else OptimizerStep
    return kind(optimizer, parameters, max_grad_norm)


T = TypeVar("T")


def capture(run: Callable[[], T], device: torch.device, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of all kernels that `run` launches, and what it gives: tensors that a replay writes.

    Raises:
        torch.OutOfMemoryError: there is not enough memory for it.
    """
    graph = torch.cuda.CUDAGraph()
    if torch.cuda.memory_reserved(device) > allowed_memory(device) // 2:
        torch.cuda.empty_cache()  # nothing can be given back while a graph is captured
    try:
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = run()
        finally:
            graph.capture_end()
    except Exception as error:  # that of ending the capture hides why it ended
        if is_out_of_memory(error.__context__):
            raise torch.OutOfMemoryError(str(error.__context__)) from error
        raise
    return graph, result
