"""Commands that send sweeps to a Ray cluster, or check one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tuning.api.exit_codes import EXIT_INTERRUPTED, EXIT_NOTHING_WON
from tuning.cli.options import (
    SWEEPS,
    AsJson,
    Name,
    Overrides,
    Resume,
    StudyFile,
    Trials,
    folder_only,
    print_json,
    with_trials,
)
from tuning.cli.terminal import echo
from tuning.display.words import span
from tuning.storage.store import is_address
from tuning.sweep_dir.names import sweep_folder

commands = typer.Typer()

JobServer = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Job server of the cluster. Default: RAY_API_SERVER_ADDRESS, else this machine's.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="What `submit` printed, or `status` lists.")]


@commands.command()
def submit(
    study_file: StudyFile,
    address: JobServer = None,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder of all sweeps, on the cluster's storage. Default: `storage`.",
            parser=folder_only("give it as `storage` in the study, or with --set storage=ADDRESS"),
        ),
    ] = None,
    resume: Resume = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show its output until it ends.")] = False,
) -> None:
    """Send a sweep to a Ray cluster as a job: it goes on when this machine is gone.

    The package and the study go along. Data, models and the output folder must be on the cluster under the paths that
    they have here.
    """
    from tuning.cluster.jobs import Jobs, place_in
    from tuning.study import load_study
    from tuning.sweep.preflight import check_study, is_here
    from tuning.sweep_dir.layout import CACHE

    study = load_study(study_file, with_trials(overrides, trials))
    folder = sweep_folder(study, name, output)
    jobs = Jobs(address)
    if is_here(study):
        check_study(study, cache if (cache := folder.parent / CACHE).is_dir() else None)
    job = jobs.submit(study, folder, options=["--resume"] if resume else [])
    echo(f"job {job} will write {place_in(study, folder)}")
    if not follow:
        echo(f"see it: kobert-tune status {job} --address {jobs.address}")
        echo(f"end it: kobert-tune stop {job} --address {jobs.address}")
        return
    try:
        ended = jobs.follow(job, lambda text: echo(text, nl=False))
    except KeyboardInterrupt:
        echo(f"job {job} goes on; end it: kobert-tune stop {job} --address {jobs.address}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if ended.state == "STOPPED":
        raise typer.Exit(EXIT_INTERRUPTED)
    if ended.state != "SUCCEEDED":
        raise typer.Exit(ended.exit_code or EXIT_NOTHING_WON)


@commands.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Show one job, with its last lines.")] = None,
    address: JobServer = None,
    as_json: AsJson = False,
) -> None:
    """Sweeps that were submitted to a cluster."""
    from tuning.cluster.jobs import Jobs

    jobs = Jobs(address)
    found = [jobs.get(job)] if job else jobs.list()
    if as_json:
        print_json({"jobs": [asdict(each) for each in found]})
        return
    if not found:
        echo(f"no sweeps at {jobs.address}")
    for each in found:
        echo(f"{each.id}  {each.state}  {span(each.seconds or 0)}  {each.folder}")
    if job:
        echo("\n".join(jobs.log(job).splitlines()[-20:]))


@commands.command()
def stop(job: JobId, address: JobServer = None) -> None:
    """Stop a submitted sweep as Ctrl-C does, and wait for its end."""
    from tuning.cluster.jobs import Jobs

    ended = Jobs(address).stop(job)
    echo(f"{ended.id}  {ended.state}  {ended.folder}")
    echo("go on with it: kobert-tune submit with the same study and --resume")


@commands.command()
def doctor(
    study_file: Annotated[Path | None, typer.Argument(metavar="[STUDY]", help="Whose trials must find room.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster: auto, or HOST:6379. Default: RAY_ADDRESS; else this machine alone."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Folder or address of all sweeps. Default: `storage`, sweeps."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What would keep a sweep from running: versions, GPUs, shared or object storage, MLflow, disk, clocks."""
    from tuning.study import load_study
    from tuning.sweep.doctor import examine
    from tuning.tracking import resolve_tracking_uri

    study = load_study(study_file) if study_file else None
    home = output if is_address(output) else study.home if study and output is None else None
    folder = Path(output) if output and home is None else (study and study.sweeps_folder) or SWEEPS
    uri = resolve_tracking_uri(study.tracking.uri if study else None, folder)
    findings = examine(address, output=folder, tracking_uri=uri, study=study, home=home)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            typer.secho(
                f"{finding.level:8}", fg={"ok": "green", "warning": "yellow", "wrong": "red"}[finding.level], nl=False
            )
            echo(finding.what)
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)
