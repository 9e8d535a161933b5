"""Where the checkpoints and models of a sweep lie: in its folder, or where its home is an object store, there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kobert_core.checkpoint import WEIGHTS, remove_checkpoints
from kobert_core.errors import InputError
from kobert_core.io.checksums import SUMS
from tuning.storage.node import StoredSweep
from tuning.sweep.disk import bytes_in
from tuning.sweep_dir.confirm_runs import ConfirmRuns
from tuning.sweep_dir.layout import CACHE, CHECKPOINTS, STUDY, checkpoint_of, confirm_folder, trial_folder
from tuning.sweep_dir.trial_status import TrialState, last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

if TYPE_CHECKING:
    from tuning.workers.worker_pool import WorkerPool


class Checkpoints(Protocol):
    """The checkpoints and models of a sweep's trials; folders are named by their paths in the sweep's folder."""

    def has(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is there."""
        ...

    def keep(self, checkpoints: Path, name: str) -> None:
        """Of a trial's checkpoints keep this one."""
        ...

    def size(self, checkpoint: Path) -> int:
        """The bytes of a checkpoint."""
        ...

    def remove(self, checkpoints: Path) -> None:
        """Remove all checkpoints of a trial, if there are any."""
        ...

    def may_be_in(self, checkpoints: Path) -> bool:
        """Whether there may be something to remove that the ledger does not name."""
        ...

    def bring(self, folder: Path) -> None:
        """Let a model or a checkpoint lie in the sweep's folder."""
        ...

    def give(self, model: Path) -> None:
        """Let workers read a model that was made in the sweep's folder."""
        ...

    def mend(self, groups: WorkerPool, table: TrialTable, say: Callable[[str], object]) -> set[int]:
        """After the search, make again what was lost of trials that had ended.

        Returns:
            The trials whose checkpoints cannot be made again now.
        """
        ...

    def tidy(self, kept: Mapping[Path, str | None]) -> None:
        """Remove what workers have left of checkpoints that are not to be kept, once there are no workers any more.

        Args:
            kept: The name of the one to keep, or None, by the folder of checkpoints of a run; others stay as they are.
        """
        ...


class LocalCheckpoints:
    """Those in the sweep's folder."""

    def has(self, checkpoint: Path) -> bool:
        return checkpoint.is_dir()

    def keep(self, checkpoints: Path, name: str) -> None:
        remove_checkpoints(checkpoints, {name})

    def size(self, checkpoint: Path) -> int:
        return bytes_in(checkpoint)

    def remove(self, checkpoints: Path) -> None:
        shutil.rmtree(checkpoints, ignore_errors=True)  # done again if a kill comes between

    def may_be_in(self, checkpoints: Path) -> bool:
        return checkpoints.is_dir()

    def bring(self, folder: Path) -> None:
        pass

    def give(self, model: Path) -> None:
        pass

    def mend(self, groups: WorkerPool, table: TrialTable, say: Callable[[str], object]) -> set[int]:
        return set()

    def tidy(self, kept: Mapping[Path, str | None]) -> None:
        pass


class StoredCheckpoints:
    """Those in an object store; what is brought to the driver's machine is a copy."""

    def __init__(self, sweep: StoredSweep) -> None:
        self._store, self._key_of, self._lock = sweep.store, sweep.key_of, threading.Lock()

    def has(self, checkpoint: Path) -> bool:
        return self._store.folder_files(self._key_of(checkpoint)) is not None

    def keep(self, checkpoints: Path, name: str) -> None:
        key = self._key_of(checkpoints)
        names = self._store.names(key)
        for other in names if self.has(checkpoints / name) else ():
            if other != name:
                self._store.delete_folder(f"{key}/{other}")

    def size(self, checkpoint: Path) -> int:
        return sum(self._store.objects(self._key_of(checkpoint)).values())

    def remove(self, checkpoints: Path) -> None:
        key = self._key_of(checkpoints)
        for name in self._store.names(key):
            self._store.delete_folder(f"{key}/{name}")
        self._store.delete(self._store.objects(key))  # what is known of folds
        shutil.rmtree(checkpoints, ignore_errors=True)

    def may_be_in(self, checkpoints: Path) -> bool:
        return False  # what a worker uploads after the end of its trial is removed by `tidy`

    def bring(self, folder: Path) -> None:
        with self._lock:
            only = (WEIGHTS, SUMS) if folder.parent.name == CHECKPOINTS else ()  # nothing is trained here
            if not folder.exists() and not self._store.download_folder(self._key_of(folder), folder, only=only):
                where = f"{self._store.address}/{self._key_of(folder)}"
                raise InputError("this folder is not in the object store: not yet, or not any more", where=where)

    def give(self, model: Path) -> None:
        self._store.upload_folder(model, self._key_of(model))

    def mend(self, groups: WorkerPool, table: TrialTable, say: Callable[[str], object]) -> set[int]:
        """Train trials once more, to where their best checkpoints were, if these have not landed: their node was lost
        as they ended. The checkpoints are the same, bit for bit on CPU. Of trials that may go on, only one that wins
        needs its checkpoint now."""
        groups.settle()
        lost = {
            record.trial for record in table if record.has_ended and not self._mend_trial(record, groups, table, say)
        }
        while (winner := table.winner(but=lost)) and not self._mend_trial(winner, groups, table, say):
            lost.add(winner.trial)
        return lost

    def _mend_trial(
        self, record: TrialRecord, groups: WorkerPool, table: TrialTable, say: Callable[[str], object]
    ) -> bool:
        """Whether the trial has its checkpoint, or none to have."""
        from tuning.workers.train_trial import train_trial

        folder = table.folder
        if record.checkpoint is None or self.has(checkpoint_of(folder, record)):
            return True
        if record.lineage:  # a way that no trial can go again; in a population none ends before it has landed
            return False
        say(f"trial {record.trial}: its checkpoint was lost with its node, and is trained again")
        try:
            groups.run(
                train_trial,
                trial=record.trial,
                values=record.values,
                end=record.best_progress,
                study=str(folder / STUDY),
                folder=str(folder),
                cache=str(folder.parent / CACHE),
            )
        except RuntimeError as error:
            say(f"trial {record.trial}: this has failed: {last_line(str(error))}")
        return self.has(checkpoint_of(folder, record))

    def tidy(self, kept: Mapping[Path, str | None]) -> None:
        names = {self._key_of(checkpoints): name for checkpoints, name in kept.items()}
        found = {key[: key.index(f"/{CHECKPOINTS}/")] for key in self._store.objects() if f"/{CHECKPOINTS}/" in key}
        for checkpoints in names.keys() & {f"{run}/{CHECKPOINTS}" for run in found}:
            for name in self._store.names(checkpoints):
                if name != names[checkpoints]:
                    self._store.delete_folder(f"{checkpoints}/{name}")


def forget_given_up(table: TrialTable, checkpoints: Checkpoints) -> None:
    """A trial of a population that was stopped as it took another trial's weights has lost its own best ones, and no
    report has named others yet: it cannot win by them. When it goes on, its first report is its best one."""
    for record in table:
        if record.checkpoint is not None and not checkpoints.has(checkpoint_of(table.folder, record)):
            record.value, record.best_progress, record.checkpoint, record.metrics = None, None, None, {}
            table.put(record)


def kept_of(table: TrialTable) -> dict[Path, str | None]:
    """Which checkpoint each run of a sweep keeps that has ended: what `StoredCheckpoints.tidy` takes."""
    folder = table.folder
    kept = {trial_folder(folder, each.trial) / CHECKPOINTS: each.checkpoint for each in table if each.has_ended}
    runs = (run for run in ConfirmRuns(folder) if run.state != TrialState.INTERRUPTED)
    return kept | {confirm_folder(folder, run.number) / CHECKPOINTS: run.checkpoint for run in runs}
