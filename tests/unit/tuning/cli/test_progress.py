"""How far work has come is shown on a terminal by a bar that goes, and elsewhere by few lines."""

from __future__ import annotations

import io
import re

from rich.console import Console

from tuning.cli.progress import Bars, Lines


def test_a_bar_is_there_while_the_work_is_and_leaves_nothing() -> None:
    file = io.StringIO()
    bars = Bars(Console(file=file, force_terminal=True, width=100))
    bars("reading [b]", 3)
    for done in range(1, 5):
        bars("training", done, 8)
    bars("running the model", 5, 5)
    bars("training", 5, 8)
    bars.hide()
    shown = file.getvalue()
    assert "reading [b]" in shown and "3" in shown and "4 of 8" in shown and "5 of 8" in shown
    at_end = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.rsplit("\x1b[2K", 1)[1])
    assert at_end.strip() == "", "what was shown is erased"


def test_short_work_is_no_line_and_long_work_few() -> None:
    file, now = io.StringIO(), [1000.0]
    lines = Lines(Console(file=file, width=40), seconds=10, clock=lambda: now[0])
    for _ in range(3):
        for done in range(100):
            now[0] += 0.05
            lines("reading short.tsv", done + 1, 100)
    now[0] += 60  # of something else
    for second in range(61):
        now[0] += 0.5
        lines("running the model with a name that is long", 1000 * second, 100_000)
    lines("reading long.tsv", 0)
    now[0] += 12
    lines("reading long.tsv", 2000)
    assert file.getvalue().splitlines() == [
        "running the model with a name that is long: 20,000 of 100,000 (20%), 10s, 2,000/s, 40s left",
        "running the model with a name that is long: 40,000 of 100,000 (40%), 20s, 2,000/s, 30s left",
        "running the model with a name that is long: 60,000 of 100,000 (60%), 30s, 2,000/s, 20s left",
        "reading long.tsv: 2,000, 12s",
    ]
