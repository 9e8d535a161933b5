"""The end of a process of ours."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from tuning.api.exit_codes import EXIT_INTERRUPTED


class ProcessEnd:
    """Ends this process after its exit handlers, without taking Python apart.

    Python ends a thread that nobody waits for as soon as it asks for the interpreter's lock. Where that thread is in a
    library's C++, say in torch while data is read, the whole process then aborts: *terminate called without an active
    exception* (until Python 3.14). To take so many modules apart takes half a second, too.

    Handlers that were registered before this one are not called, but for that of `logging`.
    """

    code = 1

    def __init__(self) -> None:
        atexit.register(self)
        atexit.register(logging.shutdown)  # the last that is called before this: it writes what handlers hold back

    def __call__(self) -> None:
        try:
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                if stream is not None:  # as it is where the process began without one
                    self._flush(name, stream)
        finally:
            os._exit(self.code)

    def _flush(self, name: str, stream: TextIO) -> None:
        try:
            stream.flush()
        except BrokenPipeError:  # nobody reads on
            pass
        except OSError as error:
            self.code = self.code or 1
            if sys.stderr is not None:
                with suppress(OSError):
                    os.write(2, f"error: {name}: {error.strerror}\n".encode())

    @contextmanager
    def of(self) -> Iterator[None]:
        """The process ends as the block does."""
        try:
            yield
        except SystemExit as end:
            self.code = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
        except KeyboardInterrupt:
            self.code = EXIT_INTERRUPTED
            raise
        self.code = 0
