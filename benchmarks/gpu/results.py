"""How a part says what it found: a line at once, and a line of JSON in the results file."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Bar:
    """What a figure must reach."""

    at_least: float | None = None
    at_most: float | None = None

    def reached(self, value: float) -> bool:
        """NaN reaches nothing."""
        low = self.at_least is None or value >= self.at_least
        return math.isfinite(value) and low and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        parts = [f">= {self.at_least:g}"] if self.at_least is not None else []
        return " and ".join([*parts, *([f"<= {self.at_most:g}"] if self.at_most is not None else [])])


class Results:
    """The results of one part."""

    def __init__(self, part: str, folder: Path) -> None:
        self.part, self.folder = part, folder

    def tell(self, name: str, value: float | str, *, unit: str = "", bar: Bar | None = None, **more: Any) -> None:
        """Print a result and append it to the file; `more` are JSON values, and a `note` for people."""
        record: dict[str, Any] = {"part": self.part, "name": name, "value": value, "unit": unit}
        if bar is not None:
            reached = not isinstance(value, str) and bar.reached(float(value))
            record |= {"bar": str(bar), "reached": reached}
        append(self.folder, record | more)

    def missing(self, name: str, why: str) -> None:
        """A result that could not be had."""
        append(self.folder, {"part": self.part, "name": name, "missing": why})

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Around a piece of a part: what is raised in it costs this piece alone, unless the device is lost by it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            append(self.folder, {"part": self.part, "name": name, "error": _first_line(error)})
            if "CUDA error" in str(error):  # nothing works in this process from here on
                sys.exit(1)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def append(folder: Path, record: dict[str, Any]) -> None:
    """Print a record in a line and append it to the file."""
    with open(folder / RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(in_words(record)[:220], flush=True)  # all of it is in the file


def in_words(record: dict[str, Any]) -> str:
    """A record in a line."""
    head = f"{record['part']}: {record['name']}:"
    if "error" in record:
        return f"{head} FAILED, {record['error']}"
    if "missing" in record:
        return f"{head} not measured, {record['missing']}"
    words = [head, number(record["value"]), record.get("unit", "")]
    if "bar" in record:
        words.append(f"(bar {record['bar']}: {'yes' if record['reached'] else 'NO'})")
    if note := record.get("note"):
        words.append(f"- {note}")
    return " ".join(word for word in words if word)


def number(value: float | str) -> str:
    """Three digits, or all of a large one."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def read(folder: Path) -> list[dict[str, Any]]:
    """All records of a results file; a torn last line is left out."""
    records: list[dict[str, Any]] = []
    file = folder / RESULTS
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
