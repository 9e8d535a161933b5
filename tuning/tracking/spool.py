"""The local record of all that a sweep reports: JSON Lines, one writer, cut clean after a crash."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.files import sealed_line, unsealed_line

Record = dict[str, Any]

_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


class Spool:
    """An append-only file of JSON records, locked for this process until `close` or its death.

    The first record says whose spool it is: `sweep`, `sweep_id` (a UUID made here) and `experiment`.

    Raises:
        InputError: another process has it open, it cannot be written, or it is not a spool.
    """

    def __init__(self, path: Path, *, sweep: str | None = None, experiment: str | None = None) -> None:
        self.path = path
        self.appended = 0
        self._lock = threading.Lock()
        self._unwritten = b""
        self._settled = 0
        self._full = False
        self._fd = self._open(path)
        try:
            self._end = self._cut_torn_line()
            if self._end == 0 and sweep is not None:
                header = {"kind": "spool", "version": 1, "sweep": sweep, "experiment": experiment}
                self.append({**header, "sweep_id": uuid.uuid4().hex, "time": now_ms()}, durable=True)
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def append(self, record: Record, *, durable: bool = False) -> None:
        """Add a record, with `durable` down to the disk; what a full disk refuses waits in memory."""
        line = sealed_line(record)
        with self._lock:
            self._unwritten += line
            self.appended += 1
            try:
                self._write()
                if durable:
                    os.fdatasync(self._fd)
            except OSError as error:
                if not self._full:
                    _log.warning("%s: cannot be written (%s); its records wait in memory", self.path, error)
                self._full = True

    def settle(self) -> int:
        """Bring all records down to the disk; the offset up to which they are whole.

        Only what is on the disk may be sent: a record that was sent and then lost with the machine would come
        again from the resumed trial, with another time, and MLflow would hold both.
        """
        with self._lock:
            self._write()
            end = self._end
        if end != self._settled:
            os.fdatasync(self._fd)
            self._settled = end
        return end

    def read(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """Some of the lines from offset `start` on, at least one: (offset after the line, the line)."""
        size = _BLOCK
        while True:
            block = os.pread(self._fd, min(size, end - start), start)
            whole = block.rfind(b"\n") + 1
            if whole or start + len(block) >= end:
                break
            size *= 2
        lines, offset = [], start
        for line in block[:whole].split(b"\n")[:-1]:
            offset += len(line) + 1
            lines.append((offset, line))
        return lines

    def count(self, start: int) -> int:
        """The number of records from offset `start` on."""
        lines = 0
        while block := os.pread(self._fd, _BLOCK, start):
            lines += block.count(b"\n")
            start += len(block)
        return lines

    def is_boundary(self, offset: int) -> bool:
        """Whether a record ends at this offset (or the file begins)."""
        return offset == 0 or os.pread(self._fd, 1, offset - 1) == b"\n"

    def close(self) -> None:
        """Give the file and its lock back."""
        os.close(self._fd)

    @staticmethod
    def _open(path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise InputError("is in use by another process", where=path, fix="wait for its end") from error
        return fd

    def _write(self) -> None:
        # What a full disk took of a line stays there: the rest follows it later.
        while self._unwritten:
            written = os.write(self._fd, self._unwritten)
            self._unwritten = self._unwritten[written:]
            self._end += written
        self._full = False

    def _cut_torn_line(self) -> int:
        size = start = os.fstat(self._fd).st_size
        whole = 0
        while start > 0 and not whole:
            block_start = max(0, start - _BLOCK)
            newline = os.pread(self._fd, start - block_start, block_start).rfind(b"\n")
            whole = block_start + newline + 1 if newline >= 0 else 0
            start = block_start
        if whole < size:
            _log.warning("%s: a torn last line of %d bytes was cut off", self.path, size - whole)
            os.ftruncate(self._fd, whole)
        return whole

    def _read_header(self) -> Record:
        lines = self.read(0, self._end) if self._end else []
        try:
            header = unsealed_line(lines[0][1])
            if header["kind"] == "spool" and header["sweep_id"]:
                return dict(header)
        except (ValueError, LookupError, TypeError):
            pass
        raise InputError(
            "is not a tracking spool, or its first line is damaged",
            where=self.path,
            fix="move it away: MLflow then gets a new run of this sweep",
        )
