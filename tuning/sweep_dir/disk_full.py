"""A full disk ends a sweep as a kill would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kobert_core.io.atomic import is_disk_full


class DiskFull(BaseException):
    """The driver cannot write any more. This is no `Exception`, which Ray Tune would take for an error of the current
    trial: the sweep ends as if it had been killed, and can be resumed."""


@contextmanager
def ending_when_full() -> Iterator[None]:
    """Around writes that the driver must not continue without.

    Raises:
        DiskFull: the disk is.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(str(error)) from error
        raise
