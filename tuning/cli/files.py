"""The commands that read files of data: what a model says of them, what it scores on them, what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from kobert_core.data.source import Source
from kobert_core.onnx.files import backend_of
from tuning.cli.options import AsJson, ModelDir, RunBy, print_json
from tuning.cli.terminal import echo

commands = typer.Typer()


@commands.command()
def predict(
    model_dir: ModelDir,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files of the kind that the model was trained on; - reads standard input."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The file to write: .jsonl, .tsv, .csv or .parquet; - writes JSON Lines to standard output.",
        ),
    ],
    keep_columns: Annotated[
        bool, typer.Option("--keep-columns", help="Write the other columns of the input too.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="A list of the K likeliest labels, not all probabilities.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="P", help="Leave out labels, entities and answers that are less probable than this."
        ),
    ] = None,
    backend: RunBy = "torch",
) -> None:
    """Label a file: one record a row, with its text and the probability of each class, or its entities; or answer its
    questions.

    A file of any length takes the same memory. What is done is kept beside the output: the same command goes on.
    """
    from tuning.cli.predict import STANDARD, Asked, Predicted, predict_file, standard_input
    from tuning.cli.progress import watching

    asked = Asked(keep_columns=keep_columns, top_k=top_k, threshold=threshold, backend=backend_of(backend))
    folder, found, to_stdout = model_dir.model(), Predicted(), str(output) == STANDARD
    try:
        with watching() as progress, standard_input(folder) if source == [STANDARD] else nullcontext(source) as read:
            predict_file(folder, Source.of(read), output, asked=asked, predicted=found, progress=progress)
    except KeyboardInterrupt:
        if not to_stdout and found.rows:
            echo(f"{found.rows:,} rows are kept in {output}.part: the same command goes on", err=True)
        raise
    again = f" ({found.resumed:,} of them from an earlier run)" if found.resumed else ""
    echo(f"{found.rows:,} predictions{'' if to_stdout else f' in {output}'}{again}", err=to_stdout)
    if found.set_aside:
        echo("\n".join([f"{found.set_aside:,} set aside:", *found.places]), err=True)


@commands.command()
def evaluate(
    model_dir: ModelDir,
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="A labelled file, or several.")],
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="OUT.json", help="Write the answers to questions, as the official script takes them."),
    ] = None,
    backend: RunBy = "torch",
    as_json: AsJson = False,
) -> None:
    """Score a model on a labelled file. The reading is recorded in the model's folder."""
    from tuning.cli.predict import evaluate_file
    from tuning.cli.progress import beside, watching
    from tuning.cli.tables import class_tables, print_table

    run_by = backend_of(backend)
    with watching() as progress:
        say = beside(progress, err=True)
        result = evaluate_file(
            model_dir.model(), Source.of(data), predictions, backend=run_by, say=say, progress=progress
        )
    if one := _only_class(result):
        echo(f"warning: the model answers `{one}` to all {result['examples']:,} rows", err=True)
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        if not isinstance(value, dict | list):
            echo(f"{key:20} {value:.6f}" if isinstance(value, float) else f"{key:20} {value:,}")
    for table in class_tables(result["classes"], result["confusion_matrix"]) if "classes" in result else ():
        echo("")
        print_table(table)


def _only_class(result: Mapping[str, Any]) -> str | None:
    """The class that all rows are taken for, although they are not all of one."""
    counts = result.get("confusion_matrix", [])
    given = [
        name for name, column in zip(result.get("classes", ()), zip(*counts, strict=True), strict=True) if any(column)
    ]
    return given[0] if len(given) == 1 and sum(map(any, counts)) > 1 else None


@commands.command()
def describe(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="A labelled file, or several.")],
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY", help="A study file, whose columns and labels are taken.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="An exported model, as for --study; or a folder or hub name with a tokenizer."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Such as classification or qa, where neither a study nor a model says it.")
    ] = None,
    as_json: AsJson = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the same as a page with plots.")
    ] = None,
) -> None:
    """Look at a file before you train on it: labels, duplicates, lengths, unknown characters, what is set aside.

    With --study also the texts of dev and test that are trained on; for questions the best score that a model can
    reach.
    """
    from tuning.cli.describe import described, describing_task
    from tuning.cli.progress import watching
    from tuning.cli.tables import print_table, table_of

    with watching() as progress:
        source = Source.of(files)
        found = described(describing_task(source, study, model, task, progress=progress), source, study, page)
    if as_json:
        print_json(found)
    else:
        print_table(table_of(found))
