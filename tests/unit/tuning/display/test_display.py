"""What a sweep shows: the table on a terminal of any size, and how long it will still take."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kobert_core.config import Objective
from tests.fixtures.commands import ROOT
from tuning.cli.display import Display, SweepProgress
from tuning.display.time_left import TimeLeft
from tuning.display.trials import LiveTable, time_left_as_text, trial_table
from tuning.study import load_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

OBJECTIVE = Objective(metric="eval/accuracy", mode="max")
RUNNING, BEST = (1, 9, 28), 3
LONG = {"optim.backbone_lr": 0.00123, "optim.schedule": "lin\near", "model.dropout": 0.123456, "data.max_length": 128}


def a_sweep(folder: Path) -> TrialTable:
    """Thirty trials with values and reasons that do not fit into a line."""
    table = TrialTable(folder, OBJECTIVE)
    for number in range(30):
        state: Any = "RUNNING" if number in RUNNING else "FAILED" if number == 5 else "COMPLETE"
        record = TrialRecord(number, state, LONG, progress=50 if state == "RUNNING" else 100, steps=123_456)
        record.value, record.seconds = 0.9 if number == BEST else 0.5, 10.0
        record.reason = f"Traceback\nValueError: {'why ' * 60}" if state == "FAILED" else None
        table.put(record)
    return table


def budget_of(seconds: float | None = None, groups: int = 3, confirming: float = 0.0) -> Any:
    def reserve() -> float:
        return confirming

    return SimpleNamespace(groups=groups, seconds_left=seconds, reserve=reserve, interrupted=False, gave_up=None)


def test_the_runs_that_confirm_are_part_of_the_time_left(tmp_path: Path) -> None:
    progress = SweepProgress(a_sweep(tmp_path), budget_of(600.0, confirming=120.0), trials=40)
    assert "about 2m50s left (12m00s by its budget)" in str(progress)


@pytest.mark.parametrize("height", [10, 24, 50])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_running_trials_and_the_best_are_on_any_terminal(tmp_path: Path, width: int, height: int) -> None:
    table = a_sweep(tmp_path)
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(LiveTable(table, SweepProgress(table, budget_of(3600.0), trials=40)))
    lines = capture.get().splitlines()
    assert len(lines) <= height and all(len(line) <= width for line in lines)
    shown = {int(line.split()[0]): line.split()[1] for line in lines if line.split()[0].isdigit()}
    assert {BEST, *RUNNING} <= shown.keys() and list(shown) == sorted(shown)
    head = " ".join(line.strip() for line in lines[:3])
    assert "27 of 40 trials" in head and "about 50s left (1h00m by its budget)" in head
    if height < 30:
        assert len(lines) == height, "as many others as there is room for"
        assert lines[-1].startswith(f"… and {30 - len(shown)} more: ")
    else:
        assert len(shown) == 30 and "more:" not in lines[-1]


def test_more_trials_run_than_there_are_lines(tmp_path: Path) -> None:
    table = TrialTable(tmp_path, OBJECTIVE)
    for number in range(30):
        table.put(TrialRecord(number, "COMPLETE" if number == 0 else "RUNNING", {}, value=0.5))
    console = Console(width=80, height=8, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(LiveTable(table, SweepProgress(table, budget_of(), trials=30)))
    lines = capture.get().splitlines()
    assert len(lines) == 8 and lines[2].startswith("    0  complete") and lines[-1] == "… and 25 more: 25 running"


def put(table: TrialTable, left: TimeLeft, number: int, state: Any, progress: int, seconds: float) -> None:
    record = TrialRecord(number, state, {}, progress=progress, seconds=seconds)
    table.put(record)
    left.hear(record)


def test_the_time_left_follows_from_what_trials_have_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = TrialTable(tmp_path, OBJECTIVE)
    left = TimeLeft(table, trials=7, groups=2)
    assert left.seconds() is None, "nothing is known"
    put(table, left, 0, "RUNNING", 25, 10.0)
    put(table, left, 1, "RUNNING", 0, 0.0)
    assert left.seconds() == 40 + 40 + 40 + 30, "at trial 0's pace: it to its end at 30, five more between two groups"
    put(table, left, 0, "COMPLETE", 100, 40.0)
    put(table, left, 1, "PRUNED", 50, 20.0)
    assert left.seconds() == 3 * 30, "five of a mean of 30 s, two at once"
    put(table, left, 2, "RUNNING", 50, 12.0)
    put(table, left, 3, "RUNNING", 0, 0.0)
    assert left.seconds() == 12 + 30 + 30
    now[0] += 7
    assert left.seconds() == 5 + 30 + 30, "time goes by between reports"
    for number in range(2, 7):
        put(table, left, number, "COMPLETE", 100, 30.0)
    assert left.seconds() == 0


def test_paused_trials_are_told_and_count_as_no_work(tmp_path: Path) -> None:
    table = TrialTable(tmp_path, OBJECTIVE)
    left = TimeLeft(table, trials=4, groups=1)
    put(table, left, 0, "PAUSED", 10, 10.0)
    put(table, left, 1, "COMPLETE", 100, 30.0)
    assert left.seconds() == 2 * 20, "two more of the mean"
    assert str(SweepProgress(table, budget_of(), trials=4)).startswith("1 of 4 trials, 1 paused, ")
    console = Console(width=120, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(trial_table(table, list(table)))
    assert "paused" in capture.get()


@pytest.mark.parametrize(
    ("guess", "limit", "text"),
    [
        (None, None, ""),
        (0.0, 60.0, ""),
        (None, 60.0, ", 1m00s left by its budget"),
        (125.0, None, ", about 2m05s left"),
        (125.0, 60.0, ", about 1m00s left (1m00s by its budget)"),
    ],
)
def test_a_budget_bounds_the_time_left(guess: float | None, limit: float | None, text: str) -> None:
    assert time_left_as_text(guess, limit) == text


def test_without_a_terminal_the_end_of_a_trial_tells_how_far_the_sweep_is(tmp_path: Path) -> None:
    table = TrialTable(tmp_path, OBJECTIVE)
    console = Console(width=80, force_terminal=False)
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml", ["budget.trials=3"])
    with console.capture() as capture, Display(console).showing(table, study, budget_of(groups=1)):
        for state, progress, seconds in (("RUNNING", 0, 0.0), ("RUNNING", 50, 5.0), ("COMPLETE", 100, 10.0)):
            record = TrialRecord(0, state, {"a.b": "[red]x"}, progress=progress, seconds=seconds)  # type: ignore[arg-type]
            table.put(record)
    assert capture.get().splitlines() == [
        "trial 0 RUNNING 0% b=[red]x",
        "trial 0 RUNNING 50%",
        "trial 0 COMPLETE 100% (1 of 3 trials, 0s, about 20s left)",
    ]
