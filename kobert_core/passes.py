"""Forward and backward of micro-batches, whose gradients add up in the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kobert_core.data.batching import Batch, Shape
from kobert_core.memory import allowed_memory, is_out_of_memory
from kobert_core.runtime import Runtime
from kobert_core.tasks.base import Task

GRAPH_TOKENS = 32_768
"""A GPU is busy longer with more tokens than Python is with launching their kernels: a graph gains nothing."""
MOST_GRAPHS = 64
"""Each takes some megabytes, and time to capture: the shapes that come first are those that come often."""


class Passes:
    """Forward and backward as they are."""

    new_gradients = True
    """Whether an update may make new tensors for its gradients, so that the first are stored and not added."""

    def __init__(
        self, model: nn.Module, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]
    ) -> None:
        self._model, self._task, self._runtime, self._autocast = model, task, runtime, autocast

    def __call__(self, batch: Batch, weight: float) -> torch.Tensor:
        """Add the gradients of a batch on the CPU, whose loss is divided by `weight`; gives the loss undivided."""
        return self._run(batch, weight)

    def _run(self, batch: Batch, weight: float | torch.Tensor) -> torch.Tensor:
        with self._runtime.phase("forward"):
            loss = self._forward(batch, weight)
        with self._runtime.phase("backward"):
            loss.backward()
        return loss.detach() * weight

    def _forward(self, batch: Batch, weight: float | torch.Tensor) -> torch.Tensor:
        with self._autocast:
            return self._task.loss(self._model, batch) / weight

    def take_less_memory(self) -> bool:
        """Whether the same passes will take less memory from here on."""
        return False


@dataclass(frozen=True)
class Graph:
    """The kernels of one shape, and where they find their batch and leave its loss."""

    cuda: torch.cuda.CUDAGraph
    batch: Batch
    loss: torch.Tensor


class CudaPasses(Passes):
    """Forward and backward on CUDA, where a small batch would leave the GPU waiting for Python.

    A pass of BERT is more than a thousand kernels. A CUDA graph launches them at once, on tensors that always lie at
    the same places, so that it serves batches of one shape: all are filled up to one of few. The first batch of a
    shape runs as on the CPU, the second is captured, from then on the graph is replayed. Each way gives the same
    numbers, bit for bit, and takes as many random ones.
    """

    new_gradients = False

    def __init__(
        self, model: nn.Module, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]
    ) -> None:
        super().__init__(model, task, runtime, autocast)
        self._longest = int(task.train.lengths.max())
        self._weight = torch.empty((), device=runtime.device)
        self._seen: set[Shape] = set()
        self._graphs: dict[Shape, Graph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        self._captures = True

    def __call__(self, batch: Batch, weight: float) -> torch.Tensor:
        batch = batch.fill(self._longest)
        self._weight.fill_(weight)
        if batch.shape not in self._graphs:
            with self._runtime.phase("data"):
                batch = batch.to(self._runtime.device)
            if not self._is_worth_a_graph(batch.shape):
                return self._run(batch, self._weight)
        with self._runtime.phase("graph"):
            return self._replay(batch)

    def _is_worth_a_graph(self, shape: Shape) -> bool:
        """From the second batch of a shape on."""
        if not self._captures or shape.tokens > GRAPH_TOKENS or len(self._graphs) == MOST_GRAPHS:
            return False
        seen_before = shape in self._seen
        self._seen.add(shape)
        return seen_before

    def _replay(self, batch: Batch) -> torch.Tensor:
        graph = self._graphs.get(batch.shape)
        if graph is None:
            graph = self._graphs[batch.shape] = self._capture(batch)
        else:
            batch.copy_to(graph.batch)
        graph.cuda.replay()
        return graph.loss

    def _capture(self, batch: Batch) -> Graph:
        """What is captured adds to the gradients where they lie, and they are there since the first batch."""
        device, cuda = self._runtime.device, torch.cuda.CUDAGraph()
        if torch.cuda.memory_reserved(device) > allowed_memory(device) // 2:
            torch.cuda.empty_cache()  # nothing can be given back while a graph is captured
        try:
            cuda.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                loss = self._forward(batch, self._weight)
                loss.backward()
                loss = loss.detach() * self._weight
            finally:
                cuda.capture_end()
        except Exception as error:  # that of ending the capture hides why it ended
            if is_out_of_memory(error.__context__):
                raise torch.OutOfMemoryError(str(error.__context__)) from error
            raise
        return Graph(cuda, batch, loss)

    def take_less_memory(self) -> bool:
        """Give up the graphs, which keep memory of their own beside that of all else."""
        captured, self._captures = self._captures, False
        self._graphs.clear()
        return captured


def make_passes(model: nn.Module, task: Task[Any], runtime: Runtime, autocast: AbstractContextManager[Any]) -> Passes:
    """Those for the device of the run."""
    kind = CudaPasses if runtime.device.type == "cuda" else Passes
    return kind(model, task, runtime, autocast)
