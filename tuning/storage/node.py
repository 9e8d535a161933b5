"""A sweep whose home is an object store, as one node of a cluster sees it: a folder of its own, and what it fetches."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kobert_core.checkpoint import FOLDS, WEIGHTS
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes, atomic_write_json
from kobert_core.io.checksums import SUMS, write_sums
from tuning.storage.connection import Conflict
from tuning.storage.inputs import Inputs, StoredInput, fetch_input, only_one
from tuning.storage.store import Damaged, Store

log = logging.getLogger(__name__)


def node_folder() -> Path:
    """The folder of this machine for all sweeps in object stores: below TMPDIR, or /tmp, and this user's alone.

    Raises:
        InputError: it cannot be made, or is another user's.
    """
    folder = Path(tempfile.gettempdir()) / f"kobert-tune-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise InputError(f"the folder cannot be made ({error.strerror})", where=folder, fix="set TMPDIR") from error
    if owner != os.getuid():
        raise InputError("the folder is another user's", where=folder, fix="set TMPDIR")
    return folder


def inputs_here() -> Path:
    """The copies of data files and encoders, of all sweeps of this machine, by their content."""
    return node_folder() / "inputs"


@dataclass(frozen=True)
class StoredSweep:
    """What a node must know of a sweep in an object store. It is pickled with each task.

    In the store, files lie as they do below the sweep's folder on the driver's machine; tasks name them by their paths
    there.
    """

    store: Store
    """Of the sweep."""
    folder: str
    """The sweep's folder on the driver's machine."""
    study: StoredInput
    """Its study file."""
    inputs: Inputs
    """Its data and encoders."""

    @property
    def folder_here(self) -> Path:
        """Of this sweep on this machine."""
        return node_folder() / "sweeps" / hashlib.sha256(self.store.address.encode()).hexdigest()[:16]

    @property
    def tasks_here(self) -> Path:
        """For what single tasks fetch and write."""
        folder = self.folder_here / "tasks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def cache(self) -> Path:
        """Features and weights as arrays, of all sweeps of this machine."""
        return node_folder() / "cache"

    def key_of(self, path: str | os.PathLike[str]) -> str:
        """The key of a file or folder below the sweep's folder on the driver's machine."""
        return Path(path).relative_to(self.folder).as_posix()

    def study_here(self) -> Path:
        """The study file on this machine."""
        return fetch_input(self.inputs.store, self.study, inputs_here())

    def restore(self, key: str, names: Sequence[str]) -> list[str]:
        """Make a run's folder of checkpoints on this machine hold what has landed of it, and nothing else.

        Args:
            key: Of the folder of its checkpoints.
            names: Of those to hold, by their paths in it.

        Returns:
            Of these the ones that are what was written.

        Raises:
            InputError: the store does not answer.
        """
        checkpoints = self.folder_here / key
        with only_one(checkpoints.parent / ".lock"):
            for each in [each for pattern in ("*", "fold-*/*") for each in checkpoints.glob(pattern)]:
                name = each.relative_to(checkpoints).as_posix()
                is_needed = each.match("fold-*") or (name in names and self._is_here(f"{key}/{name}"))
                if not is_needed:
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
            so_far = self.store.get(f"{key}/{FOLDS}")
            if so_far is not None:
                atomic_write_bytes(checkpoints / FOLDS, so_far)
            for name in names:
                if not (checkpoints / name).exists():
                    self._download(f"{key}/{name}", checkpoints / name)
            return [name for name in names if (checkpoints / name).exists()]

    def landed(self, key: str) -> list[str]:
        """The checkpoints of a run that are whole in the store, by their paths in its folder; of each folder the oldest
        first."""
        return [each.removeprefix(f"{key}/") for each in self.store.folders(key)]

    def donate(self, checkpoint: str, donations: str, *, most: int) -> str:
        """Keep a checkpoint for other trials of a population.

        Args:
            checkpoint: Its key.
            donations: The key of the folder for those of its trial.
            most: So many of them stay there, the newest.

        Returns:
            The key of the copy.

        Raises:
            InputError: it is not there.
        """
        before = sorted(map(int, self.store.names(donations)))
        # By number, not by step: a trial that went back to another's weights comes to the same step again.
        held = f"{donations}/{before[-1] + 1 if before else 0}/{checkpoint.rpartition('/')[2]}"
        self.store.copy_folder(checkpoint, held)
        for number in before[: 1 - most]:
            self.store.delete_folder(f"{donations}/{number}")
        return held

    def forget_donations(self, trials: str, donations: str) -> None:
        """Remove what was kept for other trials, in all folders of this name below the key of the trials."""
        self.store.delete(key for key in self.store.objects(trials) if f"/{donations}/" in key)

    def adopt(self, donation: str, key: str) -> None:
        """Make another trial's checkpoint the only one of a run, whose folder of checkpoints has this key."""
        self.store.delete(self.store.objects(key))
        self.store.copy_folder(donation, f"{key}/{donation.rpartition('/')[2]}")

    def _is_here(self, key: str) -> bool:
        """Whether a checkpoint on this machine is the one in the store; its files are compared when it is loaded."""
        wanted, sums = self.store.folder_files(key), self.folder_here / key / SUMS
        return wanted is not None and sums.is_file() and StoredInput.of(sums).digest == wanted.get(SUMS)

    def _download(self, key: str, folder: Path) -> None:
        try:
            if self.store.download_folder(key, folder):
                return
            log.warning("passed over: %s/%s is not there any more", self.store.address, key)
        except Damaged as error:  # an older one may be whole
            log.warning("passed over: %s", error)

    def bring_log(self, key: str) -> None:
        """Let a log on this machine begin with what another one has written of it."""
        place = self.folder_here / key
        theirs = self.store.get(key)
        if theirs is not None and len(theirs) > (place.stat().st_size if place.is_file() else 0):
            atomic_write_bytes(place, theirs)

    def agree_on(self, path: Path) -> None:
        """Of a small file that whoever is first writes for all nodes: give ours, or take the one that is there."""
        key = path.relative_to(self.folder_here).as_posix()
        if path.is_file():
            with contextlib.suppress(Conflict):
                self.store.put(key, path.read_bytes(), create=True)
                return
        content = self.store.get(key)
        if content is not None:
            atomic_write_bytes(path, content)

    def bring(self, path: str, folder: Path) -> str:
        """Fetch a folder of the sweep, a model or a checkpoint, into a new one on this machine.

        Args:
            path: Of the folder, on the driver's machine.
            folder: In which it is to lie.

        Returns:
            Its path here.

        Raises:
            InputError: it is not there, or not what was written.
        """
        place = folder / Path(path).name
        only = (WEIGHTS, SUMS) if place.name.startswith("update-") else ()  # what to train on with is not asked for
        if not self.store.download_folder(self.key_of(path), place, only=only):
            where = f"{self.store.address}/{self.key_of(path)}"
            raise InputError("this folder is not in the object store", where=where)
        self._take_files_of_here(place)
        return str(place)

    def _take_files_of_here(self, model: Path) -> None:
        """Let a model's config name the data where it lies on this machine."""
        from kobert_core.pretrained import TRAIN_CONFIG, read_train_config

        if not (model / TRAIN_CONFIG).is_file():
            return
        config = self.inputs.config_here(read_train_config(model), inputs_here(), model=False)
        atomic_write_json(model / TRAIN_CONFIG, config.model_dump(mode="json", exclude_unset=True))
        write_sums(model)

    def forget_here(self) -> None:
        """Remove what this machine holds of the sweep; its data, encoders and features stay for others."""
        shutil.rmtree(self.folder_here, ignore_errors=True)
