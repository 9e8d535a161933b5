"""An estimate of the time until a sweep ends, from the times of its trials so far."""

from __future__ import annotations

import heapq
import time
from statistics import fmean

from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


class TimeLeft:
    """Told of every change of a trial, it counts the time since then."""

    def __init__(self, table: TrialTable, *, trials: int, groups: int) -> None:
        """`groups`: the number of the `trials` that run at once."""
        self._table, self._trials, self.groups = table, trials, groups
        self._heard: dict[int, float] = {}

    def hear(self, record: TrialRecord) -> None:
        """A trial has started, reported or ended now."""
        self._heard[record.trial] = time.monotonic()

    def seconds(self) -> float | None:
        """Until the last trial ends; None while nothing is known.

        A trial that has reported goes on at its own pace, to its end; one that has not takes the mean of those that
        ended, however they ended. A group that is free takes the next one. A trial that is paused counts as ended: most
        of them stay where they are.
        """
        records = list(self._table)
        ended = [record.seconds for record in records if record.is_at_rest]
        begun = [record for record in records if not record.is_at_rest]
        wholes = {record.trial: 100 * record.seconds / record.progress for record in begun if record.progress}
        if not ended and not wholes:
            return 0.0 if self._trials <= 0 else None
        mean = fmean(ended or wholes.values())
        begun.sort(key=lambda record: record.state != TrialState.RUNNING)
        jobs = [max(0.0, wholes.get(record.trial, mean) - self._spent(record)) for record in begun]
        jobs += [mean] * (self._trials - len(ended) - len(begun))
        free_at = [0.0] * self.groups
        for seconds in jobs:
            heapq.heapreplace(free_at, free_at[0] + seconds)
        return max(free_at)

    def _spent(self, record: TrialRecord) -> float:
        if record.state != TrialState.RUNNING or record.trial not in self._heard:
            return record.seconds
        return record.seconds + time.monotonic() - self._heard[record.trial]
