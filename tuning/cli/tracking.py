"""Commands about MLflow: unsent records are sent, a registered model's version gets an alias, its pages are opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tuning.cli.options import (
    EXIT_NOT_BETTER,
    EXIT_UNSENT,
    SWEEPS,
    AsJson,
    CompareOn,
    Force,
    Output,
    Place,
    SweepDir,
    complete_sweeps,
    print_json,
)
from tuning.cli.terminal import echo

if TYPE_CHECKING:
    from tuning.sweep.promote_model import Contest, Promotion

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
    from tuning.sweep_dir.home import writing_at

    at_address = sweep_dir.is_address
    refuse_without_server(sweep_dir, sweep_dir.sweep(), tracking_uri)
    say = partial(echo, err=True)
    with writing_at(str(sweep_dir), say=say) if at_address else nullcontext(sweep_dir.sweep()) as folder:
        result = sync_sweep(folder, uri=tracking_uri)
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


def refuse_without_server(place: Place, sweep: Path, uri: str | None) -> None:
    """Refuse to look for the MLflow store of a sweep in an object store where that is a file of its driver's machine.

    Raises:
        InputError: neither `uri`, the study nor the environment names one.
    """
    from tuning.sweep_dir.saved_study import load_sweep_study

    if place.is_address and not (uri or load_sweep_study(sweep).tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        what = "the MLflow store of this sweep was a file of its driver's machine"
        raise InputError(what, where=place, fix="set MLFLOW_TRACKING_URI to the one to use")


@commands.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    version: Annotated[int | None, typer.Option(metavar="N", help="A version, instead of the newest.")] = None,
    alias: Annotated[str, typer.Option(help="That the version gets.")] = "champion",
    data: CompareOn = None,
    force: Force = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The MLflow store. Default: MLFLOW_TRACKING_URI, or that of ./sweeps."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give an alias to a version of a registered model in MLflow, if it is better than the version that has it.

    Exit code 1 if it is not: the alias then stays where it is.
    """
    from tuning.sweep.promote_model import promote_version
    from tuning.tracking import resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri, SWEEPS)
    with promoting(alias, data, force) as contest:
        found = promote_version(name, version, contest, uri=uri)
    tell(found, as_json=as_json)


@contextmanager
def promoting(alias: str | None, data: list[str] | None, force: bool) -> Iterator[Contest]:
    """How a model is held against the version in use, with a line of progress meanwhile."""
    from tuning.cli.progress import beside, watching
    from tuning.sweep.promote_model import Contest

    with watching() as progress:
        source = Source.of(data) if data else None
        yield Contest(alias=alias, data=source, force=force, say=beside(progress, err=True), progress=progress)


def tell(found: Promotion, *, as_json: bool = False) -> None:
    """Say what came of a promotion, also as the exit code."""
    if as_json:
        print_json(found.as_json())
    else:
        echo(found.sentence)
    if not found.promoted:
        raise typer.Exit(EXIT_NOT_BETTER)


@commands.command()
def ui(
    sweep_dir: Annotated[
        Place | None,
        typer.Argument(
            metavar="[SWEEP_DIR]",
            help="A sweep whose store to show, by its folder or its address.",
            autocompletion=complete_sweeps,
            parser=Place,
        ),
    ] = None,
    output: Output = SWEEPS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open the MLflow UI on the store in use, until Ctrl-C."""
    from search_spaces.distributions import Constant
    from tuning.sweep_dir.layout import SPOOL
    from tuning.sweep_dir.saved_study import load_sweep_study
    from tuning.tracking import resolve_tracking_uri, show_ui

    folder = sweep_dir.sweep() if sweep_dir else None
    if sweep_dir and folder:
        refuse_without_server(sweep_dir, folder, None)
    study = load_sweep_study(folder) if folder else None
    uri = resolve_tracking_uri(study.tracking.uri if study else None, folder.resolve().parent if folder else output)
    of_sweep: dict[str, Any] = {}
    if folder and study:
        searched = [name for name, each in study.space.items() if not isinstance(each, Constant)]
        of_sweep = {"spool": folder / SPOOL, "objective": study.objective, "parameters": searched}
        of_sweep["further"] = study.further
    raise typer.Exit(show_ui(uri, host=host, port=port, say=echo, **of_sweep))
