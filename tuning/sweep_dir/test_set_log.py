"""A log of every reading of a test file: a test score is honest only the first time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.checksums import sealed_line, unsealed_line
from tuning.sweep_dir.home import keep_readings
from tuning.sweep_dir.layout import TEST_SET_LOG

_WHOLE = rb'"crc32":"[0-9a-f]{8}".|}$'
"""The end of a whole line."""


def record_reading(
    folder: Path, *, file: Source, sha256: str, by: str, metrics: Mapping[str, object], **more: object
) -> None:
    """Log in the folder of a sweep or a model that a file was read for scores.

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


def record_reading_of_model(
    folder: Path,
    *,
    file: Source,
    sha256: str,
    by: str,
    metrics: Mapping[str, object],
    say: Callable[[str], object],
) -> None:
    """`record_reading` in the folder of a model, and where that is a copy of one in an object store, there too; if it
    cannot be written, `say` gets a line."""
    try:
        record_reading(folder, file=file, sha256=sha256, by=by, metrics=metrics)
        keep_readings(folder)
    except OSError as error:
        say(f"note: this reading could not be recorded ({folder / TEST_SET_LOG}: {error.strerror})")
    except InputError as error:
        say(f"note: this reading could not be recorded ({error})")


def times_read(folder: Path, sha256: str) -> int:
    """How often a file was read, according to the log in a folder."""
    return sum(reading["sha256"] == sha256 for reading in read_log(folder))


def read_before(folder: Path, *, sha256: str, weights: dict[str, str]) -> dict[str, dict[str, float]] | None:
    """The logged metrics of these weights on a file; None when it was not read for them."""
    for reading in read_log(folder):
        is_it = reading["sha256"] == sha256 and reading.get("weights") == weights
        if is_it and not any(map(tuned_on_test, reading["metrics"].values())):
            return dict(reading["metrics"])
    return None


def tuned_on_test(metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are from an older version, which chose the null threshold on the test file itself."""
    return "test/null_threshold" in metrics


class Reading(TypedDict):
    """A line of the log of a sweep. In those of `evaluate` and `compare`, `metrics` has the values themselves."""

    sha256: str
    metrics: dict[str, dict[str, float]]
    weights: NotRequired[dict[str, str]]


def read_log(folder: Path) -> list[Reading]:
    """All readings in the log, oldest first; a line torn by a crash is skipped.

    Raises:
        InputError: a line is not what was written.
    """
    path = folder / TEST_SET_LOG
    found: list[Reading] = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], start=1):
        if not re.search(_WHOLE, line):
            continue
        try:
            found.append(cast(Reading, unsealed_line(line)))
            found[-1]["sha256"]
        except (ValueError, LookupError) as error:
            raise InputError(
                "the record of a reading is damaged",
                where=f"{path}:{number}",
                fix="remove the line to go on without it",
            ) from error
    return found
