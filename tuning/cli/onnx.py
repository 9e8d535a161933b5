"""The command that makes graphs of a model, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kobert_core.data.source import Source
from kobert_core.onnx.files import FILES, FOLDER, MAX_DROP
from tuning.cli.options import EXIT_NOT_KEPT, AsJson, Fp16, Int8, MaxDrop, folder_only, print_json
from tuning.cli.terminal import echo

if TYPE_CHECKING:
    from tuning.sweep.onnx import OnnxReport, Wanted

commands = typer.Typer()


@commands.command()
def onnx(
    model_dir: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="Folder of an exported model.",
            parser=folder_only("export the model first, and give that folder"),
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="FILE", help="A labelled file that the model was not trained on."),
    ],
    int8: Int8 = False,
    fp16: Fp16 = False,
    max_drop: MaxDrop = MAX_DROP,
    as_json: AsJson = False,
) -> None:
    """Add graphs for onnxruntime to an exported model: MODEL_DIR/onnx, with sizes and latencies on the model's card.

    Its logits must be those of PyTorch; a smaller graph must score as well, or it is not kept: exit code 1.
    """
    from tuning.cli.progress import beside, watching
    from tuning.sweep.onnx import Wanted, add_onnx_on_file

    wanted = Wanted(fp16=fp16, int8=int8, max_drop=max_drop)
    with watching() as progress:
        say = beside(progress, err=True)
        report = add_onnx_on_file(model_dir, Source.of(data), wanted, say=say, progress=progress)
    if as_json:
        print_json(report.as_json())
    tell_graphs(model_dir, report, wanted, err=as_json)


def tell_graphs(model_dir: Path, report: OnnxReport, wanted: Wanted, *, err: bool = False) -> None:
    """Say which graphs a model has, and end with exit code 1 where one that was wanted lost too much."""
    for each in report.kept:
        about = f"its logits are those of PyTorch to {report.difference:.1e}"
        if each.precision != "fp32":
            about = f"{each.how}: {each.drop:.2f} points of {report.metric} lost"
        echo(f"{model_dir / FOLDER / FILES[each.precision]}: {each.bytes / 1e6:.1f} MB, {about}", err=err)
    for each in report.refused:
        echo(
            f"not kept, {each.how}: {each.drop:.2f} points of {report.metric} lost, and may be {wanted.max_drop:g}",
            err=True,
        )
    kept = {each.precision for each in report.kept}
    if (wanted.int8 and "int8" not in kept) or (wanted.fp16 and "fp16" not in kept):
        raise typer.Exit(EXIT_NOT_KEPT)
