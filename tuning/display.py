"""What a sweep shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kobert_core.texts import printable
from tuning.results import TrialRecord, TrialTable, last_line

if TYPE_CHECKING:
    from tuning.budget import Budget
    from tuning.study import StudyConfig

STYLES = {
    "RUNNING": "cyan",
    "COMPLETE": "green",
    "PRUNED": "yellow",
    "FAILED": "red",
    "INTERRUPTED": "magenta",
}


class Display:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """One line for the reader."""
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def showing(self, table: TrialTable, study: StudyConfig, budget: Budget) -> Iterator[None]:
        """Show the trials for as long as the block runs."""
        begin = time.monotonic()
        if not self.console.is_terminal:
            table.on_change = LinesOfTrials(self).changed
            yield
            table.on_change = None
            return

        def picture() -> Group:
            finished = sum(record.state not in ("RUNNING", "INTERRUPTED") for record in table)
            left = budget.seconds_left
            line = f"{table.folder.name}: {finished} of {study.budget.trials} trials, {span(time.monotonic() - begin)}"
            line += f", {span(left)} of its budget left" if left is not None else ""
            line += " — stopping" if budget.interrupted or budget.gave_up else ""
            return Group(Text(line, style="bold"), trial_table(table, rows=max(5, self.console.height - 8)))

        with Live(console=self.console, get_renderable=picture, refresh_per_second=4, transient=True):
            yield
        self.console.print(trial_table(table, rows=len(table)))


class LinesOfTrials:
    """One line for each thing that happens to a trial."""

    def __init__(self, display: Display) -> None:
        self._display, self._seen = display, dict[int, tuple[str, int]]()

    def changed(self, record: TrialRecord) -> None:
        """Print the trial when its state or progress is new."""
        seen = (record.state, record.progress)
        if self._seen.get(record.trial) == seen:
            return
        self._seen[record.trial] = seen
        value = f" best {record.value:.4f}" if record.value is not None else ""
        values = f" {values_as_text(record)}" if record.progress == 0 else ""
        reason = f" {last_line(record.reason)}" if record.reason else ""
        self._display.say(f"trial {record.trial} {record.state} {record.progress}%{value}{values}{reason}")


def trial_table(table: TrialTable, *, rows: int) -> Table:
    """The trials: running ones first if there is no room for all, always in their order."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("trial", "right"),
        ("state", "left"),
        ("step", "right"),
        ("done", "right"),
        (table.objective.metric.removeprefix("eval/"), "right"),
        ("left", "right"),
        ("values", "left"),
    ):
        grid.add_column(name, justify=justify, no_wrap=name != "values")  # type: ignore[arg-type]
    winner = table.winner()
    records = list(table)
    if len(records) > rows:
        latest = sorted(records, key=lambda r: (r.state == "RUNNING", r is winner, r.trial))[-rows:]
        records = sorted(latest, key=lambda r: r.trial)
    for record in records:
        grid.add_row(
            f"{record.trial}",
            Text(record.state.lower(), style=STYLES[record.state]),
            f"{record.update}",
            f"{record.progress}%",
            Text(
                "" if record.value is None else f"{record.value:.4f}",
                style="bold" if record is winner else "",
            ),
            time_left(record),
            Text(f"{values_as_text(record)} {last_line(record.reason)}" if record.reason else values_as_text(record)),
        )
    return grid


def values_as_text(record: TrialRecord) -> str:
    """Searched values without the sections of their names."""
    return " ".join(
        f"{name.split('.')[-1]}={value:.3g}" if isinstance(value, float) else f"{name.split('.')[-1]}={value}"
        for name, value in record.values.items()
    )


def time_left(record: TrialRecord) -> str:
    """Until a running trial would end, at the pace it has had."""
    if record.state != "RUNNING" or not record.progress:
        return ""
    return span(record.seconds * (100 - record.progress) / record.progress)


def span(seconds: float) -> str:
    """Seconds as people write them: 42s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
