"""What the device does in an update: forward and backward of micro-batches, and a step of the optimizer.

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

from kobert_core.data.batching import Batch, Shape
from kobert_core.memory import allowed_memory, is_out_of_memory
from kobert_core.runtime import Runtime, uses_bf16
from kobert_core.tasks.base import Task

GRAPH_TOKENS = 32_768
"""A GPU is busy longer with more tokens than Python is with launching their kernels: a graph gains nothing."""
HALVES = True
MOST_GRAPHS = 64
"""Each takes some megabytes, and time to capture: the shapes that come first are those that come often."""


class Passes:
    """Forward and backward as they are."""

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
            self._backward(loss)
        return loss.detach() * weight

    def _forward(self, batch: Batch, weight: float | torch.Tensor) -> torch.Tensor:
        with self._autocast:
            return self._task.loss(self._model, batch) / weight

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def take_less_memory(self) -> bool:
        """Whether the same passes will take less memory from here on."""
        return False


@dataclass(frozen=True)
class Graph:
    """The kernels of one shape, and where they find their batch and leave its loss."""

    cuda: torch.cuda.CUDAGraph
    batch: Batch
    loss: torch.Tensor


class Halves(nn.Module):
    """A model whose linear layers compute with copies of their weights in bf16.

    Autocast would make the same copies, with a kernel for each weight and another for its gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._weights = {
            f"{name}.{part}": weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            for part, weight in module.named_parameters(recurse=False)
        }
        self._copies = {
            name: weight.detach().to(torch.bfloat16).requires_grad_() for name, weight in self._weights.items()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.model, self._copies, args, kwargs)

    @torch.no_grad()
    def refresh(self) -> None:
        torch._foreach_copy_(list(self._copies.values()), list(self._weights.values()))

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Add the gradients of the copies to those of the weights."""
        gradients, more = [], []
        for weight, copy in zip(self._weights.values(), self._copies.values(), strict=True):
            if copy.grad is not None:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                gradients.append(weight.grad)
                more.append(copy.grad)
                copy.grad = None
        torch._foreach_add_(gradients, more)


class CudaPasses(Passes):
    """Forward and backward on CUDA, where a small batch would leave the GPU waiting for Python.

    A pass of BERT is more than a thousand kernels. A CUDA graph launches them at once, on tensors that always lie at
    the same places, so that it serves batches of one shape: all are filled up to one of few. The first batch of a
    shape runs as on the CPU, the second is captured, from then on the graph is replayed. Each way gives the same
    numbers, bit for bit, and takes as many random ones.
    """

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
        self._halves = Halves(model) if uses_bf16(task.config, runtime.device) and HALVES else None

    def _forward(self, batch: Batch, weight: float | torch.Tensor) -> torch.Tensor:
        if self._halves is None:
            return super()._forward(batch, weight)
        self._halves.refresh()
        with self._autocast:
            return self._task.loss(self._halves, batch) / weight

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()
        if self._halves is not None:
            self._halves.hand_over_gradients()

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

        def run() -> torch.Tensor:
            loss = self._forward(batch, self._weight)
            self._backward(loss)
            return loss.detach() * self._weight

        cuda, loss = capture(run, self._runtime.device, pool=self._memory)
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


class Step:
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


class CudaStep(Step):
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


def make_step(optimizer: AdamW, parameters: list[nn.Parameter], max_grad_norm: float | None) -> Step:
    """That for the device of the weights."""
    kind = CudaStep if parameters[0].is_cuda else Step
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
