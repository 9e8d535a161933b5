"""A full disk ends a sweep as a kill would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kobert_core.io.atomic import is_disk_full


class DiskFull(BaseException):
    """The driver can write down no more. No `Exception`, which Ray Tune would take for a fault of the trial whose turn
    it was: the sweep ends where it is, as if it had been killed, and can go on from there."""


@contextmanager
def ending_when_full() -> Iterator[None]:
    """Around what the driver must not go on without.

    Raises:
        DiskFull: the disk is.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(str(error)) from error
        raise
