"""A file to its columns and records, a block at a time: one function a format. Their meaning is not known here."""

from __future__ import annotations

import csv
import itertools
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.texts import character_problem, composed

BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20
PARQUET_ROWS = 10_000

Record = tuple[int, Sequence[Any] | str]
"""The line on which it starts, and its values in the order of the columns, or why it is none."""

Table = tuple[list[str], Iterable[Record]]
"""Names of the columns, and the records, which are read from the file as they are asked for."""


def read_table(path: Path, wanted: Collection[str]) -> Table:
    """The columns and records of a file, whose format its suffix names.

    Text is UTF-8 with or without a byte order mark; bytes that are none become lone surrogates
    (surrogateescape), so that one broken row does not cost the others.

    Args:
        path: the file.
        wanted: columns whose values are needed, as `composed` has their names; of the others Parquet gives None.

    Raises:
        InputError: unknown suffix, or no header, object or Parquet table in it.
    """
    format_of = _FORMATS.get(path.suffix.lower())
    if format_of is None:
        known = ", ".join(_FORMATS)
        raise InputError(f"unknown kind of file {path.suffix!r}", where=path, fix=f"use one of {known}")
    return format_of(path, wanted)


def _lines(path: Path) -> Iterator[str]:
    r"""Lines without their `\n`; empty lines at the end are no lines.

    Not str.splitlines: reviews hold U+2028, U+0085 and other characters that end a line there.
    """
    blocks = _blocks(path)
    first = next(blocks)
    if character_problem(first[0]) is not None:
        raise InputError("the first line is not UTF-8 text", where=path, fix="write the file as UTF-8")
    return itertools.chain(first, itertools.chain.from_iterable(blocks))


def _blocks(path: Path) -> Iterator[list[str]]:
    with open(path, "rb") as file:
        rest = file.read(len(BOM)).removeprefix(BOM)
        while block := file.read(BLOCK):
            rest += block
            end = rest.rfind(b"\n", 0, len(rest.rstrip(b"\r\n")))
            if end >= 0:  # what follows may go on in the next block, or be the empty lines at the end
                yield rest[:end].decode("utf-8", "surrogateescape").split("\n")
                rest = rest[end + 1 :]
    yield rest.rstrip(b"\r\n").decode("utf-8", "surrogateescape").split("\n")


def _fields_problem(values: Sequence[str], names: Sequence[str]) -> str:
    return f"{len(values)} fields instead of {len(names)}" if any(values) else "empty line"


def _tsv(path: Path, wanted: Collection[str]) -> Table:
    rows = (line.removesuffix("\r").split("\t") for line in _lines(path))
    names = next(rows)
    return names, (
        (number, values if len(values) == len(names) else _fields_problem(values, names))
        for number, values in enumerate(rows, start=2)
    )


def _csv(path: Path, wanted: Collection[str]) -> Table:
    lines = Lines(_lines(path))
    names, taken = _csv_record(lines)
    if names is None:
        raise InputError("the header is not CSV (RFC 4180)", where=path)
    lines.drop(taken)
    return names, _csv_records(lines, taken + 1, names)


class Lines:
    """Lines that can be looked at before they are taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._ahead = lines, deque[str]()

    def __iter__(self) -> Iterator[str]:
        """From the first one that was not dropped."""
        for at in itertools.count():
            if at == len(self._ahead):
                try:
                    self._ahead.append(next(self._lines))
                except StopIteration:
                    return
            yield self._ahead[at]

    def drop(self, count: int) -> None:
        """The first `count` lines, which were looked at, are done with."""
        for _ in range(count):
            self._ahead.popleft()


def _csv_records(lines: Lines, at: int, names: Sequence[str]) -> Iterator[Record]:
    while True:
        values, taken = _csv_record(lines)
        if not taken:
            return
        if values is not None and len(values) == len(names):
            yield at, values
        else:
            # A quote that is never closed swallows good rows: only the line where it stands is given up.
            yield at, "not CSV (RFC 4180)" if values is None else _fields_problem(values, names)
            taken = 1
        lines.drop(taken)
        at += taken


def _csv_record(lines: Lines) -> tuple[list[str] | None, int]:
    """The record that begins with the first line (None: not CSV), and its number of lines; 0 at the end."""
    first = next(iter(lines), None)
    if first is None:
        return None, 0
    if '"' not in first:
        return first.removesuffix("\r").split(","), 1
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return None, 1


def _json_lines(path: Path, wanted: Collection[str]) -> Table:
    names: dict[str, None] = {}
    missing = set(wanted)
    for item in map(_json_object, _lines(path)):
        new = [name for name in item if name not in names] if isinstance(item, dict) else []
        names |= dict.fromkeys(new)
        missing -= set(map(composed, new))
        if not missing:
            break
    if not names:
        raise InputError("no line is a JSON object", where=path, fix="write one object a line")
    return list(names), (
        (number, item if isinstance(item, str) else [item.get(name) for name in names])
        for number, item in enumerate(map(_json_object, _lines(path)), start=1)
    )


def _json_object(line: str) -> dict[str, Any] | str:
    if not line.strip():
        return "empty line"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return character_problem(line) or "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _parquet(path: Path, wanted: Collection[str]) -> Table:
    import pyarrow.parquet

    def refusal(error: Exception) -> InputError:
        return InputError(f"is not a Parquet file ({error})", where=path)

    def rows() -> Iterator[Sequence[Any]]:
        try:
            needed = [name for name in names if composed(name) in wanted]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=needed):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                values = [
                    _parquet_values(columns[name]) if name in columns else itertools.repeat(None, batch.num_rows)
                    for name in names
                ]
                yield from zip(*values, strict=True)
        except Exception as error:
            raise refusal(error) from error

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
    except Exception as error:  # for a damaged file pyarrow raises all kinds of exceptions, not only its own
        raise refusal(error) from error
    return names, enumerate(rows(), start=1)


def _parquet_values(column: Any) -> list[Any]:
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
