"""The commands that train: one run, a sweep, and a sweep of students."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kobert_core.data.source import Source
from tuning.api.exit_codes import EXIT_INTERRUPTED, EXIT_NOTHING_WON
from tuning.cli.options import (
    SWEEPS,
    Address,
    AsJson,
    Name,
    Overrides,
    Place,
    Resume,
    StudyFile,
    SweepsFolder,
    Trials,
    complete_sweeps,
    print_json,
    with_trials,
)
from tuning.cli.outcome import show_dry_run, summarise
from tuning.sweep_dir.layout import CACHE, PROFILES, STUDY
from tuning.sweep_dir.names import sweep_folder

if TYPE_CHECKING:
    from tuning.study import StudyConfig
    from tuning.sweep.result import SweepResult

commands = typer.Typer()


@commands.command()
def train(
    study_file: StudyFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="MODEL_DIR", help="Export the best checkpoint to this folder."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time went, and write a trace into sweeps/profiles.")
    ] = False,
) -> None:
    """One training run in this process, without Ray: for a first look and for debugging.

    Searched parameters take the values of the study's first point, or the middle of their range.
    """
    from tuning.cli.progress import beside, watching
    from tuning.study import load_study

    study = load_study(study_file, overrides or ())
    from tuning.sweep.train_local import train_once  # takes long: a mistake in the study is told before

    trace = SWEEPS / PROFILES / f"{study.name}-{time.strftime('%Y%m%d-%H%M%S')}.json" if profile else None

    with watching() as progress:
        say, complain = beside(progress), beside(progress, err=True)

        def warn(text: str) -> None:
            complain(f"warning: {text}")

        cache = SWEEPS / CACHE
        train_once(study, say=say, warn=warn, cache=cache, output=output, trace=trace, progress=progress)


@commands.command()
def sweep(
    study_file: StudyFile,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: SweepsFolder = None,
    address: Address = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, read the data, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search: train many times on Ray, pick the best, export it.

    Ctrl-C stops cleanly; the same command with --resume goes on.
    """
    console = Console(stderr=as_json, emoji=False)
    if dry_run:
        study, folder = study_and_folder(study_file, with_trials(overrides, trials), name, output)
        from tuning.cli.progress import watching
        from tuning.sweep.dry_run import look

        with watching() as progress:
            found = look(study, folder, address, progress=progress)
        show_dry_run(found, console)
        if as_json:
            print_json(found.as_json())
        return
    from tuning.api.driver import Asked, drive
    from tuning.api.supervisor import command_to_go_on
    from tuning.cli.display import Display

    def asked() -> Asked:
        return Asked(*study_and_folder(study_file, with_trials(overrides, trials), name, output), resume)

    result = drive(asked, address=address, display=Display(console), how_to_go_on=command_to_go_on)
    summarise(result, console)
    if as_json:
        print_json(result.as_json())
    _exit_of(result)


def _exit_of(result: SweepResult) -> None:
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.winner is None:
        raise typer.Exit(EXIT_NOTHING_WON)


@commands.command()
def distill(
    teacher: Annotated[
        Place,
        typer.Argument(
            metavar="SWEEP_DIR",
            help="The sweep whose confirmed models teach, or else its winner, by its folder or its address; or the "
            "folder of an exported model.",
            autocompletion=complete_sweeps,
            parser=Place,
        ),
    ],
    student: Annotated[Path, typer.Option("--student", metavar="STUDY", help="The study file of a smaller model.")],
    unlabelled: Annotated[
        list[str] | None,
        typer.Option("--unlabelled", metavar="FILE", help="More texts, whose labels nobody knows. Repeatable."),
    ] = None,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: SweepsFolder = None,
    address: Address = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Teach a smaller model: a sweep of STUDY whose trials learn from the answers of a larger one, beside the labels.

    The teacher answers to the texts of the training split and of --unlabelled; then it is a sweep like any other. At
    its end the students are held against their teacher: score, size, latency.
    """
    console = Console(stderr=as_json, emoji=False)
    from tuning.api.driver import Asked, drive
    from tuning.api.supervisor import command_to_go_on
    from tuning.cli.display import Display

    display, replaced = Display(console), with_trials(overrides, trials)
    taught: list[tuple[StudyConfig, Path, tuple[Path, ...]]] = []

    def asked() -> Asked:
        study, folder = study_and_folder(student, [*replaced, "distill.soft_labels=."], name, output)
        from tuning.cli.distill import teach

        soft_labels, models = teach(
            study,
            folder,
            teacher.sweep(),
            [Source.of(file) for file in unlabelled or ()],
            resume=resume,
            say=display.say,
        )
        study, folder = study_and_folder(student, [*replaced, f"distill.soft_labels={soft_labels}"], name, output)
        taught.append((study, folder, models))
        # without a study it was cut off while the teacher was asked
        return Asked(study, folder, resume and (folder / STUDY).exists())

    result = drive(asked, address=address, display=display, how_to_go_on=command_to_go_on)
    summarise(result, console)
    told = result.as_json()
    if result.winner is not None:
        from tuning.cli.distill import show_sizes

        ((study, folder, models),) = taught
        told["students"] = show_sizes(study, folder, models, console)
    if as_json:
        print_json(told)
    _exit_of(result)


def study_and_folder(
    file: Path, overrides: list[str], name: str | None, output: Path | None
) -> tuple[StudyConfig, Path]:
    """The study of a sweep, and the sweep's folder."""
    from tuning.study import load_study

    study = load_study(file, overrides)
    return study, sweep_folder(study, name, output)
