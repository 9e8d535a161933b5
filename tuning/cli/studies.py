"""The commands that help to write a study file."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kobert_core.errors import InputError
from kobert_core.tasks import SPECS
from tuning.cli.options import Overrides, StudyFile
from tuning.cli.terminal import echo

commands = typer.Typer()
STUDY_FILE = Path("study.yaml")
FIRST_TRIALS = 5
"""So many are shown."""


@commands.command()
def init(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="A labelled file: TSV, CSV, JSON, Parquet, Excel, CoNLL, SQuAD."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Such as classification or qa, where the file leaves a doubt.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The encoder: a folder, or a name on the HuggingFace hub. Default: KoBERT.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="The column of the text, where the guess is wrong.")] = None,
    label_column: Annotated[str | None, typer.Option(help="The column of the label, likewise.")] = None,
    example: Annotated[
        str | None, typer.Option(metavar="NAME", help="Copy a study of the package instead, such as quickstart.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="STUDY", help="The study file to write. Default: study.yaml.")
    ] = None,
) -> None:
    """Write a study file for your data: look at a file, guess its columns and its task, and say why.

    What is written runs as it is; its comments say what can be changed. Nothing is overwritten. In a terminal it asks
    for what is not given.
    """
    from tuning.cli.init import KOBERT, copy_example, write_study
    from tuning.cli.progress import watching

    if example is not None:
        for path in copy_example(example, output):
            echo(f"written: {path}")
        echo(f"next: kobert-tune sweep {shlex.quote(str(output or f'{example}.yaml'))} --dry-run")
        return
    asks = sys.stdin.isatty()
    if data is None:
        if not asks:
            fix = "give one, or `--example quickstart`, which carries its data"
            raise InputError("no file to train on is given", where="DATA", fix=fix)
        data = str(typer.prompt("A labelled file to train on"))
    if task is None and asks:
        question = f"The task: {', '.join(SPECS)}; empty: what the file looks like"
        task = str(typer.prompt(question, default="", show_default=False))
    if model is None and asks:
        model = str(typer.prompt("An encoder: a folder, or a name on the HuggingFace hub", default=KOBERT))
    path = output or STUDY_FILE
    with watching() as progress:
        written = write_study(
            data, path, task=task or None, model=model, text=text_column, label=label_column, progress=progress
        )
    for line in written.lines:
        echo(line)
    echo(f"written: {path}")
    echo(f"next: kobert-tune sweep {shlex.quote(str(path))} --dry-run")


@commands.command()
def space(
    study_file: StudyFile,
    overrides: Overrides = None,
    draws: Annotated[int, typer.Option(min=1, max=100_000, help="Draws of each parameter.")] = 1000,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the draws as a page with plots.")
    ] = None,
) -> None:
    """Show what a study will sample: each parameter's distribution, draws of it, and the first trials.

    Draws are those of the search before it has learned from results; the first trials are the very ones of the sweep.
    """
    from kobert_core.io.atomic import atomic_write_text, check_output
    from tuning.cli.space import page as page_of
    from tuning.cli.space import table_of_draws, table_of_trials
    from tuning.cli.tables import print_table
    from tuning.search.preview import draws as draw
    from tuning.search.preview import first_trials
    from tuning.study import load_study

    study = load_study(study_file, overrides or ())
    if page is not None:
        check_output(page)
    drawn = draw(study, draws)
    print_table(table_of_draws(study, drawn))
    if trials := first_trials(study, FIRST_TRIALS):
        print_table(table_of_trials(study, trials))
    if page is not None:
        atomic_write_text(page, page_of(study, drawn))
        echo(f"written: {page}")


@commands.command()
def schema() -> None:
    """Print the JSON Schema of study files: what editors complete, explain and check by."""
    from tuning.study.schema import study_schema

    echo(json.dumps(study_schema(), ensure_ascii=False, indent=1))
