"""When a sweep ends before its last trial: its budget is spent, or somebody interrupts it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune import Stopper

from tuning.driver_only import DriverOnly
from tuning.study import StudyConfig


class Budget(DriverOnly, Stopper):
    """Asked by Ray Tune whether to stop all trials."""

    def __init__(self, study: StudyConfig, groups: int, tell: Callable[[], object]) -> None:
        """`groups` of the study's resources are held as long as the sweep runs; `tell` is called when it ends."""
        resources, budget = study.resources, study.budget
        held = groups * resources.workers
        limits = [budget.wall_time]
        if budget.gpu_hours is not None and resources.gpus_per_worker:
            limits.append(budget.gpu_hours * 3600 / (held * resources.gpus_per_worker))
        if budget.cpu_hours is not None:
            limits.append(budget.cpu_hours * 3600 / (held * resources.cpus_per_worker))
        self.seconds = min((limit for limit in limits if limit is not None), default=None)
        self.interrupted = False
        self._tell: Callable[[], object] | None = tell
        self._begin = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """Until the budget is spent; None without a limit of time."""
        return None if self.seconds is None else max(0.0, self.seconds - (time.monotonic() - self._begin))

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials are to stop now; the workers are told at once."""
        over = self.interrupted or self.seconds_left == 0.0
        if over and self._tell:
            self._tell()
            self._tell = None
        return over


@contextlib.contextmanager
def stopping_cleanly(budget: Budget) -> Iterator[Budget]:
    """The first Ctrl-C or SIGTERM interrupts the sweep at its trials' next update; the second one kills."""
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield budget
        return
    before = {number: signal.getsignal(number) for number in signals}

    def interrupt(number: int, frame: Any) -> None:
        budget.interrupted = True
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in signals:
        signal.signal(number, interrupt)
    try:
        yield budget
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
