"""What a teacher says of texts, as `predict` writes it: targets beside the labels, or in their place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from kobert_core.data.batching import IGNORED
from kobert_core.data.source import Source
from kobert_core.models.distillation import LEAST
from kobert_core.tasks.labelled_texts.answers import PROBABILITY
from kobert_core.tasks.labelled_texts.cells import as_string
from kobert_core.tasks.labelled_texts.columns import Columns
from kobert_core.tasks.labelled_texts.model import ProblemType
from kobert_core.tasks.labelled_texts.rows import Rows, row_chunks
from kobert_core.texts import distinct

SCORE = "score"
LARGEST = float(np.finfo(np.float32).max)
TOLERANCE = 0.01
"""How far from 1 the probabilities of all classes may add up to, which are rounded."""


class SoftTargets:
    """The probabilities of a row, or its number, as `Targets` are read."""

    dtype: ClassVar[type] = np.float32

    def __init__(self, names: Sequence[str], problem_type: ProblemType) -> None:
        """`names` of what the student has a logit for, in their order."""
        self.is_number = problem_type == "regression"
        self._add_up = problem_type == "single_label_classification"
        self.columns = (SCORE,) if self.is_number else tuple(f"{PROBABILITY}{name}" for name in names)

    @property
    def width(self) -> tuple[int, ...]:
        return (len(self.columns),)

    def of(self, values: Sequence[object]) -> list[float] | None:
        numbers = [_number(value) for value in values]
        return numbers if self._problem(numbers) is None else None

    def problem(self, values: Sequence[object]) -> str:
        numbers = [_number(value) for value in values]
        at = self._problem(numbers)
        assert at is not None
        if at == len(numbers):
            return f"the probabilities add up to {sum(numbers):.4g}, not to 1"
        wanted = "number" if self.is_number else "probability"
        return f"{distinct(as_string(values[at]))} in the column {self.columns[at]!r} is no {wanted}"

    def advice(self, usable: int, bad: int) -> str | None:
        return "give what `kobert-tune predict` or `distill` wrote"

    def _problem(self, numbers: Sequence[float]) -> int | None:
        """The place of a number that cannot be used, or one more than there are where it is their sum."""
        for at, number in enumerate(numbers):
            if not abs(number) <= LARGEST or not (self.is_number or 0 <= number <= 1):
                return at
        wrong_sum = self._add_up and abs(sum(numbers) - 1) > TOLERANCE
        return len(numbers) if wrong_sum else None


def _number(value: object) -> float:
    try:
        return float(as_string(value))
    except ValueError:
        return math.nan


def read_soft_labels(file: Source, targets: SoftTargets, *, of_pairs: bool, max_bad_fraction: float) -> Iterator[Rows]:
    """The rows of a file of predictions, in parts; their labels are what the teacher says, shape (rows, classes).

    Raises:
        InputError: the file cannot be read, has no such columns, or too many rows that cannot be used.
    """
    columns = Columns(text="text", pair="pair" if of_pairs else None, labels=targets.columns, id=None)
    return row_chunks(file, columns=columns, targets=targets, max_bad_fraction=max_bad_fraction)


def no_labels(count: int, like: np.ndarray) -> np.ndarray:
    """So many labels that no loss counts, in the place of such ones."""
    nothing: float = IGNORED if like.dtype.kind == "i" else math.nan
    return np.full((count, *like.shape[1:]), nothing, dtype=like.dtype)


def looked_up(digests: np.ndarray, taught: np.ndarray, soft_labels: np.ndarray) -> np.ndarray:
    """What the teacher says of some texts, NaN where it says nothing: float32, shape (texts, classes).

    Args:
        digests: Of these texts.
        taught: Of those that the teacher saw, of which the first counts where two are the same.
        soft_labels: What it said of them, shape (those texts, classes).
    """
    order = np.argsort(taught, kind="stable")
    at = np.searchsorted(taught, digests, sorter=order).clip(max=len(taught) - 1)
    found = order[at]
    return np.where((taught[found] == digests)[:, None], soft_labels[found], np.float32(math.nan))


def as_logits(said: np.ndarray, problem_type: ProblemType) -> np.ndarray:
    """Logits that stand for what a teacher says, as scores are made from them: float32, shape (texts, classes)."""
    if problem_type == "regression":
        return said.astype(np.float32)
    probable = said.clip(LEAST, 1 - LEAST)
    of_all = 0.0 if problem_type == "single_label_classification" else np.log1p(-probable)
    logits: np.ndarray = (np.log(probable) - of_all).astype(np.float32)
    return logits
