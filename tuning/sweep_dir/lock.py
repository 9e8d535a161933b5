"""One process at a time in the folder of a sweep."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kobert_core.errors import InputError
from tuning.sweep_dir.layout import HOME, LOCK


@contextmanager
def sweep_lock(folder: Path) -> Iterator[TextIO]:
    """Lock the folder of a sweep for this process. The lock ends with the process.

    Yields the file of the lock, for reading and appending.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    try:
        lock = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise InputError(f"the folder cannot be written ({error.strerror})", where=folder) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another process runs this sweep", where=folder, fix="wait for it, or stop it") from None
        yield lock


def goes_on(folder: Path) -> bool:
    """Whether the sweep of a folder is running, or was killed and would continue without `--resume`."""
    try:
        return is_running(folder) or bool((folder / LOCK).read_text(encoding="utf-8"))
    except OSError:
        return not _said_of_copy(folder, "ended", otherwise=True)


def driver_of(folder: Path) -> tuple[int, str] | None:
    """The id of the process that runs the sweep of a folder, and its machine; None where none does."""
    if not is_running(folder) or not (folder / LOCK).is_file():
        return None
    match = re.fullmatch(r"running (\d+) on (\S+)", (folder / LOCK).read_text(encoding="utf-8").strip())
    return (int(match[1]), match[2]) if match else None


def is_running(folder: Path) -> bool:
    """Whether a process holds the lock now; of a copy from an object store, whether one did there."""
    try:
        with open(folder / LOCK, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _said_of_copy(folder, "running", otherwise=False)
    return False


def _said_of_copy(folder: Path, name: str, *, otherwise: bool) -> bool:
    """What a copy of a sweep in an object store knows of it; such a copy has no lock of its own."""
    try:
        return bool(json.loads((folder / HOME).read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, LookupError):
        return otherwise
