"""What `sweep` prints of a study before it runs, and of a sweep that has ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kobert_core.texts import printable
from tuning.display.words import span
from tuning.study.objectives import in_digits
from tuning.sweep_dir.layout import REPORT

if TYPE_CHECKING:
    from tuning.sweep.comparison import Objectives
    from tuning.sweep.dry_run import DryRun
    from tuning.sweep.result import SweepResult

LEAST_WIDTH, MOST_WIDTH = 24, 40
"""Of the labels of a dry run, in columns of a terminal: they may have the name of a file in them, of any length."""


def show_dry_run(found: DryRun, console: Console) -> None:
    """What a sweep would do, and what is probably a mistake."""
    from tuning.cli.display import Display

    lines = [(printable(key), value) for key, value in found.lines()]
    width = min(MOST_WIDTH, max(LEAST_WIDTH, *(cell_len(key) for key, _ in lines)))
    for key, value in lines:
        Display(console).say(f"{key}{' ' * (width - cell_len(key))} {value}")
    for warning in found.warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {printable(warning)}"), soft_wrap=True)


def verdict_in_words(result: SweepResult) -> str:
    """What the winner's value is worth."""
    from kobert_core.folds import SPREAD

    verdict = result.verdict
    if verdict is None:
        luck = f"not confirmed: its value is the best of {sum(result.states.values())} noisy ones, and so partly luck"
        if result.winner and SPREAD in result.winner.metrics:
            return f"{luck}; over its folds it varies by {result.winner.metrics[SPREAD]:.4f} (standard deviation)"
        return f"{luck}; `confirm: {{}}` in the study trains the best again with other seeds"
    if verdict.means is None:
        return f"verdict: {verdict.sentence}"
    found, confirmed = verdict.value, verdict.means[verdict.candidate]
    return f"verdict: {verdict.sentence}; trial {verdict.candidate} had {found:.4f} in the search, {confirmed:.4f} here"


def objectives_in_words(objectives: Objectives) -> Iterator[str]:
    """The Pareto front, a line a trial, and how many trials break a constraint."""
    if objectives.front:
        yield f"Pareto front of {', '.join(objectives.names)}:"
    for record in objectives.front:
        values = "  ".join(f"{name} {in_digits(value)}" for name, value in objectives.values[record.trial].items())
        yield f"  trial {record.trial}: {values}"
    if objectives.breaking:
        broken = ", ".join(map(str, objectives.breaking))
        yield f"constraints ({', '.join(objectives.constraints)}) are broken by the trials {broken}"


def summarise(result: SweepResult, console: Console) -> None:
    """How a sweep ended, and what to do next."""
    from tuning.api.supervisor import command_to_go_on
    from tuning.cli.display import Display
    from tuning.display.trials import short_values, values_as_text
    from tuning.sweep.comparison import compared
    from tuning.sweep_dir.trial_table import standing

    say = Display(console).say
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(result.states.items()))
    say(f"{result.folder.name}: {states or 'no trials'}, {span(result.seconds)}")
    if result.interrupted or result.gave_up:
        say(f"{result.gave_up or 'interrupted'}; go on with: {command_to_go_on()}")
    if result.winner is None:
        if not (result.interrupted or result.gave_up):
            objectives = result.comparison.objectives
            say((objectives and objectives.unmet) or "no trial came to a model; see `kobert-tune logs`")
        return
    winner = result.winner
    trials = (winner, *result.comparison.baselines)
    say(f"winner: trial {winner.trial}, {values_as_text(winner, short_values(trials))}")
    baselines = tuple(record for record in result.comparison.baselines if record.trial != winner.trial)
    for who, record in compared(winner, baselines).items():
        metrics = {name: value for name, value in record.metrics.items() if name.startswith(("eval/", "cost/"))}
        for name, value in (*sorted(metrics.items()), *sorted(result.test.get(who, {}).items())):
            shown = in_digits(value) if name.startswith("cost/") else f"{value:.6g}"
            say(f"  {name:16} {shown}  ({standing(record)})")
    if result.comparison.objectives:
        for line in objectives_in_words(result.comparison.objectives):
            say(line)
        if len(result.comparison.objectives.front) > 1:
            say(f"another of them: kobert-tune export {shlex.quote(str(result.folder))} --trial N --output MODEL_DIR")
    for note in result.comparison.notes:
        say(f"note: {note}")
    say(verdict_in_words(result))
    for line in result.extras():
        say(line)
    if result.model:
        say(f"model: {result.model}")
    if (result.folder / REPORT).is_file():
        say(f"report: {result.folder / REPORT}")
    say(f"look at all trials in MLflow: kobert-tune ui {shlex.quote(str(result.folder))}")
