"""How far long work has come, told to whoever wants to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as often as there is something new."""

    def __call__(self, work: str, done: int, total: int | None = None, /) -> object:
        """So much of some work is done: rows, examples or steps. It ends with `done == total`, or with other work;
        without `total` nobody knows how much there is."""
        ...


def unseen(work: str, done: int, total: int | None = None, /) -> None:
    """Nobody looks on."""
