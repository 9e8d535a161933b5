"""Files to rows. A row that cannot be used is set aside with its line and its reason, never silently."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kobert_core.data.arrow_tables import ROWS_AT_ONCE
from kobert_core.data.dialect import DEFAULT, Dialect
from kobert_core.data.formats import Line, Record, read_table
from kobert_core.data.set_aside import BadRow, check_usable, place
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.tasks.labelled_texts.cells import as_string, one_label
from kobert_core.tasks.labelled_texts.columns import DEFAULT_ID, Columns
from kobert_core.tasks.labelled_texts.labels import MAX_INFERRED, LabelCounts
from kobert_core.tasks.labelled_texts.targets import Targets, as_array
from kobert_core.texts import character_problem, composed, distinct, text_problem

NAMES_SHOWN = 20


class Picked(NamedTuple):
    """What is read of a record, before it is checked."""

    texts: Sequence[object]
    labels: Sequence[object]
    id: str
    others: dict[str, object] | None
    """The values of all other columns, where they are kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The usable rows of a file, in its order, and the rows that were set aside."""

    path: Source
    ids: list[str]
    texts: list[str]
    """As they stand in the file, not stripped."""
    pairs: list[str] | None
    """The second text of each row; None where a row has one."""
    labels: npt.NDArray[np.generic]
    """Target of each row, shape (rows, …); shape (0,) when read without labels."""
    lines: list[Line]
    """Where each row starts, counted as in BadRow."""
    bad: list[BadRow]
    kept: list[dict[str, object]] | None = None
    """Of each row the values of the other columns, where they are kept."""

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
            pairs=None if self.pairs is None else [self.pairs[number] for number in numbers],
            labels=self.labels[chosen] if len(self.labels) else self.labels,
            lines=[self.lines[number] for number in numbers],
            kept=None if self.kept is None else [self.kept[number] for number in numbers],
        )


def read_rows(
    path: Source | str | Path,
    *,
    columns: Columns,
    targets: Targets | None,
    max_bad_fraction: float = 0.01,
    dialect: Dialect = DEFAULT,
) -> Rows:
    """Read a file of texts, or several.

    Args:
        path: the file; its suffix names the format.
        columns: the columns to read.
        targets: reads the labels. None reads texts to predict: labels are not looked at, and since every text that
            is there must get its prediction, ids may also be empty or repeated.
        max_bad_fraction: a larger share of bad rows is an error.
        dialect: how files of text are to be read.

    Raises:
        InputError: the file cannot be read, has no usable row, lacks a column or has too many bad rows.
        ValueError: `max_bad_fraction` outside [0, 1].
    """
    (rows,) = row_chunks(
        path, columns=columns, targets=targets, max_bad_fraction=max_bad_fraction, dialect=dialect, size=None
    )
    return rows


def row_chunks(
    path: Source | str | Path,
    *,
    columns: Columns,
    targets: Targets | None,
    max_bad_fraction: float = 0.01,
    dialect: Dialect = DEFAULT,
    size: int | None = ROWS_AT_ONCE,
    keep_columns: bool = False,
) -> Iterator[Rows]:
    """`read_rows` in parts of `size` records each: a file of any length in the same memory. The other columns can be
    kept beside.

    That there are too many bad rows is known, and raised, after the last part.
    """
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"`0 <= max_bad_fraction <= 1` must hold, but got {max_bad_fraction}.")
    path = Source.of(path)
    picked = _picked(path, columns, dialect, labelled=targets is not None, keep_columns=keep_columns)
    line_of_id, usable, bad = dict[str, Line](), 0, list[BadRow]()
    for first in picked:
        some = itertools.chain([first], itertools.islice(picked, None if size is None else size - 1))
        rows = _fill(path, some, columns, targets, line_of_id)
        usable += len(rows)
        bad.extend(rows.bad)
        yield rows
    fix = _advice(bad, columns) or (targets.advice(usable, len(bad)) if targets else None)
    check_usable(path, bad, unit="rows", usable=usable, unusable=len(bad), max_bad_fraction=max_bad_fraction, fix=fix)


def _advice(bad: Sequence[BadRow], columns: Columns) -> str | None:
    """What to do, where one thing is why most of the bad rows are bad."""
    if 2 * sum(row.reason == "broken UTF-8" for row in bad) > len(bad):
        return "write the file as UTF-8"
    if 2 * sum(row.reason.startswith("id ") for row in bad) > len(bad):
        return f"if the column {columns.id!r} names no rows, write `data.id_column: null`"
    return None


def infer_labels(
    path: Source | str | Path,
    columns: Columns,
    labels_of: Callable[[Sequence[object]], Iterable[str]] = one_label,
    dialect: Dialect = DEFAULT,
) -> list[str]:
    """The labels that the usable rows of a file have, in order.

    Args:
        path: the file.
        columns: its columns.
        labels_of: gives the labels of a row from the values of its label columns.
        dialect: how files of text are to be read.

    Raises:
        InputError: the file cannot be read, or what is in the label column are no classes.
    """
    path, found = Source.of(path), LabelCounts()
    for _, values in _picked(path, columns, dialect, labelled=True):
        if isinstance(values, str) or any(map(text_problem, values.texts)):
            continue
        labels = list(labels_of(values.labels))
        if not any(map(character_problem, labels)):
            found.add(labels)
            if len(found.counts) > MAX_INFERRED:
                break
    try:
        return found.labels()
    except ValueError as error:
        what = f"the label column {columns.labels[0]!r} has {error}"
        raise InputError(what, where=path, fix="check `data.label_column`, or write `data.labels` down") from error


def _picked(
    path: Source, columns: Columns, dialect: Dialect, *, labelled: bool, keep_columns: bool = False
) -> Iterator[tuple[Line, Picked | str]]:
    """Line, and texts, labels and id of each record of a file, or why there are none."""
    labels = columns.labels if labelled else ()
    wanted = set(map(composed, [*columns.texts, *labels, *([columns.id] if columns.id else [])]))
    names, records = read_table(path, wanted, dialect)
    if keep_columns:
        names, records = read_table(path, set(map(composed, names)), dialect)
    text_at = [_position(names, name, role, path) for name, role in zip(columns.texts, ("text", "pair"), strict=False)]
    labels_at = [_position(names, name, "label", path) for name in labels]
    id_at = None
    is_asked_for = labelled and columns.id != DEFAULT_ID  # texts to predict need no names
    if columns.id is not None and (is_asked_for or composed(columns.id) in map(composed, names)):
        id_at = _position(names, columns.id, "id", path)
    read = {*text_at, *labels_at, id_at}
    others = {name: at for at, name in enumerate(names) if at not in read} if keep_columns else None
    return _pick(records, text_at, labels_at, id_at, others)


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
    records: Iterable[Record],
    text_at: Sequence[int],
    labels_at: Sequence[int],
    id_at: int | None,
    others: Mapping[str, int] | None,
) -> Iterator[tuple[Line, Picked | str]]:
    """Line, and texts, labels and id of each record; the id is the record's number where the file has none."""
    for number, (line, values) in enumerate(records, start=1):
        if isinstance(values, str):
            yield line, values
        else:
            row_id = number if id_at is None else values[id_at]
            texts, labels = [values[at] for at in text_at], [values[at] for at in labels_at]
            kept = None if others is None else {name: values[at] for name, at in others.items()}
            yield line, Picked(texts, labels, as_string(row_id), kept)


def _fill(
    path: Source,
    picked: Iterable[tuple[Line, Picked | str]],
    columns: Columns,
    targets: Targets | None,
    line_of_id: dict[str, Line],
) -> Rows:
    """The rows, with every record either taken in or set aside; `targets` None means without labels.

    `line_of_id` are the ids of the rows that were taken in before, to which these are added.
    """
    texts: list[list[str]] = [[] for _ in columns.texts]
    ids, lines, labels, bad, kept = [], [], [], [], []
    for line, values in picked:
        if isinstance(values, str):
            bad.append(BadRow(line, values))
            continue
        parts, row_labels, row_id, others = values
        problem = texts_problem(parts)
        if problem is None and targets is not None:
            target = targets.of(row_labels)
            problem = targets.problem(row_labels) if target is None else _id_problem(row_id, line_of_id)
        if problem is not None:
            bad.append(BadRow(line, problem))
            continue
        if targets is not None:
            line_of_id[row_id] = line
            labels.append(target)
        for part, text in zip(texts, parts, strict=True):
            part.append(str(text))
        ids.append(row_id)
        lines.append(line)
        if others is not None:
            kept.append(others)
    return Rows(
        path=path,
        ids=ids,
        texts=texts[0],
        pairs=texts[1] if len(texts) > 1 else None,
        labels=np.zeros(0, dtype=np.int64) if targets is None else as_array(targets, labels),
        lines=lines,
        bad=bad,
        kept=kept or None,
    )


def texts_problem(texts: Sequence[object]) -> str | None:
    """Why a text, or a pair of them, cannot be used, if so."""
    problem = text_problem(texts[0])
    if problem is None and len(texts) > 1:
        problem = text_problem(texts[1], "pair")
    return problem


def _id_problem(row_id: str, line_of_id: Mapping[str, Line]) -> str | None:
    if row_id in line_of_id:
        return f"id {row_id!r} is already on {place(line_of_id[row_id])}"
    return character_problem(row_id) if row_id.strip() else "missing id"
