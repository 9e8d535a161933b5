"""Records that MLflow refused for good, with the reasons: JSON Lines beside the spool, under its lock."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tuning.tracking.spool import now_ms


def dead_letters_path(spool: Path) -> Path:
    """The dead-letter file of a spool."""
    return spool.with_name(spool.name + ".dead.jsonl")


def count_dead_letters(spool: Path) -> int:
    """The number of records and values of a spool that were refused for good."""
    try:
        return dead_letters_path(spool).read_bytes().count(b"\n")
    except OSError:
        return 0


class DeadLetters:
    """Keeps each record once, however often it is sent and refused again."""

    def __init__(self, spool: Path) -> None:
        self.path = dead_letters_path(spool)
        self._known: set[str] | None = None

    def add(self, record: object, reason: str) -> bool:
        """Keep a record; False when it was kept before. An OSError leaves the file as it was, or with a torn end."""
        if self._known is None:
            self._known = self._read()
        key = json.dumps(record, ensure_ascii=False)
        if key in self._known:
            return False
        letter = {"time": now_ms(), "reason": reason, "record": record}
        line = json.dumps(letter, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            with open(self.path, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._known = None
            raise
        self._known.add(key)
        return True

    def _read(self) -> set[str]:
        if not self.path.is_file():
            return set()
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # torn by a crash or a full disk
            os.truncate(self.path, whole)
        known = set()
        for line in content[:whole].splitlines():
            try:
                known.add(json.dumps(json.loads(line)["record"], ensure_ascii=False))
            except (ValueError, LookupError, TypeError):
                continue
        return known
