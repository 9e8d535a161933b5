"""One label a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from kobert_core.tasks.labelled_texts.cells import as_string
from kobert_core.tasks.labelled_texts.labels import Classes
from kobert_core.texts import distinct


class ClassIndices:
    """The class index of each row."""

    dtype: ClassVar[type] = np.int64
    width: ClassVar[tuple[int, ...]] = ()

    def __init__(self, labels: Iterable[str], column: str) -> None:
        """`labels` as they stand in the label column, in the order of the class indices."""
        self._classes, self._column = Classes(labels), column

    def of(self, values: Sequence[object]) -> int | None:
        return self._classes.index(as_string(values[0]))

    def problem(self, values: Sequence[object]) -> str:
        label = as_string(values[0])
        if not label.strip():
            return "missing label"
        return f"label {distinct(label)} is none of {self._classes} (`data.labels`)"

    def advice(self, usable: int, bad: int) -> str | None:
        return self._classes.advice(usable, bad, self._column)
