"""A sweep while it runs: a display that changes in a notebook, a table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kobert_core.texts import printable
from tuning.api.html import sweep_html
from tuning.api.sweep import Look, Sweep
from tuning.display.trials import WIDE, LiveTable, trial_table

SECONDS_BETWEEN_PICTURES = 1.0
SECONDS_BETWEEN_LINES = 30.0


class View(Protocol):
    """Shows a sweep, again and again, and once more at its end."""

    def show(self, look: Look, *, last: bool) -> None: ...


def follow(sweep: Sweep, *, show: bool) -> Sweep:
    """Wait for the end of a sweep, and show it meanwhile; Ctrl-C stops it. Raises as `Sweep.wait`."""
    view = view_of() if show else Silence()
    try:
        while True:
            view.show(Look(sweep), last=False)
            try:
                return sweep.wait(SECONDS_BETWEEN_PICTURES)
            except TimeoutError:
                continue
    except KeyboardInterrupt:
        sweep.stop()
        raise
    finally:
        view.show(Look(sweep), last=True)


def view_of() -> View:
    """The view for where this process runs."""
    if (update := notebook_display()) is not None:
        return Notebook(update)
    console = Console(emoji=False)
    return Terminal(console) if console.is_terminal else Lines(Console(stderr=True, emoji=False))


def notebook_display() -> Callable[[str], None] | None:
    """What shows HTML in a cell's output, in the place of what it showed before; None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    show: Any = import_module("IPython.display")
    handle: list[Any] = []

    def update(html: str) -> None:
        if handle:
            handle[0].update(show.HTML(html))
        else:
            handle.append(show.display(show.HTML(html), display_id=True))

    return update


class Silence:
    """Shows nothing."""

    def show(self, look: Look, *, last: bool) -> None:
        """Nothing."""


class Notebook:
    """One output that changes."""

    def __init__(self, update: Callable[[str], None]) -> None:
        self._update, self._shown = update, ""

    def show(self, look: Look, *, last: bool) -> None:
        """Another picture, if it is another one."""
        html = sweep_html(look)
        if html != self._shown:
            self._shown = html
            self._update(html)


class Lines:
    """What the driver says, and a line now and then."""

    def __init__(self, console: Console, *, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._console, self._seconds = console, seconds
        self._said, self._last = 0, time.monotonic()

    def show(self, look: Look, *, last: bool) -> None:
        """What is new, or how far it is."""
        for line in look.heard.said[self._said :]:
            if line.startswith("warning:"):
                self._print(line)
        self._said = len(look.heard.said)
        if last:
            for line in look.lines():
                self._print(line)
        elif time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._print("; ".join(line for line in (look.headline, look.best) if line))

    def _print(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


class Terminal:
    """The table of trials, cut to the height of the terminal, and above it what the driver says."""

    def __init__(self, console: Console) -> None:
        self._console, self._said = console, 0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def show(self, look: Look, *, last: bool) -> None:
        """Another picture; at the end the whole table, and what came of it."""
        if not last and not self._live.is_started:
            self._live.start()
        for line in look.heard.said[self._said :]:
            self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        self._said = len(look.heard.said)
        if not last:
            head = look.headline.removeprefix(f"{look.name}: ")
            self._live.update(LiveTable(look.table, head) if len(look.table) else Text(look.headline), refresh=True)
            return
        self._live.stop()
        if len(look.table):
            self._console.print(trial_table(look.table, list(look.table), step=self._console.width >= WIDE))
        for line in look.lines():
            self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
