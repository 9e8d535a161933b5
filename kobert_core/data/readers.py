"""Files to rows. A row that cannot be used is set aside with its line and its reason, never silently."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kobert_core.data.formats import BOM, Record, character_problem, read_table
from kobert_core.errors import InputError

PLACES_SHOWN = 5
NAMES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that hold text, label and id."""

    text: str = "document"
    label: str = "label"
    id: str | None = "id"
    """None: rows are named by their number. The default may be missing from a file, any other may not."""


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside."""

    line: int
    """Where it starts: line of the file from 1, header counted. In Parquet the number of the row from 1."""
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The usable rows of a file, in its order, and the rows that were set aside."""

    path: Path
    sha256: str
    """Of the whole file."""
    ids: list[str]
    texts: list[str]
    """As they stand in the file, not stripped."""
    labels: npt.NDArray[np.int64]
    """Class index of each row, shape (rows,); shape (0,) when read without labels."""
    lines: list[int]
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
    path: str | Path,
    *,
    columns: Columns,
    labels: Mapping[str, str] | None,
    labelled: bool = True,
    max_bad_fraction: float = 0.01,
) -> Rows:
    """Read a file of texts: tab-separated without quoting (.tsv, .txt), CSV, JSON Lines or Parquet.

    Args:
        path: the file; its suffix names the format.
        columns: the columns to read.
        labels: value in the file → name of the class; the order gives the class indices. Numbers and
            booleans of JSON and Parquet stand for the string of their integer: 1, 1.0 and true are "1".
        labelled: False reads texts to predict: labels are not looked at, and since every text that
            is there must get its prediction, ids may also be empty or repeated.
        max_bad_fraction: a larger share of bad rows is an error.

    Raises:
        InputError: the file cannot be read, has no usable row, lacks a column or has too many bad rows.
        ValueError: no `labels` for a labelled file, or `max_bad_fraction` outside [0, 1].
    """
    if labelled and not labels:
        raise ValueError(f"`labels` must name the classes of a labelled file, but got {labels!r}.")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"`0 <= max_bad_fraction <= 1` must hold, but got {max_bad_fraction}.")
    path = Path(path)
    raw = _read_bytes(path)
    names, records = read_table(raw, path, {columns.text, columns.label, columns.id or ""})
    text_at = _position(names, columns.text, "text", path)
    label_at = _position(names, columns.label, "label", path) if labelled else None
    id_at = None
    if columns.id is not None and (columns.id in names or columns.id != Columns.id):
        id_at = _position(names, columns.id, "id", path)
    classes = {value: index for index, value in enumerate(labels or ())} if labelled else None

    rows = Rows(
        path=path,
        sha256=hashlib.sha256(raw).hexdigest(),
        ids=[],
        texts=[],
        labels=np.array([], dtype=np.int64),
        lines=[],
        bad=[],
    )
    rows = _fill(rows, _pick(records, text_at, label_at, id_at), classes)
    _check_bad(rows, max_bad_fraction)
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file", where=path) from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, fix="give a file") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    if not raw.removeprefix(BOM).strip():
        raise InputError("is empty", where=path)
    return raw


def _position(names: Sequence[str], wanted: str, role: str, path: Path) -> int:
    if names.count(wanted) == 1:
        return names.index(wanted)
    if wanted in names:
        raise InputError(f"the {role} column {wanted!r} is there {names.count(wanted)} times", where=path)
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    there = ", ".join(map(repr, names[:NAMES_SHOWN])) + (", …" if len(names) > NAMES_SHOWN else "")
    raise InputError(f"no {role} column {wanted!r}{hint}; the columns are {there}", where=path)


def _pick(
    records: Iterable[Record], text_at: int, label_at: int | None, id_at: int | None
) -> Iterator[tuple[int, tuple[Any, str, str] | str]]:
    """Line, and text, label and id of each record; the id is the record's number where the file has none."""
    for number, (line, values) in enumerate(records, start=1):
        if isinstance(values, str):
            yield line, values
        else:
            label = None if label_at is None else values[label_at]
            row_id = number if id_at is None else values[id_at]
            yield line, (values[text_at], _as_string(label), _as_string(row_id))


def _as_string(value: Any) -> str:
    """A label or id as it would stand in a text file; nothing there is an empty string."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is how pandas writes a missing number
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _fill(
    empty: Rows,
    picked: Iterable[tuple[int, tuple[Any, str, str] | str]],
    classes: Mapping[str, int] | None,
) -> Rows:
    """The rows with every record either taken in or set aside; `classes` None means without labels."""
    texts, ids, lines, labels, bad = [], [], [], [], []
    line_of_id: dict[str, int] = {}
    for line, values in picked:
        if isinstance(values, str):
            bad.append(BadRow(line, values))
            continue
        text, label, row_id = values
        problem = _text_problem(text)
        if problem is None and classes is not None:
            problem = _label_problem(label, classes) or _id_problem(row_id, line_of_id)
        if problem is not None:
            bad.append(BadRow(line, problem))
            continue
        if classes is not None:
            line_of_id[row_id] = line
            labels.append(classes[label])
        texts.append(text)
        ids.append(row_id)
        lines.append(line)
    return replace(empty, ids=ids, texts=texts, labels=np.array(labels, dtype=np.int64), lines=lines, bad=bad)


def _text_problem(text: Any) -> str | None:
    if text is None:
        return "missing text"
    if not isinstance(text, str):
        return f"text is not a string but {type(text).__name__}"
    return character_problem(text) if text.strip() else "empty text"


def _label_problem(label: str, classes: Mapping[str, int]) -> str | None:
    if label in classes:
        return None
    if not label.strip():
        return "missing label"
    known = ", ".join(list(classes)[:NAMES_SHOWN]) + (", …" if len(classes) > NAMES_SHOWN else "")
    return f"label {label[:40]!r} is none of {known}"


def _id_problem(row_id: str, line_of_id: Mapping[str, int]) -> str | None:
    if row_id in line_of_id:
        return f"id {row_id!r} is already on line {line_of_id[row_id]}"
    return character_problem(row_id) if row_id.strip() else "missing id"


def _check_bad(rows: Rows, max_bad_fraction: float) -> None:
    bad, total = len(rows.bad), len(rows) + len(rows.bad)
    if total == 0:
        raise InputError("has no rows", where=rows.path)
    if len(rows) and bad / total <= max_bad_fraction:
        return
    places = "; ".join(map(str, rows.bad[:PLACES_SHOWN])) + ("; …" if bad > PLACES_SHOWN else "")
    other_encoding = 2 * sum(row.reason == "broken UTF-8" for row in rows.bad) > bad
    shares = f"{bad / total:.2%}, at most {max_bad_fraction:.2%} may be"
    raise InputError(
        f"{bad:,} of {total:,} rows are bad ({shares}): {places}",
        where=rows.path,
        fix="write the file as UTF-8" if other_encoding else None,
    )
