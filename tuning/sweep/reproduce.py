"""Trains a trial of a sweep again from what the sweep recorded, and says how far it comes to other numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from kobert_core.checkpoint import WEIGHTS, verify_checkpoint
from kobert_core.errors import InputError
from kobert_core.io.checksums import sha256_file
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.training import train
from tuning.study import StudyConfig
from tuning.sweep_dir.home import bring_trial
from tuning.sweep_dir.layout import CACHE, PROVENANCE, checkpoint_of
from tuning.sweep_dir.provenance import changed_libraries, refuse_other_provenance
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A trial that was trained again, beside what the sweep recorded of it."""

    sweep: str
    trial: int
    metric: str
    """The objective."""
    recorded: dict[int, float]
    """Its values by progress, as the sweep's ledger has them."""
    again: dict[int, float]
    """The same of the run that was trained now."""
    same_weights: bool | None
    """Whether the best checkpoint has the same bytes; None where the trial keeps none."""
    changed_libraries: list[str]
    """Those of another version than when the sweep began."""
    notes: list[str]
    """What else may have made a difference."""

    @property
    def drift(self) -> float:
        """The largest difference of the objective."""
        return max(abs(self.again[progress] - value) for progress, value in self.recorded.items())

    @property
    def is_exact(self) -> bool:
        """Whether there is no drift at all."""
        return self.drift == 0 and self.same_weights is not False

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"drift": self.drift, "is_exact": self.is_exact}


@dataclass(kw_only=True)
class EndingRuntime(LocalRuntime):
    """Ends a run after the report of a progress."""

    end: int
    reports: dict[int, Report] = field(default_factory=dict)
    """What was reported, by progress."""

    def report(self, report: Report) -> bool:
        self.reports[report.progress] = report
        return super().report(report)

    def should_stop(self) -> bool:
        return self.end in self.reports


def reproduce(
    sweep: Path, trial: int | None = None, *, say: Callable[[str], object], progress: Progress = unseen
) -> Reproduction:
    """Train a trial again in this process, up to where it came, and compare it with the ledger. The sweep's folder
    stays as it is.

    Args:
        sweep: Folder of the sweep.
        trial: Its number; by default the winner's.
        say: Gets a line of what may make a difference.
        progress: Hears how far it has come.

    Raises:
        InputError: the trial cannot be trained again as it was, or what it depends on has changed.
    """
    sweep = sweep.resolve()
    study = load_sweep_study(sweep)
    record = TrialTable.of(sweep, study)[read_winner(sweep)["winner"]["trial"] if trial is None else trial]
    refuse_irreproducible(study, record, sweep)
    kept = checkpoint_of(sweep, record) if record.checkpoint else None
    bring_trial(sweep, record)
    if kept is not None:
        verify_checkpoint(kept, only=WEIGHTS)
    notes = notes_on(sweep, study, record)
    for note in notes:
        say(f"note: {note}")
    with tempfile.TemporaryDirectory(prefix="kobert-tune-") as folder:
        runtime = EndingRuntime(end=record.progress, checkpoints=Path(folder))
        train_again(study, record, runtime, cache=sweep.parent / CACHE, progress=progress)
        best = next(report for report in reversed(runtime.reports.values()) if report.is_best)
        assert best.checkpoint is not None
        weights = Path(best.checkpoint) / WEIGHTS
        same = None if kept is None else sha256_file(kept / WEIGHTS) == sha256_file(weights)
    metric = study.objective.metric
    return Reproduction(
        sweep=str(sweep),
        trial=record.trial,
        metric=metric,
        recorded=record.curve,
        again={done: report.metrics[metric] for done, report in runtime.reports.items()},
        same_weights=same,
        changed_libraries=changed_libraries(sweep) if (sweep / PROVENANCE).is_file() else [],
        notes=notes,
    )


def refuse_irreproducible(study: StudyConfig, record: TrialRecord, sweep: Path) -> None:
    """Refuse what one process does not train as the sweep did."""
    trial = f"trial {record.trial}"
    if study.resources.workers > 1:
        what = f"{trial} was trained by {study.resources.workers} workers, which one process does not do again"
        raise InputError(what, where=sweep, fix="reproduce trials of sweeps with `resources.workers: 1`")
    if study.data.folds is not None:
        what = f"{trial} trained {study.data.folds} models, one a fold: only runs of one model are trained again"
        raise InputError(what, where=sweep, fix="reproduce trials of sweeps without `data.folds`")
    if record.lineage:
        what = f"{trial} went on from the weights of another trial (`pbt`), which are not kept"
        raise InputError(what, where=sweep, fix="reproduce a trial that copied no other")
    if not record.curve:
        raise InputError(f"{trial} reported nothing to compare with", where=sweep, fix="see `kobert-tune list`")


def notes_on(sweep: Path, study: StudyConfig, record: TrialRecord) -> list[str]:
    """What may make a difference, and is no reason to refuse.

    Raises:
        InputError: the data, the models or the version of the numbers are not what the sweep began with.
    """
    notes = []
    if (sweep / PROVENANCE).is_file():
        refuse_other_provenance(sweep, study, instead="")
    else:
        notes.append(f"the sweep has no {PROVENANCE}: whether its data and models have changed since cannot be said")
    if study.resources.gpus_per_worker and not torch.cuda.is_available():
        notes.append("the sweep trained on GPUs, and none is here: the CPU comes to other numbers")
    if record.micro_batch is not None:
        notes.append(f"memory ran out in it, and its micro-batches were cut to {record.micro_batch} examples")
    return notes


def train_again(
    study: StudyConfig, record: TrialRecord, runtime: LocalRuntime, *, cache: Path, progress: Progress
) -> None:
    """Train with the recorded values, and as many threads as the sweep's workers have."""
    torch.set_num_threads(study.resources.cpus_per_worker)
    config = study.train_config(record.values)
    study.check_files()
    task = task_class(config.task)(config, cache=cache if cache.is_dir() else None, progress=progress)
    train(config, task, runtime)
