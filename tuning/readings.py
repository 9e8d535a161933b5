"""Who looked at which test file, and how often: a test score is honest the first time."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

READINGS = "test_readings.jsonl"


def record_reading(folder: Path, *, file: Path, sha256: str, by: str, metrics: Any, **more: Any) -> int:
    """Note in a sweep's or a model's folder that a file was read for scores; how often it had been before."""
    before = sum(reading["sha256"] == sha256 for reading in readings(folder))
    reading = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": file.name,
        "sha256": sha256,
        "by": by,
        "metrics": metrics,
        **more,
    }
    with open(folder / READINGS, "a", encoding="utf-8") as log:
        log.write(json.dumps(reading, ensure_ascii=False) + "\n")
        log.flush()
        os.fsync(log.fileno())
    return before


def readings(folder: Path) -> list[dict[str, Any]]:
    """All readings that a folder knows of, oldest first; a torn last line is passed over."""
    path = folder / READINGS
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
