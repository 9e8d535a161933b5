"""Where the time of a run goes: a table of its phases, and a trace that Perfetto or `chrome://tracing` opens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch

from kobert_core.runtime import LocalRuntime, Phase

TRACED_STEPS = 10
"""The trace holds so many steps from the start: nobody could open that of a whole run. They take longer for it."""


@dataclass(kw_only=True)
class TimedRuntime(LocalRuntime):
    """A run in one process that takes its own time. On CUDA it waits for the device between phases."""

    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(get_args(Phase), 0.0))
    """Time in each phase so far."""
    steps: int = 0
    """Steps that are done."""

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        self._wait_for_device()
        begin = time.perf_counter()
        try:
            yield
            self._wait_for_device()
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def should_stop(self) -> bool:
        self.steps += 1
        return super().should_stop()

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(kw_only=True)
class ProfilingRuntime(TimedRuntime):
    """A timed run that also writes a trace of its first steps."""

    trace: Path
    """Where the trace is written; its folder is made."""

    def __post_init__(self) -> None:
        activities = {torch.profiler.ProfilerActivity.CPU}
        if self.device.type == "cuda":
            activities.add(torch.profiler.ProfilerActivity.CUDA)
        self._profiler: torch.profiler.profile | None = torch.profiler.profile(activities=activities)
        self._profiler.start()
        self._begin = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        with torch.profiler.record_function(name), super().phase(name):
            yield

    def should_stop(self) -> bool:
        stops = super().should_stop()
        if self.steps == TRACED_STEPS:
            self._write_trace()
        return stops

    def end(self) -> list[tuple[str, float]]:
        """End the measurement: seconds by phase that there was, the most first, and at the end those in none."""
        total = time.perf_counter() - self._begin
        self._write_trace()
        spent = sorted(
            ((name, seconds) for name, seconds in self.seconds.items() if seconds), key=lambda item: -item[1]
        )
        return [*spent, ("other", total - sum(self.seconds.values()))]

    def _write_trace(self) -> None:
        if self._profiler is None:
            return
        begin = time.perf_counter()
        self._profiler.stop()
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.trace.with_name(f".{self.trace.name}.tmp.json")
        self._profiler.export_chrome_trace(str(temporary))
        os.replace(temporary, self.trace)
        self._profiler = None
        self._begin += time.perf_counter() - begin  # writing the trace is no part of the run
