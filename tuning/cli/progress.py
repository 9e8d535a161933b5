"""The progress of long work, on stderr: bars on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tuning.cli.terminal import echo
from tuning.display.words import span

SECONDS_BETWEEN_LINES = 15.0


class RateColumn(ProgressColumn):
    """How much is done in a second."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class Bars:
    """A bar for the latest work; it replaces the one before."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # what is printed there is not for this console
            redirect_stderr=False,
        )
        self._known: dict[str, TaskID] = {}
        self._shown: str | None = None

    def __call__(self, work: str, done: int, total: int | None = None, /) -> None:
        """As `kobert_core.progress.Progress`."""
        if done == total:
            self.hide()
            if work in self._known:
                self._bars.remove_task(self._known.pop(work))
            return
        if work not in self._known:
            self._known[work] = self._bars.add_task(work, total=total, count="", visible=False)
        if self._shown != work:
            self.hide()
            self._shown = work
            self._bars.update(self._known[work], visible=True)
            self._bars.start()
        count = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
        self._bars.update(self._known[work], completed=done, count=count)

    def hide(self) -> None:
        """Make room for other output; the next call shows a bar again."""
        if self._shown is not None:
            self._bars.stop()
            self._bars.update(self._known[self._shown], visible=False)
            self._shown = None


class Lines:
    """A line every `seconds` seconds, for work that takes longer."""

    def __init__(
        self, console: Console, *, seconds: float = SECONDS_BETWEEN_LINES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._seconds, self._clock = console, seconds, clock
        self._begun: dict[str, tuple[float, int]] = {}
        """For each unfinished work: when it was first seen, and how much was done then."""
        self._last = 0.0

    def __call__(self, work: str, done: int, total: int | None = None, /) -> None:
        """As `kobert_core.progress.Progress`."""
        now = self._clock()
        begin, before = self._begun.setdefault(work, (now, done))
        if done == total:
            del self._begun[work]
        if now - max(begin, self._last) < self._seconds:
            return
        self._last = now
        line = f"{work}: {done:,}, {span(now - begin)}"
        if total:
            line = f"{work}: {done:,} of {total:,} ({done / total:.0%}), {span(now - begin)}"
            if before < done < total:
                line += f", {(done - before) / (now - begin):,.0f}/s"
                line += f", {span((now - begin) * (total - done) / (done - before))} left"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def hide(self) -> None:
        """Nothing to hide: lines do not mix with other output."""


def beside(shown: Bars | Lines, *, err: bool = False) -> Callable[[str], None]:
    """Prints lines without breaking the bars."""

    def say(line: str) -> None:
        shown.hide()
        echo(line, err=err)

    return say


@contextmanager
def watching() -> Iterator[Bars | Lines]:
    """Show the progress of the work in the block."""
    console = Console(stderr=True)
    shown = Bars(console) if console.is_interactive else Lines(console)
    try:
        yield shown
    finally:
        shown.hide()
