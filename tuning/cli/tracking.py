"""The command that sends unsent records to MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from tuning.cli.options import EXIT_UNSENT, AsJson, SweepDir, print_json
from tuning.cli.terminal import echo

commands = typer.Typer()


@commands.command()
def sync(
    sweep_dir: SweepDir,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Send to this MLflow store, instead of the one that the sweep was given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send to MLflow what a sweep could not: its server was away, or the sweep was killed.

    What is there already is not sent twice. Runs that a killed sweep left open are ended; --resume takes them up again.
    """
    from tuning.sweep.sync import sync_sweep

    result = sync_sweep(sweep_dir, uri=tracking_uri)
    said = [f"{result.sent:,} records sent"]
    if result.left:
        said.append(f"{result.left:,} left ({result.reason})")
    if result.refused:
        said.append(f"{result.refused:,} refused for good, kept in {result.dead_letters}")
    echo(f"{sweep_dir}: {', '.join(said)}", err=as_json)
    if as_json:
        dead_letters = str(result.dead_letters) if result.dead_letters else None
        found = {"sweep": str(sweep_dir), "sent": result.sent, "left": result.left, "reason": result.reason}
        print_json(found | {"refused": result.refused, "dead_letters": dead_letters})
    if result.left or result.refused:
        raise typer.Exit(EXIT_UNSENT)
