"""What a sweep shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from kobert_core.texts import printable
from tuning.cli.progress import Bars, Lines, watching
from tuning.display.time_left import TimeLeft
from tuning.display.trials import LiveTable, how_far, short_values, time_left_as_text, trial_table, values_as_text
from tuning.display.words import span
from tuning.sweep_dir.trial_status import last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

if TYPE_CHECKING:
    from tuning.study import StudyConfig
    from tuning.sweep.budget import Budget


class Display:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """One line for the reader."""
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def watching(self) -> AbstractContextManager[Bars | Lines]:
        """Show the progress of the work in the block."""
        return watching()

    @contextmanager
    def showing(self, table: TrialTable, study: StudyConfig, budget: Budget) -> Iterator[None]:
        """Show the trials for as long as the block runs."""
        progress = SweepProgress(table, budget, trials=study.trials_left())
        if not self.console.is_terminal:
            table.on_change = TrialLines(self, table, progress).changed
            yield
            table.on_change = None
            return
        table.on_change = progress.hear
        picture = LiveTable(table, progress)
        with Live(console=self.console, get_renderable=lambda: picture, refresh_per_second=4, transient=True):
            yield
        table.on_change = None
        self.console.print(trial_table(table, list(table)))


class SweepProgress:
    """The progress of a sweep, in a few words."""

    def __init__(self, table: TrialTable, budget: Budget, *, trials: int) -> None:
        self._table, self._budget, self._trials = table, budget, trials
        self._left, self._begin = TimeLeft(table, trials=trials, groups=budget.groups), time.monotonic()

    def hear(self, record: TrialRecord) -> None:
        """A trial has changed."""
        self._left.hear(record)

    @property
    def short_names(self) -> dict[str, str]:
        """Those of folders among the values of the trials."""
        return short_values(self._table)

    def __str__(self) -> str:
        line = f"{how_far(self._table, self._trials)}, {span(time.monotonic() - self._begin)}"
        self._left.groups = self._budget.groups  # machines may join and leave
        confirming, left, limit = self._budget.reserve(), self._left.seconds(), self._budget.seconds_left
        line += time_left_as_text(
            None if left is None else left + confirming, None if limit is None else limit + confirming
        )
        return line + (" — stopping" if self._budget.interrupted or self._budget.gave_up else "")


class TrialLines:
    """One line for each change of a trial; when it has ended, also the progress of the sweep."""

    def __init__(self, display: Display, table: TrialTable, progress: SweepProgress) -> None:
        self._display, self._table, self._progress = display, table, progress
        self._seen: dict[int, tuple[str, int]] = {}

    def changed(self, record: TrialRecord) -> None:
        """Print the trial when its state or progress is new."""
        self._progress.hear(record)
        seen = (record.state, record.progress)
        if self._seen.get(record.trial) == seen:
            return
        self._seen[record.trial] = seen
        value = f" best {record.value:.4f}" if record.value is not None else ""
        values = f" {values_as_text(record, self._progress.short_names)}" if record.progress == 0 else ""
        reason = f" {last_line(record.reason)}" if record.reason else ""
        sweep = f" ({self._progress})" if record.is_at_rest else ""
        if record.has_ended and (broken := self._table.breaks(record)):
            reason += f" breaks {broken}"
        self._display.say(f"trial {record.trial} {record.state} {record.progress}%{value}{values}{reason}{sweep}")
