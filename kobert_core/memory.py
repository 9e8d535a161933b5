"""The memory that training takes: how much goes through a model at once, what happens when it is too much."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from kobert_core.config import OptimConfig
from kobert_core.errors import InputError
from kobert_core.runtime import Runtime
from kobert_core.tasks.base import Task

CPU_TOKENS = 8192
"""On the CPU matrix products of more tokens are no faster, and their memory is shared with all else that runs."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees, for the next one, where its C library can.

    By default glibc gives large tensors back to the system, and every step pays for the same pages again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)


def tokens_that_fit(
    model: nn.Module, task: Task[Any], optim: OptimConfig, runtime: Runtime, autocast: AbstractContextManager[Any]
) -> int | None:
    """The tokens of a micro-batch: what the config says, and with `batch_size: auto` at most what the memory takes.

    On CUDA the longest training examples go through the model, forward and backward, with room left for the
    optimizer. The workers of a run agree on the smallest answer.

    Raises:
        InputError: not even one example fits.
    """
    if optim.batch_size != "auto":
        return optim.max_tokens
    if runtime.device.type != "cuda":
        return min(CPU_TOKENS, optim.max_tokens or CPU_TOKENS)
    longest_first = np.argsort(-task.train.lengths, kind="stable")
    own_part = math.ceil(optim.examples_per_step(runtime.workers) / runtime.workers)
    longest = int(task.train.lengths.max())
    most = int(task.train.lengths[longest_first[:own_part]].sum())
    air = allowed_memory(runtime.device) // 20
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def attempt(tokens: int) -> None:
        size = max(1, int(np.searchsorted(np.cumsum(task.train.lengths[longest_first]), tokens, side="right")))
        try:
            # What is there in the middle of a step besides: gradients, the moments of AdamW, and some air.
            held = [torch.empty_like(weight) for weight in weights for _ in range(2)]
            held.append(torch.empty(air, dtype=torch.uint8, device=runtime.device))
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            with autocast:
                loss = task.loss(model, task.train.batch(longest_first[:size]).fill(longest).to(runtime.device))
            loss.backward()
            torch.cuda.synchronize(runtime.device)
        finally:
            model.zero_grad()
            torch.cuda.empty_cache()

    found = largest_that_fits(attempt, most=min(most, optim.max_tokens or most), least=longest)
    return min(runtime.all_gather(found))


def allowed_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may take."""
    total: int = torch.cuda.get_device_properties(device).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(device))


def largest_that_fits(attempt: Callable[[int], None], *, most: int, least: int) -> int:
    """About the largest number of tokens with which `attempt` does not run out of memory: `most` if it does not, else
    at least 7/8 of what there is memory for.

    Raises:
        InputError: even `least` does not fit.
    """

    def fits(tokens: int) -> bool:
        try:
            attempt(tokens)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if tokens <= least:
                raise InputError(
                    f"the memory of the device does not hold one example of {least} tokens",
                    where="optim.batch_size",
                    fix="make the longest example shorter, or set `train.gradient_checkpointing: true`",
                ) from error
            return False
        return True

    tokens = too_many = max(most, least)
    while not fits(tokens):
        too_many, tokens = tokens, max(least, tokens // 2)
    while too_many - tokens > max(1, tokens // 8):
        between = (tokens + too_many) // 2
        if fits(between):
            tokens = between
        else:
            too_many = between
    return tokens


class OutOfMemory(MemoryError):
    """Even a single example does not fit into the memory of a worker."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out, as PyTorch, its libraries and Python put it on CUDA and on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error) if isinstance(error, RuntimeError) else ""
    return any(words in said for words in ("can't allocate memory", "out of memory", "std::bad_alloc", "ALLOC_FAILED"))


class Attempt:
    """The forward and backward passes of a step, as a context. Where memory runs out in them, the context ends them,
    and `give_up` makes it as if they had not been: the step can begin again with smaller micro-batches."""

    def __init__(self, device: torch.device, loss: torch.Tensor) -> None:
        """`loss` is what the passes add their loss to."""
        self._device, self._loss, self._loss_before = device, loss, loss.clone()
        self._generator = torch.get_rng_state()  # dropout draws from it, or on CUDA from the device's
        if device.type == "cuda":
            self._cuda_generator = torch.cuda.get_rng_state(device)
        self.ran_out = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.ran_out = is_out_of_memory(error)
        return self.ran_out

    def all_reduce(self, gradients: list[torch.Tensor], runtime: Runtime) -> bool:
        """Sum the gradients over all workers; False when memory ran out on one of them, and so for all."""
        short = gradients[0].new_full((), float(self.ran_out))  # goes in the same message
        runtime.all_reduce([*gradients, short])
        if runtime.workers > 1:
            self.ran_out = bool(short.item())
        return not self.ran_out

    def give_up(self, model: nn.Module) -> None:
        """Throw away what was computed, and put the loss and the random generators back. On CUDA gradients stay where
        they are, for a graph may know them by their place."""
        model.zero_grad(set_to_none=self._device.type != "cuda")
        self._loss.copy_(self._loss_before)
        torch.set_rng_state(self._generator)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_generator, self._device)
            torch.cuda.empty_cache()


def half_of(size: int, examples: int) -> int:
    """The size of a micro-batch that is half of one worker's part of so many examples, or of `size` if that is less.

    Raises:
        OutOfMemory: it was a single example.
    """
    size = min(size, examples)
    if size <= 1:
        raise OutOfMemory(
            "the memory of a worker does not hold a single example: make the longest example shorter, or set "
            "`train.gradient_checkpointing: true`"
        )
    return size // 2
