"""One number a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kobert_core.tasks.labelled_texts.cells import as_string
from kobert_core.texts import distinct

SHOWN = 5


class Numbers:
    """The number of each row, as float32."""

    dtype: ClassVar[type] = np.float32
    width: ClassVar[tuple[int, ...]] = ()

    def __init__(self, column: str) -> None:
        self._column, self._unknown = column, Counter[str]()

    def of(self, values: Sequence[object]) -> float | None:
        text = as_string(values[0])
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if np.isfinite(np.float32(number)):
            return number
        if text.strip():
            self._unknown[text] += 1
        return None

    def problem(self, values: Sequence[object]) -> str:
        text = as_string(values[0])
        return f"label {distinct(text)} is no number" if text.strip() else "missing label"

    def advice(self, usable: int, bad: int) -> str | None:
        if 2 * self._unknown.total() <= bad:
            return None
        there = ", ".join(f"{distinct(value)} ({count:,})" for value, count in self._unknown.most_common(SHOWN))
        return (
            f"the label column {self._column!r} has {there}: check `data.label_column`, or take `task: classification`"
        )
