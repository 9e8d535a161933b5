"""The state of one command from its start to its end, across the processes that replace one another."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field

from tuning.workers.failures import MAX_LOSSES


@dataclass
class Session:
    """Counters that survive the process that counts: they are in shared memory."""

    begin: float = field(default_factory=time.monotonic)
    budget_begin: float | None = None
    """When Ray and the data were first ready: the budget counts from then on."""
    group_seconds: float = 0.0
    """So long were worker groups held since then, all together."""
    failures: list[str] = field(default_factory=list)
    """Why trials have failed."""
    reports: int = 0
    """New ones, of all trials."""
    losses: int = 0
    """Of processes, in a row."""
    reports_then: int = -1
    """When the latest process was lost."""
    ended: bool = False
    """Whether the process ended by itself."""
    descriptor: int | None = field(default=None, repr=False, compare=False)
    """Of a file in memory; None without another process."""

    def begin_budget(self) -> float:
        """When the budget began; it begins now if it had not."""
        if self.budget_begin is None:
            self.budget_begin = time.monotonic()
            self._save()
        return self.budget_begin

    def hold(self, group_seconds: float) -> None:
        """Worker groups were held so long, all together. What is not written by the next report is lost with the
        process."""
        self.group_seconds += group_seconds

    def count_report(self) -> None:
        """A trial has a new report."""
        self.reports += 1
        self._save()

    def count_failure(self, reason: str) -> None:
        """A trial has failed."""
        self.failures.append(reason)
        self._save()

    def count_loss(self) -> bool:
        """A process was lost; whether to try again."""
        self.losses = self.losses + 1 if self.reports == self.reports_then else 1
        self.reports_then = self.reports
        self._save()
        return self.losses <= MAX_LOSSES

    def end(self) -> None:
        """The process ends by itself."""
        self.ended = True
        self._save()

    def read(self) -> None:
        """Read what another process has counted."""
        if self.descriptor is not None:
            size = os.fstat(self.descriptor).st_size
            for name, value in json.loads(os.pread(self.descriptor, size, 0) or b"{}").items():
                setattr(self, name, value)

    def _save(self) -> None:
        if self.descriptor is not None:
            values = {name: value for name, value in vars(self).items() if name != "descriptor"}
            text = json.dumps(values).encode()  # it only grows, but for numbers: blanks cover what was longer
            size = os.fstat(self.descriptor).st_size
            os.pwrite(self.descriptor, text.ljust(size), 0)
