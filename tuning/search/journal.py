"""Optuna's journal of a sweep: whole lines only, with a checksum in a file beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from optuna.storages.journal import JournalFileBackend

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import sealed, unsealed
from tuning.sweep_dir.disk_full import ending_when_full
from tuning.sweep_dir.layout import SUM


class SweepJournal(JournalFileBackend):
    """A journal file; `<journal>.sha256` has the SHA-256 of its first bytes, and their number. One driver writes it.

    The sum is written after the journal, so it does not cover what a crash leaves at the journal's end.

    Raises:
        InputError: the journal is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._sum_path = path, path.with_name(f"{path.name}{SUM}")
        self._hash, self._size = hashlib.sha256(), 0
        if self._sum_path.exists():
            self._check()
        self._mend()
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, object]]) -> None:
        """Append records, all or none, and update the sum.

        Raises:
            DiskFull: there is no space for them.
        """
        size = os.path.getsize(self._path)
        with ending_when_full():
            try:
                super().append_logs(logs)
            except OSError:
                os.truncate(self._path, size)
                raise
        with open(self._path, "rb") as file:
            file.seek(self._size)
            new = file.read()
        self._hash.update(new)
        self._size += len(new)
        with contextlib.suppress(OSError):  # then the sum covers less
            atomic_write_json(self._sum_path, sealed({"bytes": self._size, "of": self._hash.hexdigest()}))

    def _mend(self) -> None:
        """Remove a torn last line and the lock of a killed driver: the sweep's own lock says that it is dead. Optuna
        would wait half a minute for the lock, and fail at the line."""
        for left in self._path.parent.glob(f"{self._path.name}.lock*"):
            left.unlink()
        if not self._path.is_file():
            return
        with open(self._path, "r+b") as file:
            file.seek(self._size)
            lines = file.readlines()
            if lines and not _is_whole(lines[-1]):
                file.truncate(self._size + sum(map(len, lines[:-1])))
                os.fsync(file.fileno())

    def _check(self) -> None:
        try:
            known = unsealed(json.loads(self._sum_path.read_text(encoding="utf-8")), where=self._sum_path)
            content = self._path.read_bytes()[: known["bytes"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._refusal() from error
        self._hash.update(content)
        self._size = len(content)
        if self._size != known["bytes"] or self._hash.hexdigest() != known["of"]:
            raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f"the journal is not the one of which {self._sum_path.name} tells: one of them is damaged, or was altered",
            where=self._path,
            fix="take a copy of both from a backup, or begin a new sweep",
        )


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
