"""The memory that training takes: how many tokens go through a model at once, and what becomes of what they leave."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
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
    """Let this process keep the memory that an update frees, for the next one, where its C library can.

    By default glibc gives large tensors back to the system, and every update pays for the same pages again.
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
    optimizer: all of an update at first, then half as many tokens until they fit. The workers of a run agree on the
    smallest answer.

    Raises:
        InputError: not even one example fits.
    """
    if optim.batch_size != "auto":
        return optim.max_tokens
    if runtime.device.type != "cuda":
        return min(CPU_TOKENS, optim.max_tokens or CPU_TOKENS)
    longest_first = np.argsort(-task.train.lengths, kind="stable")
    own_part = math.ceil(optim.examples_per_update(runtime.workers) / runtime.workers)
    most = int(task.train.lengths[longest_first[:own_part]].sum())
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def attempt(tokens: int) -> None:
        size = max(1, int(np.searchsorted(np.cumsum(task.train.lengths[longest_first]), tokens, side="right")))
        try:
            # What is there in the middle of an update besides: gradients, the moments of AdamW, and some air.
            held = [torch.empty_like(weight) for weight in weights for _ in range(2)]
            held.append(
                torch.empty(torch.cuda.mem_get_info(runtime.device)[1] // 20, dtype=torch.uint8, device=runtime.device)
            )
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            with autocast:
                loss = task.loss(model, task.train.batch(longest_first[:size]).to(runtime.device))
            loss.backward()
            torch.cuda.synchronize(runtime.device)
        finally:
            model.zero_grad()
            torch.cuda.empty_cache()

    found = largest_that_fits(attempt, most=min(most, optim.max_tokens or most), least=int(task.train.lengths.max()))
    return min(runtime.gather(found))


def largest_that_fits(attempt: Callable[[int], None], *, most: int, least: int) -> int:
    """The first of `most`, `most / 2`, `most / 4` … with which `attempt` does not run out of memory.

    Raises:
        InputError: even `least` does not fit.
    """
    tokens = max(most, least)
    while True:
        try:
            attempt(tokens)
        except torch.OutOfMemoryError as error:
            if tokens <= least:
                raise InputError(
                    f"the memory of the device does not hold one example of {least} tokens",
                    where="optim.batch_size",
                    fix="make the longest example shorter, or set `train.gradient_checkpointing: true`",
                ) from error
        else:
            return tokens
        tokens = max(least, tokens // 2)
