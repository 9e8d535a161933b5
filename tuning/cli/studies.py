"""The commands that help to write a study file."""

from __future__ import annotations

import json

import typer

from tuning.cli.terminal import echo

commands = typer.Typer()


@commands.command()
def schema() -> None:
    """Print the JSON Schema of study files: what editors complete, explain and check by."""
    from tuning.study.schema import study_schema

    echo(json.dumps(study_schema(), ensure_ascii=False, indent=1))
