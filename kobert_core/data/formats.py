"""A file to its columns and records, one function a format. What the columns mean is not known here.

Parquet is read through pyarrow. Text is not read through pandas: a row that cannot be used must cost nothing but
itself, and be named by its line. pandas ends at the first broken quote or line of JSON, fills up a row with too few
fields, drops or refuses one with too many, and counts no lines where cells hold line ends. To import it takes as long
as to read 150,000 reviews.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError
from kobert_core.texts import character_problem, composed

if TYPE_CHECKING:
    import pyarrow

PARQUET_ROWS = 10_000

Record = tuple[int, Sequence[object] | str]
"""The line on which it starts, and its values in the order of the columns, or why it has none."""

Table = tuple[list[str], Iterable[Record]]
"""Names of the columns, and the records, which are read from the file as they are asked for."""


def read_table(path: Path, wanted: Collection[str]) -> Table:
    """The columns and records of a file, whose format its suffix names.

    Text is UTF-8 with or without a byte order mark; bytes that are not become lone surrogates (surrogateescape), so
    that one broken row does not cost the others.

    Args:
        path: The file.
        wanted: Columns whose values are needed, by their `composed` names; Parquet gives None for the others.

    Raises:
        InputError: the file cannot be read or is empty, its suffix is unknown, or it has no header, no JSON object, or
            is no Parquet.
    """
    _check_readable(path)
    format_of = _FORMATS.get(path.suffix.lower())
    if format_of is None:
        known = ", ".join(_FORMATS)
        raise InputError(f"unknown kind of file {path.suffix!r}", where=path, fix=f"use one of {known}")
    return format_of(path, wanted)


def read_lines(path: Path) -> Iterator[str]:
    r"""The lines of a text file that is no table, without line ends; as `read_table` reads text."""
    _check_readable(path)
    return (line.removesuffix("\r") for line in _lines(path))


def _check_readable(path: Path) -> None:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            if not any(part.strip() for part in iter(lambda: file.read(1 << 20), "")):
                raise InputError("is empty", where=path)
    except FileNotFoundError:
        raise InputError("there is no such file", where=path) from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, fix="give a file") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error


def _lines(path: Path) -> Iterator[str]:
    r"""Lines without their `\n`, which alone ends one: reviews hold `\r`, U+2028 and the like. Empty lines at the end
    of the file are left out."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        begin = file.readline()
        if character_problem(begin) is not None:
            raise InputError("the first line is not UTF-8 text", where=path, fix="write the file as UTF-8")
        empty: list[str] = []
        for line in itertools.chain([begin], file):
            if line.isspace() and not line.strip("\r\n"):
                empty.append(line[:-1])
                continue
            if empty:
                yield from empty
                empty.clear()
            yield line[:-1] if line[-1] == "\n" else line


def _tsv(path: Path, wanted: Collection[str]) -> Table:
    rows = (line.removesuffix("\r").split("\t") for line in _lines(path))
    names = next(rows)
    return names, ((number, _fields(values, len(names))) for number, values in enumerate(rows, start=2))


def _fields(values: list[str] | None, width: int) -> list[str] | str:
    """The fields of a record, or what is wrong with them."""
    if values is None:
        return "not CSV (RFC 4180)"
    if len(values) != width:
        return f"{len(values)} fields instead of {width}" if any(values) else "empty line"
    return values


def _csv(path: Path, wanted: Collection[str]) -> Table:
    records = _csv_records(_lines(path))
    _, names = next(records)
    if isinstance(names, str):
        raise InputError("the header is not CSV (RFC 4180)", where=path)
    return names, records


def _csv_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | str]]:
    """The header and the records. A quote that is never closed swallows good rows: where the fields do not come out
    right, only the first line is given up, and reading goes on with the second."""
    ahead: deque[str] = deque()

    def take(taken: list[str]) -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            taken.append(line)
            yield line + "\n"

    at, width = 1, 0
    while True:
        taken: list[str] = []
        first = next(take(taken), None)
        if first is None:
            return
        values: list[str] | None = taken[0].removesuffix("\r").split(",")
        if '"' in first:
            try:
                values = next(csv.reader(itertools.chain([first], take(taken)), strict=True))
            except csv.Error:
                values = None
        width = width or len(values or ())
        fields = _fields(values, width)
        yield at, fields
        used = 1 if isinstance(fields, str) else len(taken)
        ahead.extendleft(reversed(taken[used:]))
        at += used


def _json_lines(path: Path, wanted: Collection[str]) -> Table:
    names: dict[str, None] = {}
    for item in map(_json_object, _lines(path)):
        if isinstance(item, dict) and not item.keys() <= names.keys():
            names |= dict.fromkeys(item)
            if set(wanted) <= set(map(composed, names)):
                break
    if not names:
        raise InputError("no line is a JSON object", where=path, fix="write one object a line")
    return list(names), (
        (number, item if isinstance(item, str) else [item.get(name) for name in names])
        for number, item in enumerate(map(_json_object, _lines(path)), start=1)
    )


def _json_object(line: str) -> dict[str, object] | str:
    if not line.strip():
        return "empty line"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return character_problem(line) or "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _parquet(path: Path, wanted: Collection[str]) -> Table:
    import pyarrow.parquet

    with _parquet_errors(path):
        file = pyarrow.parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)

    def rows() -> Iterator[Sequence[object]]:
        needed = [name for name in names if composed(name) in wanted]
        with _parquet_errors(path):
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=needed):
                columns = {name: _parquet_values(batch.column(name)) for name in needed}
                nothing = [None] * batch.num_rows
                yield from zip(*(columns.get(name, nothing) for name in names), strict=True)

    return names, enumerate(rows(), start=1)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for a damaged file pyarrow raises all kinds of exceptions, not only its own
        raise InputError(f"is not a Parquet file ({error})", where=path) from error


def _parquet_values(column: pyarrow.Array) -> list[object]:
    import pyarrow.types

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast("large_binary")  # to_pylist would stop at the first broken string
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in column.to_pylist()
    ]


_FORMATS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".tsv": _tsv,
    ".txt": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json-lines": _json_lines,
    ".parquet": _parquet,
}
