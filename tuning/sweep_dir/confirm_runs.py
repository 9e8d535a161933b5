"""The ledger of the runs that confirm a sweep's winner."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kobert_core.checkpoint import WEIGHTS
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import sealed, unsealed
from tuning.sweep_dir.disk_full import ending_when_full
from tuning.sweep_dir.layout import CONFIRM, MODEL_FILES, RUNS, WINNER, confirm_folder
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import read_winner

Stage = Literal["choose", "verdict"]
"""Runs that choose one of several candidates by the dev split, and those that it is then judged by."""


@dataclass
class ConfirmRun:
    """One run: the values of a trial with another seed."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    number: int
    stage: Stage
    trial: int
    """Whose values it has."""
    seed: int
    """Its `train.seed`."""
    state: TrialState = TrialState.RUNNING
    progress: int = 0
    """Percent of its steps that are done."""
    value: float | None = None
    """The objective on the dev split at the best evaluation."""
    best_progress: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of the best evaluation."""
    checkpoint: str | None = None
    """Name of the best checkpoint's folder; None when there is none, or it was removed."""
    holdout: dict[str, float] = field(default_factory=dict)
    """Metrics of that checkpoint on the part of the dev split that no trial was chosen by; of the stage `verdict`."""
    pseudo_values: list[float] = field(default_factory=list)
    """Of the objective there."""
    seconds: float = 0.0
    reason: str | None = None
    """Why it failed."""

    @property
    def is_judged(self) -> bool:
        """Whether a verdict can rest on it."""
        return self.stage == "verdict" and self.state == TrialState.COMPLETE

    @property
    def key(self) -> str:
        """What MLflow's spool calls it; trials are called by their numbers."""
        return f"{CONFIRM}/{self.number:02d}"


_RUNS = TypeAdapter(list[ConfirmRun])


class ConfirmRuns:
    """All runs that confirm a sweep's winner, written to its folder at every change."""

    def __init__(self, sweep: Path) -> None:
        """Those of a sweep's folder; none if there are none yet."""
        self.folder = sweep / CONFIRM
        self.lock = threading.RLock()
        self._runs: list[ConfirmRun] = _read(self.folder / RUNS) if (self.folder / RUNS).is_file() else []

    def __iter__(self) -> Iterator[ConfirmRun]:
        with self.lock:
            return iter(list(self._runs))

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, stage: Stage, trial: int, seed: int) -> ConfirmRun:
        """The run with these, which begins now if it had not begun."""
        with self.lock:
            for run in self._runs:
                if (run.stage, run.trial, run.seed) == (stage, trial, seed):
                    return run
            run = ConfirmRun(len(self._runs), stage, trial, seed)
            self._runs.append(run)
            return run

    def of(self, stage: Stage, trial: int) -> list[ConfirmRun]:
        """The complete runs of a trial's values, by number."""
        return [run for run in self if run.stage == stage and run.trial == trial and run.state == TrialState.COMPLETE]

    def write(self) -> None:
        """Write the ledger.

        Raises:
            DiskFull: there is no space for it; what was written before is there still.
        """
        with self.lock, ending_when_full():
            self.folder.mkdir(exist_ok=True)
            atomic_write_json(self.folder / RUNS, [sealed(asdict(run)) for run in self._runs])


def confirmed_models(sweep: Path) -> tuple[Path, ...]:
    """The models of the runs that confirm what a sweep exports, in the order of their seeds: folders that
    `load_pretrained` loads. None where the sweep confirms nothing, has not ended, or is an older one, which kept none.

    Raises:
        InputError: a file of the sweep is not what was written.
    """
    if not (sweep / WINNER).is_file():
        return ()
    models = (model_of(sweep, run) for run in ConfirmRuns(sweep).of("verdict", read_winner(sweep)["winner"]["trial"]))
    return tuple(model for model in models if (model / WEIGHTS).is_file())


def model_of(sweep: Path, run: ConfirmRun) -> Path:
    """The folder of a run's model; it has weights where the sweep keeps them."""
    return confirm_folder(sweep, run.number) / MODEL_FILES


def _read(path: Path) -> list[ConfirmRun]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return _RUNS.validate_python([unsealed(row, where=path) for row in rows])
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise InputError(f"this is no ledger of runs ({str(error).splitlines()[0]})", where=path) from error
