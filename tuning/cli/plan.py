"""The command that says what a sweep will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from tuning.cli.launch import study_and_folder
from tuning.cli.options import (
    Address,
    AsJson,
    Name,
    Overrides,
    StudyFile,
    SweepsFolder,
    Trials,
    print_json,
    with_trials,
)
from tuning.display.words import span

if TYPE_CHECKING:
    from tuning.planning.plan import Plan

commands = typer.Typer()


@commands.command()
def plan(
    study_file: StudyFile,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: SweepsFolder = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """What a sweep will take: time, GPU hours, disk, and the smallest difference that it can show.

    Measures trials of the study for about two minutes, on this machine, and simulates the sweep with its scheduler.
    The sweep of the same study takes the plan along: its report has it beside what happened.
    """
    from tuning.cli.progress import beside, watching

    console = Console(stderr=as_json, emoji=False)
    study, folder = study_and_folder(study_file, with_trials(overrides, trials), name, output)
    from tuning.planning.plan import plan_sweep
    from tuning.sweep_dir.plans import write_plan

    with watching() as progress:
        found = plan_sweep(study, folder, address, say=beside(progress, err=as_json), progress=progress)
    write_plan(folder, study, found.as_json())
    show_plan(found, console)
    if as_json:
        print_json(found.as_json())


def show_plan(found: Plan, console: Console) -> None:
    """The plan as a table, a line a number of worker groups."""
    from pydantic import ByteSize

    table = Table(box=None, pad_edge=False)
    for heading in ("trials at once", "sweep", "nine of ten", "search", "confirm", "GPU hours", "CPU hours"):
        table.add_column(heading, justify="right")
    for each in found.schedules:
        mark = " (here)" if each.groups == found.here else ""
        spread = f"{span(each.low)} to {span(each.high)}"
        hours = [f"{hours:.2g}" if hours else "" for hours in (each.gpu_hours, each.cpu_hours)]
        table.add_row(f"{each.groups}{mark}", span(each.seconds), spread, span(each.search), span(each.confirm), *hours)
    console.print(table)
    whole = f"one to its end takes {span(found.trial)}, {found.evaluating:.0%} of it evaluating"
    console.print(f"{found.trials} trials, of which about {found.stopped:.0f} are stopped early; {whole}")
    console.print(f"checkpoints: up to {ByteSize(found.disk).human_readable()}")
    if found.resolution:
        console.print(f"smallest difference: {found.resolution}")
    for line in found.advice:
        console.print(f"advice: {line}", soft_wrap=True)
