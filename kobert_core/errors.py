"""The one exception for bad input from a user."""

from __future__ import annotations

from kobert_core.texts import printable


def reason_of(error: Exception) -> str:
    """The kind of an error of a library, and the first line of what it says."""
    first_line, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {first_line}"


class InputError(ValueError):
    """A user gave something that cannot be used: what it is, where it stands and what would be right.

    The command line prints it as one line and exits with code 2.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        line = f"{where}: {what}" if where is not None else what
        super().__init__(printable(" ".join((f"{line}; {fix}" if fix else line).split())))
