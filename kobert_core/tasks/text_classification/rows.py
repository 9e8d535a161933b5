"""Files to rows. A row that cannot be used is set aside with its line and its reason, never silently."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kobert_core.data.dialect import DEFAULT, Dialect
from kobert_core.data.formats import Line, Record, read_table
from kobert_core.data.set_aside import check_usable, place
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.tasks.text_classification.columns import Columns
from kobert_core.tasks.text_classification.labels import MAX_INFERRED, Classes, LabelCounts
from kobert_core.texts import character_problem, composed, distinct

NAMES_SHOWN = 20
ROWS_AT_ONCE = 10_000

Picked = tuple[object, str, str]
"""Text, label and id of a record, before they are checked."""


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside."""

    line: Line
    """Where it starts: line of the file from 1, header counted. In Parquet the number of the row from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{place(self.line)}: {self.reason}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The usable rows of a file, in its order, and the rows that were set aside."""

    path: Source
    ids: list[str]
    texts: list[str]
    """As they stand in the file, not stripped."""
    labels: npt.NDArray[np.int64]
    """Class index of each row, shape (rows,); shape (0,) when read without labels."""
    lines: list[Line]
    """Where each row starts, counted as in BadRow."""
    bad: list[BadRow]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: npt.ArrayLike) -> Rows:
        """The rows with these numbers, in this order; file and bad rows stay the same."""
        chosen = np.asarray(indices, dtype=np.int64)
        numbers = chosen.tolist()
        return replace(
            self,
            ids=[self.ids[number] for number in numbers],
            texts=[self.texts[number] for number in numbers],
            labels=self.labels[chosen] if len(self.labels) else self.labels,
            lines=[self.lines[number] for number in numbers],
        )


def read_rows(
    path: Source | str | Path,
    *,
    columns: Columns,
    labels: Mapping[str, str] | None,
    labelled: bool = True,
    max_bad_fraction: float = 0.01,
    dialect: Dialect = DEFAULT,
) -> Rows:
    """Read a file of texts, or several.

    Args:
        path: the file; its suffix names the format.
        columns: the columns to read.
        labels: value in the file → name of the class; the order gives the class indices. See `Classes` for
            values that are written in another way.
        labelled: False reads texts to predict: labels are not looked at, and since every text that
            is there must get its prediction, ids may also be empty or repeated.
        max_bad_fraction: a larger share of bad rows is an error.
        dialect: how files of text are to be read.

    Raises:
        InputError: the file cannot be read, has no usable row, lacks a column or has too many bad rows.
        ValueError: no `labels` for a labelled file, or `max_bad_fraction` outside [0, 1].
    """
    (rows,) = row_chunks(
        path,
        columns=columns,
        labels=labels,
        labelled=labelled,
        max_bad_fraction=max_bad_fraction,
        dialect=dialect,
        size=None,
    )
    return rows


def row_chunks(
    path: Source | str | Path,
    *,
    columns: Columns,
    labels: Mapping[str, str] | None,
    labelled: bool = True,
    max_bad_fraction: float = 0.01,
    dialect: Dialect = DEFAULT,
    size: int | None = ROWS_AT_ONCE,
) -> Iterator[Rows]:
    """`read_rows` in parts of `size` records each: a file of any length in the same memory.

    That there are too many bad rows is known, and raised, after the last part.
    """
    if labelled and not labels:
        raise ValueError(f"`labels` must name the classes of a labelled file, but got {labels!r}.")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"`0 <= max_bad_fraction <= 1` must hold, but got {max_bad_fraction}.")
    path = Source.of(path)
    picked = _picked(path, columns, dialect, labelled=labelled)
    classes = Classes(labels) if labelled and labels else None
    line_of_id, usable, bad = dict[str, Line](), 0, list[BadRow]()
    while some := list(itertools.islice(picked, size)):
        rows = _fill(path, some, classes, line_of_id)
        usable += len(rows)
        bad.extend(rows.bad)
        yield rows
    if 2 * sum(row.reason == "broken UTF-8" for row in bad) > len(bad):
        fix: str | None = "write the file as UTF-8"
    else:
        fix = classes.advice(usable, len(bad), columns.label) if classes else None
    check_usable(path, bad, unit="rows", usable=usable, unusable=len(bad), max_bad_fraction=max_bad_fraction, fix=fix)


def infer_labels(path: Source | str | Path, columns: Columns, dialect: Dialect = DEFAULT) -> list[str]:
    """The labels that the usable rows of a file have, in order.

    Raises:
        InputError: the file cannot be read, or what is in the label column are no classes.
    """
    path, found = Source.of(path), LabelCounts()
    for _, values in _picked(path, columns, dialect, labelled=True):
        if not isinstance(values, str) and not _text_problem(values[0]) and not character_problem(values[1]):
            found.add(values[1])
            if len(found.counts) > MAX_INFERRED:
                break
    try:
        return found.labels()
    except ValueError as error:
        what = f"the label column {columns.label!r} has {error}"
        raise InputError(what, where=path, fix="check `data.label_column`, or write `data.labels` down") from error


def _picked(path: Source, columns: Columns, dialect: Dialect, *, labelled: bool) -> Iterator[tuple[Line, Picked | str]]:
    """Line, and text, label and id of each record of a file, or why there are none."""
    wanted = {columns.text} | ({columns.label} if labelled else set()) | ({columns.id} if columns.id else set())
    names, records = read_table(path, set(map(composed, wanted)), dialect)
    text_at = _position(names, columns.text, "text", path)
    label_at = _position(names, columns.label, "label", path) if labelled else None
    id_at = None
    if columns.id is not None and (columns.id != Columns.id or columns.id in map(composed, names)):
        id_at = _position(names, columns.id, "id", path)
    return _pick(records, text_at, label_at, id_at)


def _position(names: Sequence[str], wanted: str, role: str, path: Source) -> int:
    """The place of the column that has a name; else of the only one whose name looks like it."""
    for alike in (names, list(map(composed, names))):
        name = wanted if alike is names else composed(wanted)
        if alike.count(name) == 1:
            return alike.index(name)
        if name in alike:
            there = ", ".join(distinct(each) for each, looks in zip(names, alike, strict=True) if looks == name)
            raise InputError(f"the {role} column {wanted!r} is there {alike.count(name)} times: {there}", where=path)
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    there = ", ".join(map(repr, names[:NAMES_SHOWN])) + (", …" if len(names) > NAMES_SHOWN else "")
    raise InputError(f"no {role} column {wanted!r}{hint}; the columns are {there}", where=path)


def _pick(
    records: Iterable[Record], text_at: int, label_at: int | None, id_at: int | None
) -> Iterator[tuple[Line, Picked | str]]:
    """Line, and text, label and id of each record; the id is the record's number where the file has none."""
    for number, (line, values) in enumerate(records, start=1):
        if isinstance(values, str):
            yield line, values
        else:
            label = None if label_at is None else values[label_at]
            row_id = number if id_at is None else values[id_at]
            yield line, (values[text_at], _as_string(label), _as_string(row_id))


def _as_string(value: object) -> str:
    """A label or id as it would stand in a text file; nothing there is an empty string."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is how pandas writes a missing number
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _fill(
    path: Source, picked: Iterable[tuple[Line, Picked | str]], classes: Classes | None, line_of_id: dict[str, Line]
) -> Rows:
    """The rows, with every record either taken in or set aside; `classes` None means without labels.

    `line_of_id` are the ids of the rows that were taken in before, to which these are added.
    """
    texts, ids, lines, labels, bad = [], [], [], [], []
    for line, values in picked:
        if isinstance(values, str):
            bad.append(BadRow(line, values))
            continue
        text, label, row_id = values
        problem = _text_problem(text)
        if problem is None and classes is not None:
            index = classes.index(label)
            problem = _label_problem(label, classes) if index is None else _id_problem(row_id, line_of_id)
        if problem is not None:
            bad.append(BadRow(line, problem))
            continue
        if classes is not None:
            line_of_id[row_id] = line
            labels.append(index)
        texts.append(str(text))
        ids.append(row_id)
        lines.append(line)
    return Rows(path=path, ids=ids, texts=texts, labels=np.array(labels, dtype=np.int64), lines=lines, bad=bad)


def _text_problem(text: object) -> str | None:
    if text is None:
        return "missing text"
    if not isinstance(text, str):
        return f"text is not a string but {type(text).__name__}"
    return character_problem(text) if text.strip() else "empty text"


def _label_problem(label: str, classes: Classes) -> str:
    return f"label {distinct(label)} is none of {classes} (`data.labels`)" if label.strip() else "missing label"


def _id_problem(row_id: str, line_of_id: Mapping[str, Line]) -> str | None:
    if row_id in line_of_id:
        return f"id {row_id!r} is already on {place(line_of_id[row_id])}"
    return character_problem(row_id) if row_id.strip() else "missing id"
