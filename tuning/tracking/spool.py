"""The local record of all reports of a sweep: JSON Lines with one writer; a torn end is removed after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.io.checksums import sealed_line, unsealed_line

Record = dict[str, Any]
"""A line of JSON, checked by `record_of`."""

_BLOCK = 1 << 20
_GROUP_SECONDS = 0.05
_FULL_DISK_SECONDS = 0.5
_log = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


class Spool:
    """An append-only file of JSON records, locked for this process until `close` or its death.

    The first record says whose spool it is: `sweep`, `sweep_id` (a UUID made here) and `experiment`. Every line ends
    with a checksum of itself. A thread brings what was appended down to the disk, some hundredths of a second later.

    Raises:
        InputError: another process has it open, it cannot be written, or it is not a spool.
    """

    def __init__(self, path: Path, *, sweep: str | None = None, experiment: str | None = None) -> None:
        self.path = path
        self.limit: Callable[[], int] | None = None
        """Where another copy of the file must have a record before it is sent: how many bytes that has."""
        self.appended = 0
        self._lock = threading.Lock()
        self._unwritten = bytearray()
        self._settled = 0
        self._problem: OSError | None = None
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="spool-keeper", daemon=True)
        self._fd = self._open(path)
        try:
            self._end = self._whole = self._cut_torn_line()
            self._latest = self._time_of_last_line()
            self._shift = 0
            if self._end == 0 and sweep is not None:
                self.append("spool", version=2, sweep=sweep, experiment=experiment, sweep_id=uuid.uuid4().hex)
                if self._problem:
                    raise InputError(f"cannot be written ({self._problem.strerror})", where=path)
            self.header = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise
        self._keeper.start()

    @property
    def latest(self) -> int:
        """The time of the newest record, when the driver was alive."""
        return self._latest

    @property
    def unwritten(self) -> int:
        """The number of records that wait in memory because the disk is full."""
        with self._lock:
            return self._unwritten.count(b"\n")

    def append(self, kind: str, *, at: int | None = None, **fields: object) -> None:
        """Add a record with the time of this call, or `at`; if the disk is full, it waits in memory.

        What is here when the process is killed stays. The disk has it a little later: see `settle`.
        """
        with self._lock:
            at = self._now() if at is None else at
            self._unwritten += sealed_line({"kind": kind, "time": at, **fields})
            self.appended += 1
            self._write()
        self._dirty.set()

    def settle(self) -> int:
        """Sync all records to the disk, and return the offset up to which they are whole, and may be sent.

        Only what is on the disk may be sent: a record that was sent and then lost with the machine would come
        again from the resumed trial, with another time, and MLflow would hold both.
        """
        with self._lock:
            self._write()
            end = self._whole
        if end != self._settled:
            os.fdatasync(self._fd)
            self._settled = end
        if not self._unwritten:
            self._problem = None
        return end if self.limit is None else min(end, self.limit())

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

    def records(self, end: int | None = None) -> Iterator[Record]:
        """All whole records up to an offset."""
        offset, end = 0, self._whole if end is None else end
        while offset < end and (lines := self.read(offset, end)):
            yield from (record for _, line in lines if (record := record_of(line)))
            offset = lines[-1][0]

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
        """Close the file and release its lock."""
        self._closing.set()
        self._dirty.set()
        self._keeper.join()
        with contextlib.suppress(OSError):
            self.settle()
        os.close(self._fd)

    @staticmethod
    def _open(path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise InputError("is in use by another process", where=path, fix="wait for its end") from error
        return fd

    def _keep(self) -> None:
        """Sync in a thread, since an fsync may be slow; one covers all records that came meanwhile."""
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            try:
                self.settle()
            except OSError as error:
                self._say_once(error)
            self._closing.wait(_FULL_DISK_SECONDS if self._problem else _GROUP_SECONDS)
            if self._problem:
                self._dirty.set()

    def _now(self) -> int:
        """The time; if the clock was set back, it continues from the newest record."""
        now = now_ms() + self._shift
        self._shift += max(0, self._latest - now)
        self._latest = max(now, self._latest)
        return self._latest

    def _write(self) -> None:
        # What a full disk took of a line stays there: the rest follows it later.
        try:
            while self._unwritten:
                written = os.write(self._fd, self._unwritten)
                newline = self._unwritten.rfind(b"\n", 0, written) + 1
                self._whole = self._end + newline if newline else self._whole
                self._end += written
                del self._unwritten[:written]
        except OSError as error:
            self._say_once(error)

    def _say_once(self, error: OSError) -> None:
        if self._problem is None:
            _log.warning("%s: cannot be written (%s); its records wait in memory", self.path, error.strerror)
        self._problem = error

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

    def _time_of_last_line(self) -> int:
        start = max(0, self._end - _BLOCK)
        lines = os.pread(self._fd, self._end - start, start).split(b"\n")
        return next((int(record["time"]) for line in reversed(lines) if (record := record_of(line))), 0)

    def _read_header(self) -> Record:
        lines = self.read(0, self._end) if self._end else []
        header = record_of(lines[0][1]) if lines else None
        if header is None or header["kind"] != "spool":
            raise InputError(
                "is not a tracking spool, or its first line is damaged",
                where=self.path,
                fix="move it away: MLflow then gets a new run of this sweep",
            )
        return header


def header_of(path: Path) -> Record | None:
    """The first record of a spool, even if another process has it open; None when there is none, or it is damaged."""
    try:
        with open(path, "rb") as file:
            header = record_of(file.readline().rstrip(b"\n"))
    except OSError:
        return None
    return header if header and header["kind"] == "spool" else None


def record_of(line: bytes) -> Record | None:
    """The record of a line, with all fields of its kind; None when the line is damaged."""
    needs = {
        "spool": {"sweep", "sweep_id", "experiment"},
        "start": {"trial", "params", "tags"},
        "metrics": {"trial", "step", "metrics"},
        "end": {"trial", "status", "tags"},
        "result": {"trial", "step", "metrics", "tags"},
        "dataset": {"name", "path", "sha256", "examples", "context"},
        "artifact": {"trial", "path", "artifact_path"},
        "winner": {"trial", "model_dir", "name", "params", "metrics", "tags"},
    }
    try:
        record = unsealed_line(line)
        if record.keys() >= needs[record["kind"]] | {"time"}:
            return record
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return None
