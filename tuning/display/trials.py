"""The trials of a sweep as a table for people, and how long they will still take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tuning.display.words import span
from tuning.study.encoders import short_names
from tuning.study.objectives import broken_by, in_digits
from tuning.sweep_dir.trial_status import TrialState, last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.INTERRUPTED: "magenta",
    TrialState.PAUSED: "blue",
}
WIDE = 100
"""Columns of a terminal; on a narrower one the table leaves out the number of steps, to have room for values."""


class LiveTable:
    """The present state of the sweep, cut to the height of the terminal; `progress` says how far it is, as a text."""

    def __init__(self, table: TrialTable, progress: object) -> None:
        self._table, self._progress = table, progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        records, head = list(self._table), Text(f"{self._table.folder.name}: {self._progress}", style="bold")
        rows = options.size.height - len(console.render_lines(head, options, pad=False)) - 1
        if len(records) > rows:
            rows = max(1, rows - 1)
        shown, hidden = parted(records, rows, best=self._table.winner())
        yield head
        yield trial_table(self._table, shown, cut=True, step=options.max_width >= WIDE)
        if hidden:
            states = ", ".join(f"{count} {state.lower()}" for state, count in Counter(r.state for r in hidden).items())
            yield Text(f"… and {len(hidden)} more: {states}", style="dim", no_wrap=True, overflow="ellipsis")


def trial_table(table: TrialTable, records: list[TrialRecord], *, cut: bool = False, step: bool = True) -> Table:
    """Some trials of a sweep, in this order; `cut`: each on one line, cut off where it is too long."""
    metrics = dict.fromkeys([table.objective.metric, *(each.metric for each in table.further)])
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name, justify in (
        ("trial", "right"),
        ("state", "left"),
        *((("step", "right"),) if step else ()),
        ("done", "right"),
        *((metric.removeprefix("eval/").removeprefix("cost/"), "right") for metric in metrics),
        ("left", "right"),
        ("values", "left"),
    ):
        grid.add_column(name, justify=justify, no_wrap=name != "values")
    winner, short = table.winner(), short_values(table)
    for record in records:
        value = "" if record.value is None else f"{record.value:.4f}"
        broken = {each.metric for each in broken_by(record.metrics, table.further)}
        reason = f"{last_line(record.reason)} " if record.reason else ""
        told = f"{reason}{values_as_text(record, short)}"
        grid.add_row(
            f"{record.trial}",
            Text(record.state.lower(), style=STYLES[record.state]),
            *((f"{record.steps}",) if step else ()),
            f"{record.progress}%",
            Text(value, style="bold" if record is winner else ""),
            *(
                Text(in_digits(found) if found is not None else "", style="red" if metric in broken else "")
                for metric in list(metrics)[1:]
                for found in [record.metrics.get(metric)]
            ),
            time_left(record),
            Text(" ".join(told.split()), no_wrap=True, overflow="ellipsis") if cut else Text(told),
        )
    return grid


def how_far(table: TrialTable, trials: int) -> str:
    """How many of the sweep's trials have ended: `3 of 20 trials, 9 paused`."""
    ended = sum(record.has_ended for record in table)
    paused = table.states().get(TrialState.PAUSED, 0)
    return f"{ended} of {trials} trials" + (f", {paused} paused" if paused else "")


def short_values(records: Iterable[TrialRecord]) -> dict[str, str]:
    """The folders among the searched values of trials, such as encoders, by short names."""
    return short_names(value for record in records for value in record.values.values() if isinstance(value, str))


def values_as_text(record: TrialRecord, short: Mapping[str, str]) -> str:
    """Searched values without the sections of their names; `short` has those of folders."""
    return " ".join(
        f"{name.split('.')[-1]}={value:.3g}"
        if isinstance(value, float)
        else f"{name.split('.')[-1]}={short.get(str(value), value)}"
        for name, value in record.values.items()
    )


def time_left(record: TrialRecord) -> str:
    """The time until a running trial ends, at its pace so far."""
    if record.state != TrialState.RUNNING or not record.progress:
        return ""
    return span(record.seconds * (100 - record.progress) / record.progress)


def time_left_as_text(guess: float | None, limit: float | None) -> str:
    """The end of a line: how long the sweep will still take, and how long it may take."""
    if guess is None:
        return f", {span(limit)} left by its budget" if limit is not None else ""
    if guess == 0:
        return ""
    if limit is None:
        return f", about {span(guess)} left"
    return f", about {span(min(guess, limit))} left ({span(limit)} by its budget)"


def parted(
    records: list[TrialRecord], rows: int, *, best: TrialRecord | None
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The trials to show in so many rows, and the others: the best one has priority, then running ones, then the
    latest. Both lists keep the order."""
    ranked = sorted(records, key=lambda record: (record is best, record.state == TrialState.RUNNING, record.trial))
    hidden = {record.trial for record in ranked[:-rows]}
    return [r for r in records if r.trial not in hidden], [r for r in records if r.trial in hidden]
