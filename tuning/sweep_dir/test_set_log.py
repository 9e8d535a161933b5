"""Who looked at which test file, and how often: a test score is honest the first time."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.io.checksums import sealed_line, unsealed_line
from tuning.sweep_dir.layout import TEST_SET_LOG

_END = rb'"crc32":"[0-9a-f]{8}".|}$'
"""What a line that was torn has not."""


def record_reading(folder: Path, *, file: Path, sha256: str, by: str, metrics: Any, **more: Any) -> None:
    """Note in a sweep's or a model's folder that a file was read for scores.

    Raises:
        OSError: the folder cannot be written.
    """
    reading = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": file.name,
        "sha256": sha256,
        "by": by,
        "metrics": metrics,
        **more,
    }
    path = folder / TEST_SET_LOG
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")
    with open(path, "ab") as log:
        log.write((b"\n" if torn else b"") + sealed_line(reading))
        log.flush()
        os.fsync(log.fileno())


def times_read(folder: Path, sha256: str) -> int:
    """How often a file was read, as a folder knows."""
    return sum(reading["sha256"] == sha256 for reading in readings(folder))


def read_before(folder: Path, *, sha256: str, weights: dict[str, str]) -> dict[str, dict[str, float]] | None:
    """What a sweep's folder knows of the metrics of these weights on a file; None when it was not read for them."""
    for reading in readings(folder):
        is_it = reading["sha256"] == sha256 and reading.get("weights") == weights
        if is_it and not any(map(tuned_on_test, reading["metrics"].values())):
            return dict(reading["metrics"])
    return None


def tuned_on_test(metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are of an older version, which chose the null threshold on the test file itself."""
    return "test/null_threshold" in metrics


def readings(folder: Path) -> list[dict[str, Any]]:
    """All readings that a folder knows of, oldest first; what was torn by a crash is passed over.

    Raises:
        InputError: a line is not what was written.
    """
    path = folder / TEST_SET_LOG
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], start=1):
        if not re.search(_END, line):
            continue
        try:
            found.append(unsealed_line(line))
            found[-1]["sha256"]
        except (ValueError, LookupError) as error:
            raise InputError(
                "the record of a reading is damaged",
                where=f"{path}:{number}",
                fix="remove the line to go on without it",
            ) from error
    return found
