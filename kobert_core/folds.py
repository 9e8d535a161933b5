"""Cross-validation: a run trains a model for each fold of its data, one after the other; their mean is its score."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, TypeVar

import torch

from kobert_core.checkpoint import FOLDS, fold_folder, remove_checkpoints
from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import sealed, unsealed
from kobert_core.runtime import Phase, Report, Runtime
from kobert_core.tasks.base import Task
from kobert_core.training import train

log = logging.getLogger(__name__)

T = TypeVar("T")
SPREAD = "folds/std"
"""The metric that is the standard deviation of the objective over the folds, as scikit-learn's `std_test_score` is."""
OnEvaluation = Callable[[int, Report], object]
"""Called with a fold, counted from 1, and what it says at one of its evaluations."""


@dataclass(frozen=True)
class FoldResult:
    """A fold whose model is trained."""

    best: Report
    """At the evaluation that its objective is best at: what the fold scores."""
    last: Report
    """At its last step."""


@dataclass
class RunSoFar:
    """What a run knows of its folds; checkpoints are named without their folder, which may move."""

    finished: list[FoldResult] = field(default_factory=list)
    best: list[Report] = field(default_factory=list)
    """Of the fold in progress the evaluations that were better than all before them."""

    def hear(self, report: Report) -> None:
        """The fold in progress has evaluated, for the first time or again: what came later is then still to come."""
        self.best = [each for each in self.best if each.step < report.step]
        if report.is_best:
            self.best.append(report)

    def finish_fold(self, last: Report) -> None:
        """The fold in progress is done; the next one begins."""
        self.finished.append(FoldResult(self.best[-1], last))
        self.best = []

    def write(self, run: Runtime) -> None:
        """Keep it where the run's checkpoints are, and where they are copied to."""
        if run.checkpoints is not None:
            atomic_write_json(run.checkpoints / FOLDS, sealed(asdict(self)))
            if run.copies is not None:
                run.copies.add_file(run.checkpoints / FOLDS)

    @classmethod
    def read(cls, checkpoints: Path | None) -> RunSoFar:
        """What was written; nothing if it is damaged: the folds are then trained again, to the same numbers."""
        if checkpoints is None or not (checkpoints / FOLDS).is_file():
            return cls()
        try:
            found = unsealed(json.loads((checkpoints / FOLDS).read_text(encoding="utf-8")), where=checkpoints / FOLDS)
            finished = [FoldResult(Report(**each["best"]), Report(**each["last"])) for each in found["finished"]]
            return cls(finished, [Report(**each) for each in found["best"]])
        except (InputError, OSError, ValueError, LookupError, TypeError) as error:
            log.warning("passed over: %s", error)
            return cls()


class FoldRuntime:
    """The runtime of one fold: it reports to the run that it is a part of, and leaves all else to the run's runtime."""

    def __init__(self, run: Runtime, fold: int, so_far: RunSoFar, on_evaluation: OnEvaluation) -> None:
        self.device, self.rank, self.workers, self.resume = run.device, run.rank, run.workers, run.resume
        self.checkpoints = None if run.checkpoints is None else fold_folder(run.checkpoints, fold)
        self.copies = run.copies
        self.last: Report | None = None
        """Its newest report."""
        self._run, self._fold, self._so_far, self._on_evaluation = run, fold, so_far, on_evaluation

    @property
    def is_finished(self) -> bool:
        """Whether its last step was evaluated."""
        return self.last is not None and self.last.progress == 100

    def report(self, report: Report) -> bool:
        self._on_evaluation(self._fold + 1, report)
        self.last = replace(report, checkpoint=report.checkpoint and Path(report.checkpoint).name)
        if self.rank == 0:
            self._so_far.hear(self.last)
            self._so_far.write(self._run)
        return True

    def should_stop(self) -> bool:
        return self._run.should_stop()

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        self._run.all_reduce(tensors)

    def all_gather(self, value: T) -> list[T]:
        return self._run.all_gather(value)

    def phase(self, name: Phase) -> AbstractContextManager[object]:
        return self._run.phase(name)


def train_folds(
    config: TrainConfig, task: Task[Any], runtime: Runtime, *, on_evaluation: OnEvaluation = lambda fold, report: None
) -> None:
    """Train a model for each fold as `train` does, each from the same start, and report after each the mean so far.

    A report has the progress 100 · f / folds after fold f, the means over these folds of the metrics that each has at
    its best evaluation, and `folds/std`. The newest report counts, and so each one is called the best. Its checkpoint
    is the first fold's best one, with what that fold chose on its dev split: a run gives one model.

    A run that was cut goes on in the fold that it was in, after its last report, which may so be heard twice.

    Args:
        config: What the run is; its data has folds.
        task: With the data of its first fold.
        runtime: Where the run takes place. Of the folds that are done it keeps `folds.json` and the first one's best
            checkpoint.
        on_evaluation: Hears what a fold says at each of its own evaluations.

    Raises:
        InputError, NonFiniteError, OutOfMemory: as from `train`.
    """
    so_far = RunSoFar.read(runtime.checkpoints) if runtime.resume and runtime.rank == 0 else RunSoFar()
    so_far = runtime.all_gather(so_far)[0]
    if so_far.finished:
        runtime.report(mean_report(so_far.finished, config, task, runtime.checkpoints))
        if runtime.should_stop():
            return
    for fold in range(len(so_far.finished), folds_of(config)):
        inside = FoldRuntime(runtime, fold, so_far, on_evaluation)
        train(config, task.on_fold(fold), inside)
        gc.collect()  # the fold's model, before there is another one
        if not inside.is_finished:
            return
        assert inside.last is not None
        if runtime.rank == 0:
            so_far.finish_fold(inside.last)
            so_far.write(runtime)
        so_far = runtime.all_gather(so_far)[0]  # no worker reads the fold's checkpoints any more
        if runtime.checkpoints is not None and runtime.rank == 0:
            kept = {so_far.finished[0].best.checkpoint or ""}
            remove_checkpoints(runtime.checkpoints, keep=kept)
            if runtime.copies is not None:
                runtime.copies.keep_only(kept)
        runtime.report(mean_report(so_far.finished, config, task, runtime.checkpoints))
        if runtime.should_stop():
            return


def folds_of(config: TrainConfig) -> int:
    """How many folds the data has."""
    assert config.data.folds is not None
    return config.data.folds


def mean_report(
    finished: Sequence[FoldResult], config: TrainConfig, task: Task[Any], checkpoints: Path | None
) -> Report:
    """What a run says when some of its folds are finished."""
    scores, first = [result.best.metrics for result in finished], finished[0].best
    names = dict.fromkeys(name for metrics in scores for name in metrics)
    means = {name: fmean(metrics[name] for metrics in scores if name in metrics) for name in names}
    chosen = {name: first.metrics[name] for name in task.chosen_on_dev if name in first.metrics}
    objective = config.objective or task.objective
    spread = pstdev(metrics[objective.metric] for metrics in scores)
    return Report(
        progress=100 * len(finished) // folds_of(config),
        step=sum(result.last.step for result in finished),
        metrics=means | chosen | {SPREAD: spread},
        is_best=True,
        checkpoint=str(checkpoints / first.checkpoint) if checkpoints and first.checkpoint else None,
        micro_batch=min((result.last.micro_batch for result in finished if result.last.micro_batch), default=None),
    )
