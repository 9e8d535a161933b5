"""Which class a value of a label column stands for, however it is written, and what the labels of a file are."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from kobert_core.tasks.labelled_texts.cells import labels_in
from kobert_core.texts import composed, distinct, plain_or_distinct

LABELS_SHOWN = 20
MAX_INFERRED = 1000
"""Classes, at most, that are taken from a file."""
MANY_VALUES = 20
"""A column that has more values than these, and more than half as many as there are rows, holds no classes."""


class Classes:
    """The classes of a study, by the values of a label column.

    A value that is not written as a label is may still look like it: decomposed, with blanks around it, `2.0` for `2`
    (so pandas writes a column that had a gap), and, where the labels are those of a yes or no, `true` for `1`. It
    counts where it looks like one label only.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = list(labels)
        self._found: dict[str, int] = {label: index for index, label in enumerate(self.labels)}
        forms: list[Callable[[str], str]] = [composed, whole_number]
        if {truth(label) for label in self.labels} == {"0", "1"}:
            forms.append(truth)
        self._looks = [(form, _places(map(form, self.labels))) for form in forms]
        self._unknown: Counter[str] = Counter()

    def index(self, value: str) -> int | None:
        """The class that a value stands for. None when there is none, which is counted, or when it may be several."""
        found = self.find(value)
        if found is None and value.strip() and (value in self._unknown or len(self._unknown) < MAX_INFERRED):
            self._unknown[value] += 1
        return found

    def find(self, value: str) -> int | None:
        """The same, and nothing is counted."""
        if value not in self._found and value.strip():
            alike = next((places for form, known in self._looks if (places := known.get(form(value)))), [])
            if len(alike) == 1:
                self._found[value] = alike[0]
        return self._found.get(value)

    def __str__(self) -> str:
        """The labels, as messages name them."""
        shown = ", ".join(map(plain_or_distinct, self.labels[:LABELS_SHOWN]))
        return shown + (", …" if len(self.labels) > LABELS_SHOWN else "")

    def advice(self, known: int, bad: int, column: str) -> str | None:
        """What to do about values that stand for no class, if they are why most of the `bad` rows are bad.

        Args:
            known: the number of rows whose label stands for a class.
            bad: the number of rows that were set aside.
            column: the name of the label column.
        """
        if 2 * self._unknown.total() <= bad:
            return None
        some = self._unknown.most_common(LABELS_SHOWN)
        there = ", ".join(f"{distinct(value)} ({count:,})" for value, count in some)
        if len(self._unknown) > LABELS_SHOWN:
            return f"the label column {column!r} has {there}, …: check `data.label_column` and `data.labels`"
        if known:
            return f"the label column {column!r} also has {there}: `data.labels` must name them, too"
        labels = json.dumps(in_order(set(map(whole_number, self._unknown))), ensure_ascii=False)
        there = f"the label column {column!r} has {there}"
        return f"{there}: a study reads them with `data.labels: {labels}`, or with `data.labels: infer`"


class LabelCounts:
    """The values of a label column, as they are read."""

    def __init__(self) -> None:
        self.rows, self.counts = 0, Counter[str]()

    def add(self, values: Iterable[str]) -> None:
        """One row more, with its labels."""
        self.rows += 1
        self.counts.update(label for value in values if (label := whole_number(value)))

    def labels(self) -> list[str]:
        """All of them, in order.

        Raises:
            ValueError: they are no classes; it says what they are.
        """
        counts = self.counts
        shown = ", ".join(map(distinct, itertools.islice(counts, 3)))
        if len(counts) > MAX_INFERRED:
            raise ValueError(f"more than {MAX_INFERRED:,} values ({shown}, …)")
        if len(counts) < 2:
            raise ValueError(f"{f'{shown} alone' if counts else 'no values'}, and classes are at least two")
        if len(counts) > max(MANY_VALUES, self.rows // 2):
            raise ValueError(f"{len(counts):,} values in {self.rows:,} rows ({shown}, …), as an id has")
        numbers = [_number(label) for label in counts]
        if None not in numbers and any(number % 1 for number in numbers if number is not None):
            raise ValueError(f"fractions ({shown}, …), which are no classes")
        return in_order(counts)


def label_set(values: Sequence[object], separator: str, no_label: str | None) -> list[str]:
    """The labels of a row from its cells, as `labels_in` has them, without what stands for none."""
    found = [label for value in values for label in labels_in(value, separator)]
    return found if no_label is None else [one for one in found if whole_number(one) != whole_number(no_label)]


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels as people would put them: numbers by size, then all else by code point."""

    def place(label: str) -> tuple[bool, float, str]:
        number = _number(label)
        return number is None, number or 0.0, label

    return sorted(labels, key=place)


def whole_number(value: str) -> str:
    """A text as it looks; a whole number without the zeros behind its point."""
    value = composed(value)
    match = re.fullmatch(r"(-?(?:0|[1-9][0-9]{0,14}))\.0*", value)
    return str(int(match[1])) if match else value


def truth(value: str) -> str:
    """A text as it looks; `true` and `false` as the numbers that they are."""
    value = whole_number(value)
    return {"true": "1", "false": "0"}.get(value.lower(), value)


def _places(forms: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, form in enumerate(forms):
        found.setdefault(form, []).append(place)
    return found


def _number(value: str) -> float | None:
    """The number that a text is, if it is one as data has them."""
    return float(value) if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?", value) else None
