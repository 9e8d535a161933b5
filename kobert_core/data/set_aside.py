"""What of a file cannot be used: how much of it is too much, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kobert_core.data.source import Source
from kobert_core.errors import InputError

PLACES_SHOWN = 20
"""Places that a list of what was set aside has at most."""
PLACES_IN_ERROR = 5
"""Places that an error names at most."""


class SetAside(Protocol):
    """Something in a file that cannot be used. As a string: where it is, and why."""

    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class BadRow:
    """A row, or a text of several lines, that was set aside."""

    line: int | str
    """Where it starts: line of the file from 1, header counted, with the file's name where there are several. In a
    format without lines the number of the row from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{place(self.line)}: {self.reason}"


def place(line: int | str) -> str:
    """A line in words: `line 3`, or `parts-2.tsv:3` where there are several files."""
    return line if isinstance(line, str) else f"line {line}"


def check_usable(
    path: Source,
    bad: Sequence[SetAside],
    *,
    unit: str,
    usable: int,
    unusable: int,
    max_bad_fraction: float,
    fix: str | None = None,
) -> None:
    """Refuse a file with too little that can be used.

    Args:
        path: The file.
        bad: What was set aside.
        unit: What a file consists of, in the plural: `rows`.
        usable: How many of them can be used.
        unusable: How many cannot.
        max_bad_fraction: The largest share that may be unusable.
        fix: What to do about it.

    Raises:
        InputError: it has nothing that can be used, or more than this share cannot.
    """
    total = usable + unusable
    if total == 0:
        raise InputError(f"has no {unit}", where=path)
    if usable and unusable / total <= max_bad_fraction:
        return
    places = "; ".join(map(str, bad[:PLACES_IN_ERROR])) + ("; …" if len(bad) > PLACES_IN_ERROR else "")
    shares = f"{unusable / total:.2%}, at most {max_bad_fraction:.2%} may be"
    counts = (
        f"{unusable:,} of {total:,} {unit} are bad ({shares})"
        if usable
        else f"none of its {total:,} {unit} can be used"
    )
    raise InputError(f"{counts}: {places}", where=path, fix=fix)
