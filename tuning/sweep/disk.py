"""The disk space that the checkpoints of a sweep need."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ByteSize

from kobert_core.errors import InputError
from tuning.study import StudyConfig
from tuning.sweep_dir.layout import MAX_PBT_CHECKPOINTS, TRIALS

if TYPE_CHECKING:
    from torch import nn

EACH_RUNNING = 4
"""Checkpoints of a trial that runs: the newest, the one before, the best, and one that is being written. With folds
they are those of the fold in progress, and the best one of the first fold is kept beside them."""
EACH_PAUSED = 2
"""Checkpoints of a trial that is paused: the newest and the best. With folds they are those of a trial that runs."""
LEAST_FREE = 16 * 2**20
"""Bytes for the other files of the driver: records, logs."""


@dataclass(frozen=True)
class DiskNeeds:
    """The space for the checkpoints of a sweep, in bytes."""

    checkpoint: int
    """One of them."""
    trials: int
    """The number of trials that can be unfinished at the same time."""
    each: int
    """The number of checkpoints of each of them."""
    kept: int
    """Checkpoints of trials that ended, and of the runs that a verdict rests on."""
    budget: int | None
    """The limit of the study."""
    paused: int = 0
    """The number of trials that can be paused besides."""
    each_paused: int = EACH_PAUSED
    """The number of checkpoints of each of these."""

    @classmethod
    def of(cls, study: StudyConfig, checkpoint: int, *, running: int) -> DiskNeeds:
        """The needs of a study with checkpoints of so many bytes, and so many trials at once."""
        if study.home is not None:  # the driver's disk holds a copy of the winner's, and the exported model
            return cls(checkpoint=checkpoint, trials=0, each=0, kept=1, budget=study.budget.disk)
        in_population = study.scheduler.name == "pbt"  # all of its trials are unfinished at the same time
        at_once, in_folds = min(running, study.budget.trials), study.data.folds is not None
        each = EACH_RUNNING + (MAX_PBT_CHECKPOINTS if in_population else 0) + in_folds
        return cls(
            checkpoint=checkpoint,
            trials=study.budget.trials if in_population else at_once,
            each=each,
            paused=study.budget.trials - at_once if study.scheduler.name == "promotion" else 0,
            each_paused=each if in_folds else EACH_PAUSED,
            kept=min(study.best_kept + bool(study.confirm) + len(study.search.baselines), study.budget.trials)
            + (2 * study.confirm.seeds if study.confirm else 0),
            budget=study.budget.disk,
        )

    @property
    def least_free(self) -> int:
        """With less free space, the next checkpoints of the running trials may not fit."""
        return self.trials * self.checkpoint + LEAST_FREE

    @property
    def most(self) -> int:
        """Bytes that all checkpoints take together, and the exported model."""
        return (self._unfinished(self.trials + self.paused) + self.kept + 1) * self.checkpoint

    def for_ended(self, live: int) -> float:
        """What is left of the budget for trials that ended, while `live` others are unfinished."""
        if self.budget is None:
            return math.inf
        return self.budget - (self._unfinished(live) + 1) * self.checkpoint  # one is the exported model

    def _unfinished(self, trials: int) -> int:
        """Checkpoints of so many trials that have not ended."""
        if not self.paused:
            return max(trials, self.trials) * self.each
        return self.trials * self.each + max(0, trials - self.trials) * self.each_paused

    def check(self, folder: Path) -> None:
        """Compare the needs with the budget and the free space, before a sweep starts.

        Raises:
            InputError: there is too little of one of them.
        """
        size, unfinished = ByteSize(self.checkpoint).human_readable(), self._unfinished(self.trials + self.paused)
        least = (unfinished + 2) * self.checkpoint  # the winner's, and its export
        if self.budget is not None and self.budget < least:
            who = f"{self.trials} trial(s) at once" + (f", {self.paused} paused ones" if self.paused else "")
            raise InputError(
                f"{who} and the winner take up to {unfinished + 2} checkpoints of {size}, but "
                f"`budget.disk` is {ByteSize(self.budget).human_readable()}",
                where="budget.disk",
                fix=f"allow {math.ceil(least / 2**20)}MiB"
                + (", or run fewer trials at once (`resources.concurrent`)" if self.trials > 1 else "")
                + (", or take `scheduler: {name: asha}`, which pauses none" if self.paused else ""),
            )
        needed = (self.most if self.budget is None else min(self.most, self.budget)) + LEAST_FREE
        there = next(each for each in (folder, *folder.parents) if each.is_dir())
        free = shutil.disk_usage(there).free + bytes_in(folder / TRIALS)
        if free < needed:
            raise InputError(
                f"the sweep takes up to {ByteSize(needed).human_readable()} for checkpoints of {size}, but "
                f"{ByteSize(free).human_readable()} are free",
                where=folder,
                fix="free some space, lower `keep_checkpoints` or `resources.concurrent`, or give `budget.disk`",
            )


def checkpoint_bytes(model: nn.Module) -> int:
    """The size of a checkpoint: float32 weights, and the two moments that AdamW keeps of each that is trained."""
    parameters = list(model.parameters())
    return 4 * sum(parameter.numel() * (3 if parameter.requires_grad else 1) for parameter in parameters)


def bytes_in(folder: Path) -> int:
    """The size of all files below a folder; files that disappear meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
