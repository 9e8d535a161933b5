"""One process at a time in the folder of a sweep."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kobert_core.errors import InputError


@contextmanager
def sweep_lock(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder of a sweep for this process: its lock, a file that can be written.

    The system gives the lock back when the process dies; what is written in its file stays.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    try:
        number = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"the folder cannot be written ({error.strerror})", where=folder) from error
    with os.fdopen(number, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another process runs this sweep", where=folder, fix="wait for it, or stop it") from None
        yield lock
