"""The command line: parses, calls, prints. Heavy libraries are imported only by the command that needs them."""

from __future__ import annotations

import io
import logging
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from kobert_core.data import text_files
from kobert_core.errors import InputError
from kobert_core.texts import printable
from tuning.api.exit_codes import EXIT_BAD_INPUT
from tuning.cli.cluster import commands as cluster_commands
from tuning.cli.export import commands as export_commands
from tuning.cli.files import commands as file_commands
from tuning.cli.interpreter import settle_interpreter
from tuning.cli.launch import commands as launch_commands
from tuning.cli.models import commands as model_commands
from tuning.cli.onnx import commands as onnx_commands
from tuning.cli.options import Refused
from tuning.cli.plan import commands as plan_commands
from tuning.cli.serve import commands as serve_commands
from tuning.cli.studies import commands as study_commands
from tuning.cli.sweeps import commands as sweep_commands
from tuning.cli.terminal import PrintableFormatter, echo
from tuning.cli.tracking import commands as tracking_commands

app = typer.Typer(
    name="kobert-tune",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Tune Korean BERT encoders on Ray.

    Write a study file, look at it with [bold]train[/] and [bold]sweep --dry-run[/], launch it with [bold]sweep[/],
    watch it here and with [bold]ui[/], and take away the best model: [bold]export[/], [bold]evaluate[/],
    [bold]predict[/].""",
)

app.add_typer(study_commands)
app.add_typer(launch_commands)
app.add_typer(plan_commands)
app.add_typer(export_commands)
app.add_typer(file_commands)
app.add_typer(sweep_commands)
app.add_typer(cluster_commands)
app.add_typer(tracking_commands)
app.add_typer(model_commands)
app.add_typer(onnx_commands)
app.add_typer(serve_commands)


def main() -> None:
    """Entry point: bad input is one line and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written out
            stream.reconfigure(errors="backslashreplace")
    try:
        settle_interpreter()
        app()
    except (InputError, Refused) as error:
        _refuse(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a name that is too long, a folder that cannot be written
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(line: str) -> NoReturn:
    from tuning.tracking import redact_uri  # an override, or a library's own words, may hold an address

    said = Text.assemble(("error:", "red"), f" {printable(redact_uri(line))}")
    Console(stderr=True).print(said, soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)


def _show_version(wanted: bool) -> None:
    if wanted:
        echo(f"kobert-tuning {version('kobert-tuning')}")
        raise typer.Exit


@app.callback()
def _global(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more of what happens.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger(text_files.__name__).setLevel(logging.INFO)  # in which encoding a file was read
