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
from tuning.storage.store import Store, StoreAway

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
        checkpoints: str,
        outbox: Path,
        *,
        landed: Iterable[str] = (),
        beside: Sequence[Path] = (),
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """Uploads of one life of a run.

        Args:
            store: Of the run.
            checkpoints: The key in it below which each checkpoint is a folder.
            outbox: Folder on the disk of the run's checkpoints: what is on its way is linked there, since the run
                removes its own.
            landed: Names of checkpoints that are whole in the store already.
            beside: Files that grow, such as a log: after each checkpoint they are uploaded as they are then.
            alive: Is called again and again while the run waits.
        """
        self._store, self._checkpoints, self._outbox = store, checkpoints, outbox
        self._beside, self._alive, self._added = beside, alive, set(landed)
        self.newest: str | None = max(self._added, default=None)
        """The name of the newest checkpoint that has landed."""
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
        if folder.name in self._added:  # the same state: it was written twice within a step
            return
        self._added.add(folder.name)
        self._wait_for(self._room)
        held = self._outbox / folder.name
        link_checkpoint(folder, held)

        def upload() -> None:
            self._store.upload_folder(held, f"{self._checkpoints}/{folder.name}", known=read_sums(held))
            self.newest = folder.name
            shutil.rmtree(held)
            self._room.release()

        self._asked.put(upload)
        self._ask_for_beside()

    def keep(self, names: set[str]) -> None:
        """Remove older checkpoints than the newest of `names` but these. What is newer is of a later life of the run:
        this one has been given up, and does not know it."""

        def remove() -> None:
            for name in self._store.names(self._checkpoints):
                if name < max(names) and name not in names:
                    self._store.delete_folder(f"{self._checkpoints}/{name}")

        self._asked.put(remove)

    def add_folder(self, folder: Path) -> None:
        """Upload another folder of the run, in which nothing changes, under its own name."""
        self._asked.put(lambda: self._store.upload_folder(folder, folder.name))

    def flush(self) -> None:
        """Wait until all is done that was asked for. Raises as `add`."""
        done = threading.Semaphore(0)
        self._asked.put(done.release)
        self._wait_for(done)

    def close(self) -> None:
        """`flush`, and end the thread."""
        try:
            self._ask_for_beside()
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
