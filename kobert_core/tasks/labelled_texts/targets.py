"""What stands in the label columns of a row, as the number or numbers that a model learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Targets(Protocol):
    """How the labels of one file are read. It remembers what it could not read, to say what to do about it."""

    @property
    def dtype(self) -> npt.DTypeLike:
        """Of a target."""
        ...

    @property
    def width(self) -> tuple[int, ...]:
        """The shape of the target of one row."""
        ...

    def of(self, values: Sequence[object], /) -> object:
        """The target of a row, from the values of its label columns; None when they give none."""
        ...

    def problem(self, values: Sequence[object], /) -> str:
        """Why these values give none."""
        ...

    def advice(self, usable: int, bad: int, /) -> str | None:
        """What to do, if labels are why most of the `bad` rows are bad."""
        ...


def as_array(targets: Targets, values: Sequence[object]) -> npt.NDArray[np.generic]:
    """The targets of many rows, shape (rows, …)."""
    return np.array(values, dtype=targets.dtype).reshape(len(values), *targets.width)
