"""Which columns of a file are meant."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_ID = "id"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that hold text, pair, labels and id.

    A file's column that has not the very name may have one that looks the same: composed or not, blanks around it.
    """

    text: str
    pair: str | None = None
    """None: a row has one text."""
    labels: tuple[str, ...] = ("label",)
    id: str | None = DEFAULT_ID
    """None: rows are named by their number. The default may be missing from a file, any other only from one without
    labels."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The one column of a text, or both of a pair."""
        return (self.text,) if self.pair is None else (self.text, self.pair)
