"""Bytes of a file to its columns and records: one function a format. Their meaning is not known here."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError

BOM = b"\xef\xbb\xbf"

Record = tuple[int, Sequence[Any] | str]
"""The line on which it starts, and its values in the order of the columns, or why it is none."""

Table = tuple[list[str], Iterable[Record]]
"""Names of the columns, and the records."""


def read_table(raw: bytes, path: Path, wanted: Collection[str]) -> Table:
    """The columns and records of a file, whose format its suffix names.

    Text is UTF-8 with or without a byte order mark; bytes that are none become lone surrogates
    (surrogateescape), so that one broken row does not cost the others.

    Args:
        raw: the whole file.
        path: where it was read from, for its suffix and for messages.
        wanted: columns whose values are needed; of the others Parquet gives None.

    Raises:
        InputError: unknown suffix, or no header, object or Parquet table in it.
    """
    format_of = _FORMATS.get(path.suffix.lower())
    if format_of is None:
        known = ", ".join(_FORMATS)
        raise InputError(f"unknown kind of file {path.suffix!r}", where=path, fix=f"use one of {known}")
    return format_of(raw, path, wanted)


def character_problem(value: str) -> str | None:
    """What keeps a string from being ordinary text, if anything."""
    if "\0" in value:
        return "NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:  # from surrogateescape, or a lone surrogate spelt out in JSON
        return "broken UTF-8"
    return None


def _lines(raw: bytes, path: Path) -> list[str]:
    r"""Lines without their `\n`; empty lines at the end are no lines.

    Not str.splitlines: reviews hold U+2028, U+0085 and other characters that end a line there.
    """
    lines = raw.removeprefix(BOM).rstrip(b"\r\n").decode("utf-8", "surrogateescape").split("\n")
    if character_problem(lines[0]) is not None:
        raise InputError("the first line is not UTF-8 text", where=path, fix="write the file as UTF-8")
    return lines


def _fields_problem(values: Sequence[str], names: Sequence[str]) -> str:
    return f"{len(values)} fields instead of {len(names)}" if any(values) else "empty line"


def _tsv(raw: bytes, path: Path, wanted: Collection[str]) -> Table:
    lines = [line.removesuffix("\r").split("\t") for line in _lines(raw, path)]
    names = lines[0]
    return names, (
        (number, values if len(values) == len(names) else _fields_problem(values, names))
        for number, values in enumerate(lines[1:], start=2)
    )


def _csv(raw: bytes, path: Path, wanted: Collection[str]) -> Table:
    lines = _lines(raw, path)
    names, first = _csv_record(lines, 0)
    if names is None:
        raise InputError("the header is not CSV (RFC 4180)", where=path)
    return names, _csv_records(lines, first, names)


def _csv_records(lines: Sequence[str], at: int, names: Sequence[str]) -> Iterator[Record]:
    while at < len(lines):
        values, end = _csv_record(lines, at)
        if values is not None and len(values) == len(names):
            yield at + 1, values
            at = end
        else:
            # A quote that is never closed swallows good rows: only the line where it stands is given up.
            yield at + 1, "not CSV (RFC 4180)" if values is None else _fields_problem(values, names)
            at += 1


def _csv_record(lines: Sequence[str], start: int) -> tuple[list[str] | None, int]:
    """The record that starts on this line (None: not CSV), and the number of the line after it."""
    if '"' not in lines[start]:
        return lines[start].removesuffix("\r").split(","), start + 1
    reader = csv.reader((lines[at] + "\n" for at in range(start, len(lines))), strict=True)
    try:
        return next(reader), start + reader.line_num
    except csv.Error:
        return None, start + 1


def _json_lines(raw: bytes, path: Path, wanted: Collection[str]) -> Table:
    found = [_json_object(line) for line in _lines(raw, path)]
    names = list(dict.fromkeys(name for item in found if isinstance(item, dict) for name in item))
    if not names:
        raise InputError("no line is a JSON object", where=path, fix="write one object a line")
    return names, (
        (number, item if isinstance(item, str) else [item.get(name) for name in names])
        for number, item in enumerate(found, start=1)
    )


def _json_object(line: str) -> dict[str, Any] | str:
    if not line.strip():
        return "empty line"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return character_problem(line) or "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _parquet(raw: bytes, path: Path, wanted: Collection[str]) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"is not a Parquet file ({error})", where=path) from error
    values = [
        _parquet_values(column) if name in wanted else itertools.repeat(None, table.num_rows)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return list(table.column_names), enumerate(zip(*values, strict=True), start=1)


def _parquet_values(column: Any) -> list[Any]:
    import pyarrow.types

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast("large_binary")  # to_pylist would stop at the first broken string
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in column.to_pylist()
    ]


_FORMATS: dict[str, Callable[[bytes, Path, Collection[str]], Table]] = {
    ".tsv": _tsv,
    ".txt": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json-lines": _json_lines,
    ".parquet": _parquet,
}
