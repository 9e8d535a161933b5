"""Arguments and options of several commands."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from kobert_core.onnx.files import BACKENDS
from tuning.cli.terminal import echo
from tuning.sweep_dir.layout import LEDGER, TRIALS
from tuning.sweep_dir.layout import SWEEPS as SWEEPS

EXIT_UNSENT = EXIT_DRIFT = EXIT_NOT_BETTER = EXIT_NOT_KEPT = 1


def complete_studies(incomplete: str) -> list[str]:
    """For the shell: study files, and folders on the way to some."""
    return _complete(incomplete, lambda path: path.suffix in (".yaml", ".yml") and path.is_file())


def complete_sweeps(incomplete: str) -> list[str]:
    """For the shell: folders of sweeps, and folders on the way to some."""
    return _complete(incomplete, lambda path: (path / LEDGER).is_file())


def _complete(incomplete: str, is_wanted: Callable[[Path], bool]) -> list[str]:
    """What begins so; where that is one folder, what is in it, since a shell would go on behind it."""
    found = [Path(name) for name in sorted(glob.glob(f"{glob.escape(incomplete)}*"))]
    found = [path for path in found if is_wanted(path) or path.is_dir()]
    if len(found) == 1 and not is_wanted(found[0]):
        inside = [path for path in sorted(found[0].iterdir()) if is_wanted(path)]
        found = inside or found
    return [str(path) if is_wanted(path) else f"{path}/" for path in found]


def complete_trials(ctx: typer.Context, incomplete: str) -> list[str]:
    """For the shell: the numbers of the trials of the sweep that was named before."""
    sweep = ctx.params.get("sweep_dir")
    found = Path(sweep, TRIALS).glob("[0-9]*") if sweep else ()
    numbers = (str(int(folder.name)) for folder in sorted(found) if folder.name.isdecimal())
    return [number for number in numbers if number.startswith(incomplete)]


StudyFile = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY", help="A study file, such as search_spaces/nsmc.yaml.", autocompletion=complete_studies
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of the study file, such as train.epochs=2. Repeatable.",
    ),
]
Trials = Annotated[int | None, typer.Option(min=1, help="Number of trials, instead of budget.trials.")]
Name = Annotated[str | None, typer.Option(help="Name of the sweep, instead of the study's.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was interrupted, or extend it.")]
SweepDir = Annotated[
    Path,
    typer.Argument(metavar="SWEEP_DIR", help="Folder of a sweep, such as sweeps/nsmc.", autocompletion=complete_sweeps),
]
ModelDir = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of an exported model.")]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder that holds all sweeps.")]
SweepsFolder = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="Folder that holds all sweeps. Default: `storage`, else sweeps."),
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster to use: auto, or HOST:6379. Default: RAY_ADDRESS; else one is started here."),
]
RunBy = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="|".join(BACKENDS),
        help="What runs the model: PyTorch, or onnxruntime on a graph that `onnx` or `export --onnx` made.",
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Add a graph with 8-bit weights for onnxruntime, if it loses little.")
]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Add one with weights in float16, likewise.")]
MaxDrop = Annotated[
    float,
    typer.Option("--max-drop", min=0, metavar="POINTS", help="What a smaller graph may lose of the model's metric."),
]
CompareOn = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="FILE", help="A labelled file that a model and the version in use are scored on."),
]
Force = Annotated[bool, typer.Option("--force", help="Take the place of the version in use without a comparison.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last; all else goes to stderr.")]


def print_json(content: dict[str, object]) -> None:
    """The output of `--json`: one object, alone on the last line of stdout."""
    echo(json.dumps(content, ensure_ascii=False))


def with_trials(overrides: list[str] | None, trials: int | None) -> list[str]:
    """The overrides of a study, with the number of trials as one more."""
    return [*(overrides or ()), *([f"budget.trials={trials}"] if trials is not None else [])]
