"""The command that takes a model out of a sweep."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kobert_core.errors import InputError
from kobert_core.onnx.files import MAX_DROP
from tuning.cli.onnx import tell_graphs
from tuning.cli.options import CompareOn, Force, Fp16, Int8, MaxDrop, SweepDir
from tuning.cli.terminal import echo

if TYPE_CHECKING:
    from tuning.study import StudyConfig
    from tuning.sweep.onnx import OnnxReport, Wanted
    from tuning.sweep_dir.trial_table import TrialRecord

commands = typer.Typer()


@commands.command()
def export(
    sweep_dir: SweepDir,
    output: Annotated[Path | None, typer.Option("--output", metavar="MODEL_DIR", help="Folder to make.")] = None,
    trial: Annotated[int | None, typer.Option(metavar="ID", help="A trial's number, instead of the winner's.")] = None,
    averaged: Annotated[
        bool, typer.Option("--averaged", help="The mean of the weights of the winner's confirmed seeds, a model soup.")
    ] = False,
    tuned_decoding: Annotated[
        bool, typer.Option("--tuned-decoding", help="The winner, its answers read with the settings best on dev.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Add a graph for onnxruntime, as `onnx` does, by the dev split.")
    ] = False,
    int8: Int8 = False,
    fp16: Fp16 = False,
    max_drop: MaxDrop = MAX_DROP,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make it a version of this registered model in MLflow.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="That the version gets, such as champion.")] = None,
    data: CompareOn = None,
    force: Force = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload it to this repository of the HuggingFace hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a repository that --push makes.")] = False,
    license: Annotated[str | None, typer.Option(metavar="ID", help="For the card on the hub, such as mit.")] = None,
) -> None:
    """Write a trial's best checkpoint as a HuggingFace folder: the winner's, or that of --trial.

    With --register it becomes a version of a registered model in MLflow, unless one has the alias (by default champion)
    and this is not better on the sweep's test file, or on --data: then exit code 1.
    """
    if output is None and register is None and push is None:
        fix = "give --output DIR, --register NAME or --push REPO"
        raise InputError("nothing says where the model goes", where="export", fix=fix)
    if output is None and (onnx or int8 or fp16):
        raise InputError("nothing says where the graphs go", where="export --onnx", fix="give --output DIR")
    variant = "--averaged" if averaged else "--tuned-decoding" if tuned_decoding else None
    others = {"--tuned-decoding": tuned_decoding, "--trial": trial is not None, "--register": register is not None}
    if variant and (other := next((name for name, given in others.items() if given and name != variant), None)):
        raise InputError("this is another model than any trial's", where=f"export {variant}", fix=f"leave out {other}")
    if push is not None:
        from tuning.sweep.push import check_repo

        check_repo(push)
    sweep = sweep_dir.sweep()
    if output is not None:
        wanted = None
        if onnx or int8 or fp16:
            from tuning.sweep.onnx import Wanted

            wanted = Wanted(int8=int8, fp16=fp16, max_drop=max_drop)
        _export(sweep, output, trial, wanted, variant=variant)
    if push is not None:
        _push(sweep, trial, output, push, variant=variant, public=public, license=license)
    if register is not None:
        from tuning.cli.tracking import promoting, refuse_without_server, tell
        from tuning.sweep.promote_model import register_model

        refuse_without_server(sweep_dir, sweep, None)
        with promoting(alias, data, force) as contest:
            found = register_model(sweep, register, contest, trial=trial, exported=output)
        tell(found)


def _push(
    sweep_dir: Path,
    trial: int | None,
    exported: Path | None,
    repo: str,
    *,
    variant: str | None,
    public: bool,
    license: str | None,
) -> None:
    from tuning.cli.progress import watching
    from tuning.sweep.push import push_model

    with tempfile.TemporaryDirectory() as folder:
        if exported is None:
            exported = Path(folder) / sweep_dir.resolve().name
            _export(sweep_dir, exported, trial, None, variant=variant)
        with watching() as progress:
            address = push_model(exported, repo, public=public, license=license, progress=progress)
    echo(f"pushed to {address}")


def _export(sweep_dir: Path, output: Path, trial: int | None, wanted: Wanted | None, *, variant: str | None) -> None:
    from tuning.api.export import export_trial
    from tuning.cli.progress import watching
    from tuning.sweep.export import VARIANTS
    from tuning.sweep_dir.home import place_of
    from tuning.sweep_dir.saved_study import load_sweep_study
    from tuning.sweep_dir.trial_table import TrialTable, read_winner, refuse_gone_on

    reports: list[OnnxReport] = []
    with watching() as progress:
        progress(f"exporting to {output}", 0)

        def add_graphs(folder: Path, study: StudyConfig, record: TrialRecord) -> None:
            from tuning.sweep.onnx import add_onnx_on_dev

            assert wanted is not None
            reports.append(add_onnx_on_dev(folder, sweep_dir.resolve(), study, record, wanted, progress=progress))

        if variant:
            study = load_sweep_study(sweep_dir)
            result = read_winner(sweep_dir)
            record = TrialTable.of(sweep_dir.resolve(), study)[result["winner"]["trial"]]
            refuse_gone_on(record, result, place_of(sweep_dir))
            more: dict[str, Any] = {} if wanted is None else {"complete": lambda each: add_graphs(each, study, record)}
            VARIANTS[variant](sweep_dir, study, record, output, **more)
        else:
            export_trial(sweep_dir, trial, output, complete=add_graphs if wanted else None)
    echo(f"exported to {output}")
    for report in reports:
        assert wanted is not None
        tell_graphs(output, report, wanted)
