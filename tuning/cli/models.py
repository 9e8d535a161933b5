"""Commands on models: several are compared, one is trained again, an encoder is converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobert_core.data.source import Source
from tuning.cli.options import EXIT_DRIFT, AsJson, SweepDir, print_json
from tuning.cli.terminal import echo

if TYPE_CHECKING:
    from rich.table import Table

    from tuning.sweep.compare_models import ComparedModels
    from tuning.sweep.reproduce import Reproduction

commands = typer.Typer()


@commands.command()
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL_OR_SWEEP...", help="Exported models, or sweeps: their winners. Two at least."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="A labelled file. Default: the first sweep's test file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score models on one labelled file, and say which are better than the first, with intervals and tests.

    The readings are recorded in the models' folders.
    """
    from tuning.cli.progress import beside, watching
    from tuning.cli.tables import print_table
    from tuning.sweep.compare_models import NOTE, compare_models

    with watching() as progress:
        say = beside(progress, err=True)
        found = compare_models(models, Source.of(data) if data else None, say=say, progress=progress)
    if as_json:
        print_json(found.as_json())
        return
    print_table(_table_of_models(found))
    for pair in found.pairs:
        echo(pair.sentence)
    echo(f"note: {NOTE}")


def _table_of_models(found: ComparedModels) -> Table:
    from rich.table import Table

    from tuning.cli.tables import cell

    tests = list(found.pairs[0].p_values)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    corrected = [f"p corrected ({test.replace('_', ' ')})" for test in tests]
    for name in (found.objective.metric.removeprefix("eval/"), "difference", "95% interval", *corrected, "read before"):
        table.add_column(name, justify="right")
    pairs = {pair.model: pair for pair in found.pairs}
    for model in found.models:
        row = ["", "", *("" for _ in tests)]
        if pair := pairs.get(model.name):
            gap = pair.difference
            row = [f"{gap.estimate:+.4f}", f"{gap.low:+.4f} to {gap.high:+.4f}"]
            row += [f"{p:.2g}" for p in pair.p_values.values()]
        table.add_row(cell(model.name), f"{model.value:.4f}", *row, f"{model.earlier_readings:,}")
    return table


@commands.command()
def reproduce(
    sweep_dir: SweepDir,
    trial: Annotated[int | None, typer.Option(metavar="N", help="A trial's number, instead of the winner's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a trial again from what the sweep recorded, and say whether it comes to the same numbers and weights.

    It is trained in this process, without Ray, as far as it came. Exit code 1 when something differs.
    """
    from tuning.cli.progress import beside, watching
    from tuning.sweep.reproduce import reproduce as train_again

    with watching() as progress:
        found = train_again(sweep_dir.sweep(), trial, say=beside(progress, err=True), progress=progress)
    if as_json:
        print_json(found.as_json())
    else:
        _show_reproduction(found)
    if not found.is_exact:
        raise typer.Exit(EXIT_DRIFT)


def _show_reproduction(found: Reproduction) -> None:
    from rich.table import Table

    from tuning.cli.tables import print_table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("progress", f"{found.metric}, recorded", "now", "difference"):
        table.add_column(name, justify="right")
    for progress, value in found.recorded.items():
        now = found.again[progress]
        table.add_row(f"{progress}%", f"{value:.6f}", f"{now:.6f}", f"{now - value:.3g}")
    print_table(table)
    weights = {True: "the same bytes", False: "other bytes", None: "not kept by the sweep"}[found.same_weights]
    told = "reproduced" if found.is_exact else "NOT reproduced"
    echo(f"trial {found.trial} {told}: drift of {found.metric} {found.drift:.3g}; weights: {weights}")
    if not found.is_exact and found.changed_libraries:
        echo(f"the sweep began with {'; '.join(found.changed_libraries)}")
    elif not found.is_exact:
        echo("the versions of all libraries are those that the sweep began with")


@commands.command()
def convert(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER", help="A hub name, such as skt/kobert-base-v1, or a folder.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder to make.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub.")] = None,
) -> None:
    """Write an encoder as a folder that today's AutoModel and AutoTokenizer load: KoBERT in any of its layouts, with
    its exact tokens."""
    from kobert_core.convert import convert as write_folder
    from kobert_core.io.atomic import check_output

    check_output(output / "config.json")
    write_folder(encoder, output, revision=revision)
    echo(f"{encoder} for AutoModel and AutoTokenizer: {output}")
