"""Which columns of a file are meant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that hold text, label and id.

    A file's column that has not the very name may have one that looks the same: composed or not, blanks around it.
    """

    text: str = "document"
    label: str = "label"
    id: str | None = "id"
    """None: rows are named by their number. The default may be missing from a file, any other may not."""
