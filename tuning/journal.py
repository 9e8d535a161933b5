"""Optuna's journal of a sweep, with a checksum beside it: its format, which Optuna's own tools read, has none."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from kobert_core.errors import InputError
from kobert_core.files import atomic_write_json, sealed, unsealed


class CheckedJournal(JournalFileBackend):
    """A journal file whose first so many bytes have a known SHA-256, in `<journal>.sha256`.

    It is written after the journal: what a crash leaves at the journal's end is not covered, and not refused.

    Raises:
        InputError: the journal is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._sum_path = path, path.with_name(f"{path.name}.sha256")
        self._hash, self._size = hashlib.sha256(), 0
        if self._sum_path.exists():
            self._check()
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append, and count what was appended in."""
        super().append_logs(logs)
        with open(self._path, "rb") as file:
            file.seek(self._size)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._hash.update(whole)
        self._size += len(whole)
        with contextlib.suppress(OSError):  # then the sum covers less
            atomic_write_json(self._sum_path, sealed({"bytes": self._size, "of": self._hash.hexdigest()}))

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
