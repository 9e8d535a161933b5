"""What a run needs of the world around it: a device, its fellow workers, somebody to report to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch

from kobert_core.checkpoint import CheckpointCopies
from kobert_core.config import TrainConfig

T = TypeVar("T")

Phase = Literal["model", "data", "forward", "backward", "graph", "optimizer", "evaluation", "checkpoint", "logging"]
"""What a run can be doing; `model` is to build it, or to put it where a checkpoint left it, and `graph` to go forward
and backward in one, on CUDA."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run says at each evaluation."""

    progress: int
    """Percent of the run's own steps that are done; 100 is the end."""
    step: int
    """Steps that are done."""
    metrics: dict[str, float]
    """Values by name, such as `eval/accuracy`."""
    is_best: bool
    """Whether these weights beat all before them in this run."""
    checkpoint: str | None
    """Folder of the checkpoint of this moment, when the run keeps checkpoints."""
    micro_batch: int | None = None
    """Examples that go through the model at once, where memory ran out with as many as the config says."""


class Runtime(Protocol):
    """Where a run takes place. The loop knows this and nothing else of Ray."""

    device: torch.device
    rank: int
    workers: int
    checkpoints: Path | None
    """Folder for this run's checkpoints; None keeps none."""
    resume: bool
    """Whether to go on from the newest whole checkpoint in `checkpoints`."""

    @property
    def copies(self) -> CheckpointCopies | None:
        """Where copies of the checkpoints are kept besides; None keeps none."""
        ...

    def report(self, report: Report) -> bool:
        """Hand on a report; every worker calls this, and that of rank 0 counts.

        Returns:
            On rank 0, whether it was heard and the run is to go on.
        """
        ...

    def should_stop(self) -> bool:
        """Whether the run is to end now; asked after every step, the same answer on all workers."""
        ...

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all workers, in place."""
        ...

    def all_gather(self, value: T) -> list[T]:
        """The values of all workers, in the order of their ranks, on every worker."""
        ...

    def phase(self, name: Phase) -> AbstractContextManager[object]:
        """Entered while the run does this; phases do not overlap. For those who want to know where the time goes."""
        ...


@dataclass(kw_only=True)
class LocalRuntime:
    """One process, without Ray."""

    device: torch.device = field(default_factory=lambda: default_device())
    checkpoints: Path | None = None
    resume: bool = False
    copies: CheckpointCopies | None = None
    on_report: Callable[[Report], None] = lambda report: None
    rank: int = 0
    workers: int = 1

    def report(self, report: Report) -> bool:
        self.on_report(report)
        return True

    def should_stop(self) -> bool:
        return False

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        pass

    def all_gather(self, value: T) -> list[T]:
        return [value]

    def phase(self, name: Phase) -> AbstractContextManager[object]:
        return nullcontext()


def default_device() -> torch.device:
    """The current CUDA device if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA, the stream for all of a run: nothing can be captured on the one that everybody uses."""
    if device.type != "cuda":
        yield
        return
    stream = _stream_of(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """The same for all runs of a process: cuBLAS keeps memory for each stream that it ever saw."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)
    return stream


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On CUDA, kernels that give the same bits each time."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch asks for one that cuBLAS documents
    settings: Any = torch.utils.deterministic
    before, filled_before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filled_before


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether matrix products run in bf16: asked for, or `auto` on a CUDA device that has it."""
    if config.train.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.train.precision == "bf16"


def in_precision(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Within it a model computes in the precision of its config: in training, and wherever it is used afterwards."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))
