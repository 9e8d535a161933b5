"""Arguments and options of several commands."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from kobert_core.errors import InputError
from kobert_core.onnx.files import BACKENDS
from tuning.cli.terminal import echo
from tuning.storage.store import is_address
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
    found = Path(str(sweep), TRIALS).glob("[0-9]*") if sweep else ()
    numbers = (str(int(folder.name)) for folder in sorted(found) if folder.name.isdecimal())
    return [number for number in numbers if number.startswith(incomplete)]


class Place:
    """A folder, or an address in an object store, as it was given; nothing is looked at before a command needs it."""

    def __init__(self, given: str) -> None:
        self.given = given

    def __str__(self) -> str:
        return self.given

    @property
    def is_address(self) -> bool:
        """Whether it is an address."""
        return is_address(self.given)

    def sweep(self) -> Path:
        """The folder of the sweep; of one at an address a copy of its records.

        Raises:
            InputError: there is none at the address, or the store cannot be used.
        """
        from tuning.sweep_dir.home import copy_here

        return copy_here(self.given) if self.is_address else Path(self.given)

    def model(self) -> Path:
        """The folder of the exported model; at the address of a sweep, a copy of its model.

        Raises:
            InputError: as from `sweep`.
        """
        from tuning.sweep_dir.home import model_here

        return model_here(self.given) if self.is_address else Path(self.given)


class Refused(Exception):
    """What an `InputError` says, on the way out of a parser: typer would take a `ValueError` for its own."""


def folder_only(fix: str = "give a folder of this machine") -> Callable[[str], Path]:
    """A parser of folders that refuses addresses in an object store with one line."""

    def parse(text: str) -> Path:
        if is_address(text):
            raise Refused(InputError("this cannot be an address in an object store", where=text, fix=fix))
        return Path(text)

    return parse


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
    Place,
    typer.Argument(
        metavar="SWEEP_DIR",
        help="Folder of a sweep, such as sweeps/nsmc, or its address, such as s3://bucket/prefix/nsmc.",
        autocompletion=complete_sweeps,
        parser=Place,
    ),
]
ModelDir = Annotated[
    Place,
    typer.Argument(
        metavar="MODEL_DIR",
        help="Folder of an exported model, or the address of a sweep that has one.",
        parser=Place,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Folder that holds all sweeps.", parser=folder_only())
]
SweepsFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder that holds all sweeps. Default: `storage`, else sweeps.",
        parser=folder_only("give it as `storage` in the study, or with --set storage=ADDRESS"),
    ),
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
