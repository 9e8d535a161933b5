"""A run's checkpoints on their way into an object store, while the run goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from queue import Queue

from kobert_core.checkpoint import link_checkpoint
from kobert_core.errors import InputError
from kobert_core.io.checksums import read_sums
from tuning.storage.connection import StoreAway
from tuning.storage.store import Store

MAX_ON_THE_WAY = 2
"""Checkpoints that can be on their way at the same time; before there is one more, training waits."""
SECONDS_BETWEEN_SIGNS = 1.0
SECONDS_BETWEEN_TRIES = 5.0

log = logging.getLogger(__name__)


class Uploads:
    """Keeps copies of a run's checkpoints in a store, as `kobert_core.checkpoint.CheckpointCopies`.

    One thread does what it is asked, in the order in which it is asked, and passes nothing over: so a copy is only
    removed when all that the run may fall back on has landed. A store that is away is waited for.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        outbox: Path,
        *,
        landed: Iterable[str] = (),
        beside: Sequence[Path] = (),
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """Uploads of one life of a run.

        Args:
            store: Of the run.
            folder: Of the run's checkpoints, and of its folds with theirs; in the store it has the same name.
            outbox: Folder on the disk of the run's checkpoints: what is on its way is linked there, since the run
                removes its own.
            landed: Checkpoints that are whole in the store already, by their paths in `folder`.
            beside: Files that grow, such as a log: after each checkpoint they are uploaded as they are then.
            alive: Is called again and again while the run waits.
        """
        self._store, self._folder, self._outbox = store, folder, outbox
        self._beside, self._alive, self._added = beside, alive, set(landed)
        self.newest: str | None = max(self._added, default=None)
        """The newest checkpoint that has landed, by its path in the folder."""
        self._room = threading.Semaphore(MAX_ON_THE_WAY)
        self._asked: Queue[Callable[[], object] | None] = Queue()
        self._error: InputError | None = None
        shutil.rmtree(outbox, ignore_errors=True)  # of an earlier life: what had not landed is trained again
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()

    def add(self, folder: Path) -> None:
        """Upload a checkpoint; waits while too many others are on their way.

        Raises:
            InputError: the store has refused an upload.
        """
        name = folder.relative_to(self._folder).as_posix()
        if name in self._added:  # the same state: it was written twice within a step
            return
        self._added.add(name)
        self._wait_for(self._room)
        held = self._outbox / name
        link_checkpoint(folder, held)

        def upload() -> None:
            self._store.upload_folder(held, self._key_of(folder), known=read_sums(held))
            self.newest = name
            shutil.rmtree(held)
            self._room.release()

        self._asked.put(upload)
        self._ask_for_beside()

    def add_file(self, path: Path) -> None:
        """Upload a small file of the folder of checkpoints as it is now. All lands in the order in which it is asked
        for: what has landed was all that there was at one moment."""
        content = path.read_bytes()
        self._asked.put(lambda: self._store.put(self._key_of(path), content))

    def keep(self, checkpoints: Path, names: set[str]) -> None:
        """Remove older checkpoints of a folder than the newest of `names` but these. What is newer is of a later life
        of the run: this one has been given up, and does not know it."""
        self._asked.put(partial(self._remove, checkpoints, lambda name: name < max(names) and name not in names))

    def keep_only(self, names: set[str]) -> None:
        """Remove all checkpoints but these, at the end of a fold: each life of the run comes to the same ones."""
        self._asked.put(partial(self._remove, self._folder, lambda name: name not in names))

    def _remove(self, checkpoints: Path, is_old: Callable[[str], bool]) -> None:
        key = self._key_of(checkpoints)
        for name in filter(is_old, self._store.names(key)):
            self._store.delete_folder(f"{key}/{name}")

    def _key_of(self, path: Path) -> str:
        return path.relative_to(self._folder.parent).as_posix()

    def add_folder(self, folder: Path) -> None:
        """Upload another folder of the run, in which nothing changes, under its own name."""
        self._asked.put(lambda: self._store.upload_folder(folder, folder.name))

    def flush(self) -> None:
        """Wait until all that was asked for is done, and the files beside are there as they are. Raises as `add`."""
        self._ask_for_beside()
        done = threading.Semaphore(0)
        self._asked.put(done.release)
        self._wait_for(done)

    def close(self) -> None:
        """`flush`, and end the thread."""
        try:
            self.flush()
        finally:
            self._asked.put(None)

    def _ask_for_beside(self) -> None:
        for path in self._beside:
            self._asked.put(partial(self._upload_file, path))

    def _upload_file(self, path: Path) -> None:
        if path.is_file():
            self._store.upload(path, path.name)

    def _wait_for(self, permit: threading.Semaphore) -> None:
        while self._error is None:
            if permit.acquire(timeout=SECONDS_BETWEEN_SIGNS):
                return
            self._alive()
        raise self._error

    def _work(self) -> None:
        try:
            while (task := self._asked.get()) is not None:
                while not self._is_done(task):
                    time.sleep(SECONDS_BETWEEN_TRIES)
        except InputError as error:
            self._error = error
        except Exception as error:  # nobody hears of it in a thread: the run does at its next checkpoint
            log.exception("an upload has failed")
            self._error = InputError(f"an upload has failed ({error})", where=self._store.address)

    def _is_done(self, task: Callable[[], object]) -> bool:
        try:
            task()
        except StoreAway as error:
            log.warning("still waiting: %s", error)
            return False
        return True
