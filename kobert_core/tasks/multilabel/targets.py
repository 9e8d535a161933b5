"""Any number of labels a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kobert_core.tasks.labelled_texts.cells import as_string
from kobert_core.tasks.labelled_texts.labels import Classes, label_set, truth
from kobert_core.texts import distinct


class LabelSets:
    """A 1 for each label that a row has, 0 for each other, from columns of labels."""

    dtype: ClassVar[type] = np.float32

    def __init__(self, labels: Sequence[str], columns: Sequence[str], separator: str, no_label: str | None) -> None:
        self._classes, self._columns = Classes(labels), columns
        self._separator, self._no_label = separator, no_label

    @property
    def width(self) -> tuple[int, ...]:
        return (len(self._classes.labels),)

    def of(self, values: Sequence[object]) -> list[int] | None:
        places = [self._classes.index(label) for label in self._labels(values)]
        return None if None in places else [int(place in places) for place in range(len(self._classes.labels))]

    def problem(self, values: Sequence[object]) -> str:
        unknown = (label for label in self._labels(values) if self._classes.find(label) is None)
        return f"label {distinct(next(unknown))} is none of {self._classes} (`data.labels`)"

    def advice(self, usable: int, bad: int) -> str | None:
        return self._classes.advice(usable, bad, ", ".join(self._columns))

    def _labels(self, values: Sequence[object]) -> list[str]:
        return label_set(values, self._separator, self._no_label)


MARKS = {"0", "1"}


def _mark(value: object) -> str:
    """A cell of a column of one label; an empty one is a 0."""
    return truth(as_string(value)) or "0"


class LabelColumns:
    """The same from a column for each label."""

    dtype: ClassVar[type] = np.float32

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    @property
    def width(self) -> tuple[int, ...]:
        return (len(self._columns),)

    def of(self, values: Sequence[object]) -> list[int] | None:
        marks = list(map(_mark, values))
        return [int(mark) for mark in marks] if set(marks) <= MARKS else None

    def problem(self, values: Sequence[object]) -> str:
        cells = zip(self._columns, values, strict=True)
        name, value = next((name, value) for name, value in cells if _mark(value) not in MARKS)
        return f"{distinct(as_string(value))} in the column {name!r} is neither 1 nor 0"

    def advice(self, usable: int, bad: int) -> str | None:
        return None
